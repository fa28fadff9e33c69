"""How files name the weights of motion modules, and what follows from names and shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from ..errors import UserError
from ..model.config import StackConfig
from ..model.layers import sinusoids
from ..model.sites import Site

Shapes = Mapping[str, tuple[int, ...]]
Change = Callable[[torch.Tensor], torch.Tensor]

_TABLE = "positions.table"
_ATTENTION = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias")
_MLP = (("ff.net.0.proj", "mlp.proj"), ("ff.net.2", "mlp.out"))
_SPATIAL = re.compile(
    r"^(conv_in|conv_out|conv_norm_out|time_embedding|add_embedding|class_embedding)\.|"
    r"^(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(resnets|attentions|downsamplers|upsamplers)\.\d+\."
)


@dataclass
class Plan:
    """A stack's settings, and from which tensor of the file each of its weights comes; `changes` are applied to single ones."""

    config: StackConfig
    sources: dict[str, str]
    changes: dict[str, Change] = field(default_factory=dict)

    def weights(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The stack's state dict. A position table that the file leaves out is made of sinusoids, as its program does."""
        result = {}
        for ours, theirs in self.sources.items():
            if theirs in tensors:
                result[ours] = self.changes[ours](tensors[theirs]) if ours in self.changes else tensors[theirs]
            else:
                norm = tensors[self.sources[ours.removesuffix(_TABLE) + "norm.weight"]]
                result[ours] = sinusoids(self.config.layers.max_frames or 0, len(norm), "cpu")
        return result


@dataclass(frozen=True)
class Naming:
    """Where a layout keeps its modules: `{place}.{folder}.{j}{inside}`, the names in one of two styles."""

    folder: str
    inside: str
    blocks_of_attentions: bool
    table: str

    def find(self, shapes: Shapes) -> list[tuple[str, str]]:
        """(prefix, site name) of each module in a file."""
        pattern = re.compile(rf"^((down_blocks|up_blocks)\.(\d+)|mid_block)\.{self.folder}\.(\d+){re.escape(self.inside)}\.")
        found: dict[str, str] = {}
        for name in shapes:
            if match := pattern.match(name):
                side, level, j = match.group(2), match.group(3), match.group(4)
                place = "mid" if side is None else f"{side.removesuffix('_blocks')}.{level}"
                found[match.group(0)] = f"{place}.layer.{j}"

        def order(item: tuple[str, str]) -> tuple[int, ...]:
            side, *rest = item[1].split(".")
            return (("down", "mid", "up").index(side), *(int(part) for part in rest if part.isdigit()))

        return sorted(found.items(), key=order)

    def names(self, blocks: int, positions: bool) -> Iterator[tuple[str, str]]:
        """(name in the file, name in our module), both after the prefix."""
        for part in ("norm", "proj_in", "proj_out"):
            yield from _both(part, part)
        for k in range(blocks):
            theirs, ours = f"transformer_blocks.{k}", f"blocks.{k}"
            for n in range(2):
                name = f"{theirs}.attention_blocks.{n}" if self.blocks_of_attentions else f"{theirs}.attn{n + 1}"
                norm = f"{theirs}.norms.{n}" if self.blocks_of_attentions else f"{theirs}.norm{n + 1}"
                for weight in _ATTENTION:
                    yield f"{name}.{weight}", f"{ours}.attentions.{n}.attention.{weight.replace('.0.', '.')}"
                yield from _both(norm, f"{ours}.attentions.{n}.norm")
                if positions:
                    table = f"{name}.{self.table}" if self.blocks_of_attentions else f"{theirs}.{self.table}"
                    yield table, f"{ours}.attentions.{n}.{_TABLE}"
            for a, b in _MLP:
                yield from _both(f"{theirs}.{a}", f"{ours}.{b}")
            yield from _both(f"{theirs}.ff_norm" if self.blocks_of_attentions else f"{theirs}.norm3", f"{ours}.mlp_norm")


ORIGINAL = Naming("motion_modules", ".temporal_transformer", True, "pos_encoder.pe")
DIFFUSERS = Naming("motion_modules", "", False, "pos_embed.pe")
HOTSHOT = Naming("temporal_attentions", "", True, "pos_encoder.positional_encoding")


def _both(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    for kind in ("weight", "bias"):
        yield f"{theirs}.{kind}", f"{ours}.{kind}"


@dataclass(frozen=True)
class Modules:
    """What the motion modules of a file are."""

    sites: tuple[Site, ...]
    sources: dict[str, str]
    changes: dict[str, Change]
    blocks: int
    positions: int
    widths: tuple[int, ...]

    @property
    def has_mid(self) -> bool:
        """Whether one stands in the middle block."""
        return any(site.name.startswith("mid.") for site in self.sites)


def read_modules(shapes: Shapes, naming: Naming, length: int = 32) -> Modules:
    """The motion modules that a file has. `length`: rows of the table of positions where the file leaves it out."""
    found = naming.find(shapes)
    inside = [name[len(prefix) :] for prefix, _ in found[:1] for name in shapes if name.startswith(prefix)]
    blocks = 1 + max((int(name.split(".")[1]) for name in inside if name.startswith("transformer_blocks.")), default=0)
    tables = [shape for name, shape in shapes.items() if name.endswith(naming.table) and len(shape) == 3]
    sources: dict[str, str] = {}
    changes: dict[str, Change] = {}
    sites: list[Site] = []
    for prefix, place in found:
        for theirs, ours in naming.names(blocks, True):
            name = f"layers.{place.replace('.', '-')}.{ours}"
            sources[name] = prefix + theirs
            if ours.endswith(_TABLE):
                changes[name] = lambda table: table[0].clone()  # one in the file may be that of two attentions
        sites.append(Site(place, "layer", next(iter(shapes.get(f"{prefix}norm.weight", ())), 0)))
    assert tables or not any(source in shapes for name, source in sources.items() if name.endswith(_TABLE))
    # of each level on the way down the first; sites come in their order
    widths = {site.name.split(".")[1]: site.channels for site in reversed(sites) if site.name.startswith("down.")}
    length = tables[0][1] if tables else length
    if length < 1:
        raise UserError("a table of positions without a row")
    return Modules(tuple(sites), sources, changes, blocks, length, tuple(reversed(widths.values())))


Place = tuple[str, int, int]
"""A side, a level of it, and which module in there."""


def missing_modules(sites: Iterable[Site]) -> list[str]:
    """Sites that a whole set of modules has besides. Public ones have two modules in each level of the way down and three on the
    way up, for SD 1.5's levels or SDXL's. In sets of other widths each level on the way up has one more than its twin, and those
    behind attentions are only in levels that have attentions."""
    found: dict[str, dict[Place, int]] = {}
    for site in sites:
        side, *inner = site.name.split(".")
        found.setdefault(site.kind, {}).update(
            {(side, int(inner[0]), int(inner[2])): site.channels} if side in ("down", "up") else {}
        )
    depth = 1 + max((level for own in found.values() for _, level, _ in own), default=0)
    missing = []
    for kind, own in found.items():
        if kind != "conv":
            missing += [f"{side}.{level}.{kind}.{j}" for side, level, j in sorted(_whole(kind, own, depth) - own.keys())]
    return missing


def _whole(kind: str, own: Mapping[Place, int], depth: int) -> set[Place]:
    """Where a whole set has modules of this kind, of which `own` are there with their widths."""
    known = []
    for widths in ((320, 640, 1280), (320, 640, 1280, 1280)):
        last = len(widths) - 1
        levels = list(enumerate(widths))[: last if kind == "attention" else None]
        places = {("down", level, j): width for level, width in levels for j in range(2)}
        places |= {("up", last - level, j): width for level, width in levels for j in range(3)}
        if own.items() <= places.items():
            known.append({*places})
    if known:
        return min(known, key=lambda places: len(places - own.keys()))
    some = {level if side == "down" else depth - 1 - level for side, level, _ in own}
    wanted: set[Place] = set()
    for level in some if kind == "attention" else range(depth):
        sides = (("down", level), ("up", depth - 1 - level))
        counts = [max((j + 1 for *place, j in own if tuple(place) == side), default=0) for side in sides]
        count = max(counts[0], counts[1] - 1, 1)
        wanted |= {(*sides[0], j) for j in range(count)} | {(*sides[1], j) for j in range(count + 1)}
    first, end = own.get(("down", 0, 0)), own.get(("up", depth - 1, 0))
    if first != end and end in [own.get(("down", level, 0)) for level in range(1, depth)]:
        wanted.add(("down", depth, 0))  # the way up ends before it is as wide as the way down begins: both were cut
    return wanted


def is_spatial(name: str) -> bool:
    """Whether a weight belongs to the image model, in diffusers' layout."""
    return _SPATIAL.match(name) is not None

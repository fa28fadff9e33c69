"""Exact detectors for the little world: what a video shows, without learning, and without knowing what was asked.

The ground is the one whose colours explain the border best, the colour that of the palette which most other pixels have. Each
pixel is taken apart into ground and figure, the figure is the drawing that fits that best, and its place, angle and scale are
fitted in every frame by least squares. The camera's way is that of the ground from frame to frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError
from . import grounds, shapes, world
from .figures import FIGURES, PLAIN, SYMMETRY

SEED = 987_654  # of the held-out clips
NOTHING = "nothing"
FRONTS = tuple(f for f in FIGURES if f not in (*PLAIN, "rocket", "balloon"))
"""Figures that look different in a mirror."""
STILL = 0.25  # share of a motion's ordinary amount below which it is none
NAN = float("nan")
_LEVEL = 2 / 255
_UNLIKE = 40 * _LEVEL  # distance from all of a ground's colours from which on something stands out
_FAINT = 50 * _LEVEL  # distance of figure and ground below which a pixel's coverage cannot be told
_FEWEST = 40  # pixels of a figure's colour, below which there is none


@dataclass(frozen=True)
class Motion:
    """One of `world.MOTIONS`, and its amount: pixels or degrees a second, times a second, or a jump's height in pixels."""

    kind: str
    slowly: bool
    amount: float


@dataclass(frozen=True)
class Reading:
    """What a video of f frames shows. Names are of the first frame. `centre` (f, 2) in pixels of the frame, `angle` (f,)
    clockwise, `scale` (f,) times the size; `overlap` (f,) of all that stands out with the drawing, 0..1; `camera` (f, 2) and
    `zoom` (f,) as in `world.Path`. `ground_flicker`: standard deviation over frames of the ground's mean colour, in levels
    0..255, without what comes into sight or goes; the others see `consistency`."""

    figure: str
    colour: str
    ground: str
    size: str
    mirrored: bool
    centre: Tensor
    angle: Tensor
    scale: Tensor
    overlap: Tensor
    camera: Tensor
    zoom: Tensor
    motion: Motion
    edge_error: float = NAN
    wobble: float = NAN
    roundness: float = NAN
    area: float = NAN
    ground_flicker: float = NAN
    colour_flicker: float = NAN

    @property
    def whole(self) -> Tensor:
        """In which frames there is one whole figure and nothing else, (f,): see `least`."""
        return self.overlap >= least().get((self.figure, self.size), math.inf)


def read(video: Tensor, times: Tensor, known: world.Clip | None = None) -> Reading:
    """Read a video (f, 3, 64, 64) in -1..1 of frames at `times` (f,) seconds. `known`: what is seen is taken from this clip,
    and only where it is, and how steadily it is drawn, from the video."""
    if video.shape != (len(times), 3, shapes.SIZE, shapes.SIZE):
        wanted = (len(times), 3, shapes.SIZE, shapes.SIZE)
        raise UserError(f"the detectors read videos {wanted}, found {tuple(video.shape)}: give one time a frame")
    video, times = video.detach().float().cpu(), times.float().cpu()
    ground = known.ground if known else _ground(video[0])
    drawn, pose = (known, None) if known else _identify(video[0], ground)
    if drawn is None:
        camera, zoom, ground_flicker = _camera(video, torch.zeros(len(video), *video.shape[2:]), ground)
        away = torch.full((len(video),), NAN)
        nothing = (NOTHING, NOTHING, ground, NOTHING, False, away[:, None].expand(-1, 2), away, away, 0 * times)
        return Reading(*nothing, camera, zoom, Motion(NOTHING, False, NAN), ground_flicker=ground_flicker)
    poses, seen = _track(video, drawn, pose)
    covered = torch.stack([_draw(drawn, p[None])[0][0, 0] for p in poses])
    camera, zoom, ground_flicker = _camera(video, covered, ground)
    overlap = torch.stack([_overlap(frame, drawn, a, c) for frame, a, c in zip(video, seen, covered, strict=True)])
    motion = _motion(times, poses[:, :2], poses[:, 2], poses[:, 3], camera, zoom)
    figures = consistency(video, times, drawn, poses, seen, known)
    return Reading(
        drawn.figure, drawn.colour, ground, drawn.size, drawn.mirrored, poses[:, :2], poses[:, 2], poses[:, 3].exp(), overlap,
        camera, zoom, motion, ground_flicker=ground_flicker, **figures,
    )  # fmt: skip


@cache
def _samples(ground: str) -> Tensor:
    """Colours (k, 3) of places of a ground that a frame may show."""
    places = torch.rand(1, 4096, 1, 2, generator=torch.Generator().manual_seed(0)) * grounds.TILE
    if ground == "beach":
        places[..., 1] = places[..., 1] / grounds.TILE * 96 - 16
    return world.ground_at(ground, places)[0, :, :, 0].T[: 1 if ground in grounds.PLAIN else None]


@cache
def _colours(ground: str) -> Tensor:
    """Few of them (k, 3) that are far from each other, so that each of the others is near one."""
    every = _samples(ground)
    chosen = [every.median(0).values]
    distance = (every - chosen[0]).norm(dim=1)
    while distance.max() > 8 * _LEVEL and len(chosen) < 32:
        chosen.append(every[distance.argmax()])
        distance = torch.minimum(distance, (every - chosen[-1]).norm(dim=1))
    return torch.stack(chosen)


def _ground(image: Tensor) -> str:
    """The ground under which the border's pixels are likeliest."""
    ring = torch.ones(shapes.SIZE, shapes.SIZE, dtype=torch.bool)
    ring[3:-3, 3:-3] = False
    pixels = image[:, ring].T[::3]
    near = {g: torch.cdist(pixels, _samples(g)[::4]).div(8 * _LEVEL).square().mul(-0.5).exp().mean(1) for g in grounds.GROUNDS}
    likely = {g: float((n + 1e-4).log().sum()) for g, n in near.items()}
    return max(likely, key=likely.__getitem__)


def _unmix(image: Tensor, body: Tensor, ground: str) -> tuple[Tensor, Tensor]:
    """How much of each pixel a figure of the colours `body` (3, 64, 64) or (3, 1, 1) covers, (64, 64), and how far apart figure
    and ground are there. Of the ground's colours it is over that one which leaves least unexplained."""
    under = _colours(ground)[:, :, None, None]
    offset, axis = image - under, body - under
    length = axis.square().sum(1)
    share = ((offset * axis).sum(1) / length.clamp(min=1e-6)).clamp(0, 1)
    left = (offset - share[:, None] * axis).square().sum(1) + 60 * _LEVEL**2 * share
    best = left.argmin(0, keepdim=True)
    return share.gather(0, best)[0], length.expand(len(under), *image.shape[1:]).gather(0, best)[0].sqrt()


def _apart(image: Tensor, ground: str) -> Tensor:
    """Distance of each pixel's colour from the ground's nearest, (64, 64)."""
    return torch.cdist(image.flatten(1).T, _colours(ground)).amin(1).view(image.shape[1:])


def _draw(clip: world.Clip, poses: Tensor) -> tuple[Tensor, Tensor]:
    """Coverage by a figure, its light and its dark details (k, 3, 64, 64), and places in it, at poses (k, 4): x, y, angle, and
    the scale's log."""
    k = len(poses)
    where = world.Path(poses[:, :2], poses[:, 2], poses[:, 3].exp(), torch.zeros(k, 2), torch.ones(k))
    return clip._layers(where, shapes.pixel_grid().expand(k, -1, -1, -1))


def _body(clip: world.Clip, layers: Tensor, local: Tensor) -> Tensor:
    """The figure's colours (3, 64, 64) at one pose, beyond its outline too."""
    colour = shapes.rgb(world.PALETTE[clip.colour]).view(3, 1, 1)
    if clip.figure not in PLAIN:
        colour = ((colour + 1) * (1.04 - 0.13 * local[0, ..., 1].clamp(-1, 1)) - 1).clamp(-1, 1)
    colour = colour + layers[0, 1] * (0.9 - colour)
    return colour + layers[0, 2] * (-0.8 - colour)


def _bare(layers: Tensor) -> Tensor:
    """Coverage (k, 64, 64) by what has the figure's own colour."""
    return layers[:, 0] * (1 - layers[:, 1]) * (1 - layers[:, 2])


_KINDS = [
    (figure, size, mirrored)
    for figure in FIGURES
    for size in world.RADIUS
    for mirrored in (False, True)[: 1 + (figure in FRONTS)]
]


def _kind(kind: tuple[str, str, bool], colour: str = "red", ground: str = "white") -> world.Clip:
    figure, size, mirrored = kind
    return world.Clip(figure, colour, ground, size, "still", mirrored=mirrored)


@cache
def _templates() -> Tensor:
    middle = torch.tensor([[shapes.SIZE / 2, shapes.SIZE / 2, 0.0, 0.0]])
    return torch.cat([_bare(_draw(_kind(kind), middle)[0]) for kind in _KINDS])


def _place(seen: Tensor, templates: Tensor) -> tuple[Tensor, Tensor]:
    """Best overlap (k,) of templates (k, 64, 64), drawn in the middle, with what is seen (64, 64), and their centres (k, 2)."""
    side, half = 2 * shapes.SIZE, shapes.SIZE // 2
    spectrum = torch.fft.rfft2(F.pad(torch.stack([seen, torch.ones_like(seen)]), (half,) * 4))
    product = spectrum[:, None] * torch.fft.rfft2(templates, s=(side, side)).conj()
    shared, inside = torch.fft.irfft2(product, s=(side, side))[..., : shapes.SIZE + 1, : shapes.SIZE + 1]
    best, at = (shared / (seen.sum() + inside - shared).clamp(min=20)).flatten(1).max(1)
    return best, torch.stack([at % (shapes.SIZE + 1), at // (shapes.SIZE + 1)], -1).float()


@cache
def least() -> dict[tuple[str, str], float]:
    """By figure and size the overlap from which what is seen is nearer to that figure than to any other: half way between 1 and
    what the drawing likest to it reaches. 0.92 for circle and square, which are much alike, 0.72 to 0.86 for the others."""
    found: dict[tuple[str, str], float] = {}
    templates = _templates()
    for (figure, size, mirrored), own in zip(_KINDS, templates, strict=True):
        if not mirrored:
            others = [
                overlap for overlap, kind in zip(_place(own, templates)[0].tolist(), _KINDS, strict=True) if kind[0] != figure
            ]
            found[figure, size] = (1 + max(others)) / 2
    return found


def _iou(a: Tensor, b: Tensor) -> float:
    return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum().clamp(min=1e-6))


_STEPS = torch.diag(torch.tensor([0.25, 0.25, 1.0, 0.02]))
_LONGEST = torch.tensor([1.5, 1.5, 8.0, 0.08])


def _fit(clip: world.Clip, pose: Tensor, seen: Tensor, weight: Tensor, bare: bool, rounds: int) -> Tensor:
    """The pose (4,) near `pose` at which the drawing is nearest to what is seen, by Gauss and Newton."""
    free = torch.tensor([1.0, 1.0, 0.0 if SYMMETRY.get(clip.figure) == 0 else 1.0, 1.0])
    for _ in range(rounds):
        layers = _draw(clip, torch.cat([pose[None], pose + _STEPS]))[0]
        covered = _bare(layers) if bare else layers[:, 0]
        near = (weight * (F.max_pool2d(covered[:1], 9, 1, 4)[0] > 0)).flatten()
        slope = (covered[1:] - covered[0]).flatten(1) / _STEPS.diagonal()[:, None] * free[:, None]
        matrix = (slope * near) @ slope.T
        matrix = matrix + torch.diag(1e-3 * matrix.diagonal() + 1e-4)
        step = torch.linalg.solve(matrix, (slope * near) @ (seen - covered[0]).flatten())
        pose = pose + step * (_LONGEST / step.abs().clamp(min=1e-9)).amin().clamp(max=1)
        if (step.abs() < _LONGEST / 200).all():
            break
    return pose


@cache
def _shades() -> Tensor:
    """The shades (8, 3, 3) that a figure of each colour may have."""
    colours = torch.stack([shapes.rgb(colour) for colour in world.PALETTE.values()])[:, None]
    return ((colours + 1) * torch.tensor([[0.92], [1.0], [1.1]]) - 1).clamp(max=1)


def _identify(image: Tensor, ground: str) -> tuple[world.Clip | None, Tensor]:
    """Figure, colour, size and side of one image, and its pose; None where nothing stands out."""
    palette = _shades()
    distance, colour = torch.cdist(image.flatten(1).T, palette.flatten(0, 1)).view(-1, *palette.shape[:2]).amin(2).min(1)
    own = (distance < _UNLIKE) & (_apart(image, ground).flatten() > distance)
    counts = torch.bincount(colour[own], minlength=len(palette))
    if counts.max() < _FEWEST:
        return None, torch.zeros(4)
    top = int(counts.argmax())
    shares = torch.stack([_unmix(image, shade.view(3, 1, 1), ground)[0] for shade in palette[top]])
    seen = shares.amax(0)
    best, places = _place(seen, _templates())
    found = []
    for k in (best >= best.max() - 0.1).nonzero().flatten().tolist():
        one = _kind(_KINDS[k], tuple(world.PALETTE)[top], ground)
        pose = _fit(one, torch.cat([places[k], torch.zeros(2)]), seen, torch.ones_like(seen), True, 4)
        found.append((_iou(seen, _bare(_draw(one, pose[None])[0])[0]), k, one, pose))
    _, _, one, pose = max(found)
    return one, pose


def _track(video: Tensor, clip: world.Clip, pose: Tensor | None) -> tuple[Tensor, Tensor]:
    """Poses (f, 4) of a figure in all frames, and how much of each pixel it is seen to cover, (f, 64, 64)."""
    poses: list[Tensor] = []
    every = []
    colour = shapes.rgb(world.PALETTE[clip.colour]).view(3, 1, 1)
    for image in video:
        if pose is None or poses:
            start = torch.tensor([shapes.SIZE / 2, shapes.SIZE / 2, 0.0, 0.0])
            if poses:
                start[2:] = (2 * poses[-1] - poses[max(len(poses) - 2, 0)])[2:]
            seen, _ = _unmix(image, colour, clip.ground)
            place = _place(seen, _bare(_draw(clip, start[None])[0]))[1][0]
            pose = _fit(clip, torch.cat([place, start[2:]]), seen, torch.ones_like(seen), True, 4)
        for rounds in (4, 4, 0):
            layers, local = _draw(clip, pose[None])
            seen, contrast = _unmix(image, _body(clip, layers, local), clip.ground)
            clear = contrast > _FAINT
            if rounds:
                pose = _fit(clip, pose, seen, clear.float(), False, rounds)
        poses.append(pose)
        every.append(torch.where(clear, seen, layers[0, 0]))
    return torch.stack(poses), torch.stack(every)


def _overlap(image: Tensor, clip: world.Clip, seen: Tensor, covered: Tensor) -> Tensor:
    """Of all that stands out with the drawing. Away from it specks do not count: less than half of the 9 pixels around."""
    near = F.max_pool2d(covered[None], 5, 1, 2)[0] > 0
    other = (_apart(image, clip.ground) > _UNLIKE) & ~near
    other = F.avg_pool2d(other[None].float(), 3, 1, 1)[0] > 0.5
    both, either = torch.minimum(seen, covered) * near, torch.maximum(seen, covered) * near
    return both.sum() / (either.sum() + other.sum()).clamp(min=1e-6)


def _camera(video: Tensor, covered: Tensor, ground: str) -> tuple[Tensor, Tensor, float]:
    """How far the camera has gone (f, 2), how near it has come (f,), from frame to frame by least squares where no figure is;
    and how much the ground's colour changes meanwhile, in levels."""
    grid, middle = shapes.pixel_grid(), shapes.SIZE / 2
    free = (F.max_pool2d(covered[:, None], 5, 1, 2)[:, 0] == 0).float()
    camera, zoom, tones = [torch.zeros(2)], [torch.tensor(1.0)], [torch.zeros(3)]
    for before, after, free_before, free_after in zip(video, video[1:], free, free[1:], strict=False):
        source = torch.cat([before, free_before[None]])
        moved = torch.zeros(3)
        for _ in range(1 if ground in grounds.PLAIN else 8):
            at = (grid - middle) * moved[2].exp() + moved[:2]
            looked = F.grid_sample(source[None], (at / middle)[None], padding_mode="zeros", align_corners=False)[0]
            inside = (at.abs() < middle - 1).all(-1)
            weight = (looked[3] > 0.999) * free_after * inside
            off = after - looked[:3]
            tone = (off * weight).sum((1, 2)) / weight.sum().clamp(min=1)
            if ground in grounds.PLAIN:
                break
            slope_y, slope_x = torch.gradient(looked[:3], dim=(1, 2))
            slope = torch.stack([slope_x, slope_y, slope_x * (grid - middle)[..., 0] + slope_y * (grid - middle)[..., 1]])
            off = (off - tone[:, None, None]).clamp(-60 * _LEVEL, 60 * _LEVEL)
            matrix = torch.einsum("ichw,jchw,hw->ij", slope, slope, weight)
            pull = torch.einsum("ichw,chw,hw->i", slope, off, weight)
            step = torch.linalg.solve(matrix + torch.diag(torch.tensor([1e-2, 1e-2, 1.0])), pull)
            moved = moved + step
            if (step.abs() < torch.tensor([0.01, 0.01, 3e-4])).all():
                break
        camera.append(camera[-1] + moved[:2] / zoom[-1])
        zoom.append(zoom[-1] / moved[2].exp())
        tones.append(tones[-1] + tone)
    flicker = float(torch.stack(tones).std(0, correction=0).mean()) / _LEVEL
    return torch.stack(camera), torch.stack(zoom), flicker


def _rate(times: Tensor, values: Tensor) -> Tensor:
    """Slope of a straight line through values (f, ...) at times (f,)."""
    centred = times - times.mean()
    return torch.tensordot(centred, values, 1) / centred.square().sum().clamp(min=1e-9)


def _motion(times: Tensor, seen: Tensor, angle: Tensor, growth: Tensor, camera: Tensor, zoom: Tensor) -> Motion:
    """What moves most, by its share of what a motion of this kind has. `growth`: log of the scale that is seen."""
    middle = shapes.SIZE / 2
    centre = (seen - middle) / zoom[:, None] + middle + camera
    speed, pan = _rate(times, centre), _rate(times, camera)
    turn, grow, near = (float(_rate(times, v)) for v in (angle, growth - zoom.log(), zoom.log()))
    hop = -world.path("jumps", False, (0.0, 0.0), times).centre
    hop, level = hop - hop.mean(0), centre - centre.mean(0)
    height = float(-(hop * level).sum() / hop.square().sum().clamp(min=1e-9)) * world.JUMP
    straight = float((level - (times - times.mean())[:, None] * speed).square().sum())
    jumps = float((level + hop * height / world.JUMP).square().sum()) < straight and height > 0
    shares = {
        "jumps": height / world.JUMP if jumps else 0.0,
        "moves": 0.0 if jumps else float(speed.norm()) / world.SPEED,
        "turns": abs(turn) / world.TURN,
        "grows": abs(grow) / math.log(world.GROWTH),
        "pans": float(pan.norm()) / world.SPEED,
        "zooms": abs(near) / math.log(world.ZOOM),
    }
    kind = max(shares, key=shares.__getitem__)
    if not shares[kind] >= STILL:
        return Motion("still", False, 0.0)
    if kind in ("moves", "pans"):
        way = speed if kind == "moves" else pan
        direction = max(world.DIRECTIONS, key=lambda d: float(way @ torch.tensor(world.DIRECTIONS[d], dtype=torch.float32)))
        slow = shares[kind] < (1 + world.SLOWLY) / 2
        return Motion(direction if kind == "moves" else f"pans {direction}", slow and kind == "moves", float(way.norm()))
    if kind == "grows":
        return Motion("grows" if grow > 0 else "shrinks", False, math.exp(grow))
    if kind == "zooms":
        return Motion("zooms in" if near > 0 else "zooms out", False, math.exp(near))
    return Motion(kind, False, height if kind == "jumps" else turn)


def consistency(
    video: Tensor, times: Tensor, clip: world.Clip, poses: Tensor, seen: Tensor, known: world.Clip | None = None
) -> dict[str, float]:
    """How steadily a figure is drawn, of all frames. `edge_error`: mean distance in pixels of the outline seen from the
    drawing's. `wobble`: standard deviation of the outline over frames, in pixels, without place, angle and steady growth.
    `roundness` of circles: ratio of their axes. `area`: its coefficient of variation, without growth that is known or steady.
    `colour_flicker`: standard deviation over frames of the figure's median colour, in levels 0..255."""
    layers, local = _draw(clip, poses)
    covered = layers[:, 0]
    band = F.max_pool2d(covered[:, None], 7, 1, 3)[:, 0] > 0
    length = ((covered > 0) & (covered < 1)).sum((1, 2)).clamp(min=1)
    result = {"edge_error": float((((seen - covered).abs() * band).sum((1, 2)) / length).mean())}
    steady = poses.clone()
    steady[:, 3] = poses[:, 3].mean() + (times - times.mean()) * _rate(times, poses[:, 3])
    result["wobble"] = _wobble(clip, steady, seen)
    if known is not None:
        where = known.path(times)
        steady[:, 3] = (where.scale * where.zoom).log()
    area = (seen * band).sum((1, 2)) / _draw(clip, steady)[0][:, 0].sum((1, 2)).clamp(min=1)
    result["area"] = float(area.std(correction=0) / area.mean().clamp(min=1e-6))
    if clip.figure == "circle":
        edge = covered.clone()
        edge[:, 1:-1, 1:-1] = 0
        whole = [_axes(one) for one, cut in zip(seen * band, edge.sum((1, 2)) > 0, strict=True) if not cut]
        result["roundness"] = sum(whole) / len(whole) if whole else NAN
    inner = -F.max_pool2d(-_bare(layers)[:, None], 3, 1, 1)[:, 0] > 0.99
    tones = [frame[:, own].median(1).values for frame, own in zip(video, inner, strict=True) if own.any()]
    result["colour_flicker"] = float(torch.stack(tones).std(0, correction=0).mean()) / _LEVEL if tones else NAN
    return result


def _wobble(clip: world.Clip, poses: Tensor, seen: Tensor) -> float:
    """Standard deviation over frames of where the outline is, along it on average: what is seen beyond the drawing less what is
    lacking, over the outline's length in windows of 5 pixels, all as seen from the figure."""
    grid, middle, k = shapes.pixel_grid() - shapes.SIZE / 2, shapes.SIZE / 2, len(poses)
    cos, sin = (getattr(torch.deg2rad(poses[:, 2]), name)()[:, None, None] for name in ("cos", "sin"))
    x, y = grid.unbind(-1)
    scale = poses[:, 3].exp().view(k, 1, 1, 1)
    at = torch.stack([cos * x - sin * y, sin * x + cos * y], -1) * scale + poses[:, None, None, :2]
    inside = ((at > 2.5) & (at < shapes.SIZE - 2.5)).all(-1).all(0)
    covered = _draw(clip, poses)[0][:, 0]
    beyond = F.grid_sample((seen - covered)[:, None], at / middle - 1, align_corners=False) * scale
    drawing = _draw(clip, torch.tensor([[middle, middle, 0.0, 0.0]]))[0][:, 0]
    outline = ((drawing > 0) & (drawing < 1) & inside).float()
    window = F.avg_pool2d(outline[None], 5, 1, 2)[0]
    shift = F.avg_pool2d(beyond * inside, 5, 1, 2)[:, 0] / window.clamp(min=0.04)
    return float((shift.std(0, correction=0) * outline[0]).sum() / outline.sum().clamp(min=1))


def _axes(seen: Tensor) -> float:
    """Ratio of the short to the long axis of what is seen (64, 64), from its second moments."""
    grid, total = shapes.pixel_grid(), seen.sum().clamp(min=1e-6)
    offset = grid - (grid * seen[..., None]).sum((0, 1)) / total
    spread = torch.linalg.eigvalsh(torch.einsum("hwi,hwj,hw->ij", offset, offset, seen) / total)
    return float((spread[0] / spread[1].clamp(min=1e-6)).clamp(min=0).sqrt())


AMOUNTS = {"jumps": world.JUMP, "turns": world.TURN, "grows": world.GROWTH, "shrinks": 1 / world.GROWTH,
           "zooms in": world.ZOOM, "zooms out": 1 / world.ZOOM, "still": 0.0}  # fmt: skip


def asked(clip: world.Clip) -> Motion:
    """A clip's own motion, with its amount."""
    slow = clip.slowly and clip.motion in world.DIRECTIONS
    return Motion(clip.motion, slow, AMOUNTS.get(clip.motion, world.SPEED * (world.SLOWLY if clip.slowly else 1.0)))


def right(reading: Reading, clip: world.Clip) -> dict[str, bool]:
    """Which parts of a video are as its clip says. A figure is right only if it is whole and alone in the first frame;
    `amount`: the motion, and within a quarter of its amount."""
    own, want = reading.motion, asked(clip)
    same = own.kind == want.kind
    share = own.amount / want.amount if want.amount else 1.0
    if own.kind in ("grows", "shrinks", "zooms in", "zooms out") and same:
        share = math.log(own.amount) / math.log(want.amount)
    parts = {name: getattr(reading, name) == getattr(clip, name) for name in ("colour", "ground", "size")}
    parts["figure"] = reading.figure == clip.figure and bool(reading.whole[0])
    if clip.figure in FRONTS:
        parts["mirrored"] = reading.mirrored == clip.mirrored
    return parts | {"motion": same, "amount": same and own.slowly == want.slowly and 0.75 <= share <= 1.25}


def check_reading(count: int, times: Tensor | None = None, noise: float = 0.0, blur: float = 0.0) -> dict[str, float]:
    """The detectors on `count` real videos that no training saw: shares of right answers, and means of the figures of
    consistency. `noise`: its standard deviation; `blur`: share of the mean of 9 pixels."""
    times = torch.arange(8) / 4 if times is None else times
    generator, found = torch.Generator().manual_seed(0), []
    for clip in world.clips(SEED, range(count), held_out=True):
        clip = world.posed(clip)
        video = clip.draw(times)
        video = video + blur * (F.avg_pool2d(F.pad(video, (1, 1, 1, 1), "replicate"), 3, 1) - video)
        video = video + noise * torch.randn(video.shape, generator=generator)
        found.append((clip, read(video, times)))
    rights = [right(reading, clip) for clip, reading in found]
    names = ("figure", "colour", "ground", "size", "mirrored", "motion", "amount")
    figures = {name: _mean([r[name] for r in rights if name in r]) for name in names}
    figures["whole"] = _mean([float(r.whole.float().mean()) for _, r in found])
    for name in ("edge_error", "wobble", "roundness", "area", "ground_flicker", "colour_flicker"):
        figures[name] = _mean([v for _, r in found if not math.isnan(v := getattr(r, name))])
    return figures


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else NAN

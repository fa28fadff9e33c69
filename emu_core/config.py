"""What a temporal stack is: frozen dataclasses, checked when made, written to and read from a checkpoint's metadata."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from .schedule import ScheduleConfig
from .sites import Site
from .temporal import AttentionKind, PositionKind

Role = Literal["F", "I"]
Channel = Literal["image", "mask"]


@dataclass(frozen=True)
class StackConfig:
    """The shape of a temporal stack and how it wants to be run.

    `sites` are the conv and attention sites that carry a layer. `contexts` are the widths of the text states of a site's
    spatial layers. `frames` and `fps` are what it was trained on; nothing in it depends on them. `channel_order` is that of
    the extra input channels. `text_guidance`, `image_guidance` and `steps` are what its maker recommends.
    """

    base: str
    latent_channels: int
    input_width: int
    sites: tuple[Site, ...]
    role: Role = "F"
    frames: int = 8
    fps: float = 4.0
    size: tuple[int, int] = (512, 512)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    channel_order: tuple[Channel, ...] = ("image", "mask")
    attentions: tuple[AttentionKind, ...] = ("self", "text")
    positions: tuple[PositionKind, ...] = ("rotary",)
    head_dim: int = 64
    mlp_ratio: int = 4
    kernel: int = 3
    image_noise: int = 0
    text_guidance: float = 7.5
    image_guidance: float = 2.0
    steps: int = 250
    stage: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.role not in ("F", "I"):
            raise ValueError(f"a stack's role must be F (video) or I (interpolation), found {self.role!r}")
        if sorted(self.channel_order) != ["image", "mask"]:
            raise ValueError(f"channel_order must hold image and mask, found {self.channel_order}")
        if set(self.attentions) - {"self", "text"}:
            raise ValueError(f"attentions must be self or text, found {self.attentions}")
        if set(self.positions) - {"rotary", "sinusoidal"}:
            raise ValueError(f"positions must be rotary or sinusoidal, found {self.positions}")
        if self.kernel % 2 != 1 or self.kernel < 1:
            raise ValueError(f"the temporal kernel must be odd, found {self.kernel}")
        if self.frames < 1 or not self.fps > 0:
            raise ValueError(f"frames and fps must be positive, found {self.frames} and {self.fps}")

    @property
    def extra_channels(self) -> int:
        """Input channels beside the noisy latents: the image's and the mask."""
        return self.latent_channels + 1

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StackConfig:
        """Rebuild from `to_dict`'s form, after JSON. Unknown or missing entries are refused."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown entries {', '.join(unknown)}")
        values = dict(values)
        try:
            values["sites"] = tuple(Site(s["name"], s["kind"], int(s["channels"]), tuple(s["contexts"])) for s in values["sites"])
            values["schedule"] = ScheduleConfig(**values["schedule"])
            for name in ("channel_order", "attentions", "positions", "size"):
                if name in values:
                    values[name] = tuple(values[name])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"missing or misshapen entry: {error}") from error

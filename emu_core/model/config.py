"""What a temporal stack is: frozen dataclasses, checked when made, written to and read from a checkpoint's metadata."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from .layers import AttentionKind, PositionKind
from .motion_module import MotionModuleConfig
from .schedule import ScheduleConfig
from .sites import Site

Role = Literal["F", "I"]
Channel = Literal["image", "mask", "affinity"]
Family = Literal["emu", "animatediff", "hotshot-xl", "pia", "fancyvideo", "modelscope"]
FAMILIES: tuple[Family, ...] = ("emu", "animatediff", "hotshot-xl", "pia", "fancyvideo", "modelscope")
ORDERS: tuple[tuple[Channel, ...], ...] = (("image", "mask"), ("mask", "image"), ("affinity", "image"), ("image", "affinity"), ())


@dataclass(frozen=True)
class StackConfig:
    """The shape of a temporal stack and how it wants to be run.

    `sites` are the sites that carry a layer. `contexts` are the widths of the text states of a site's spatial layers.
    `frames` and `fps` are what it was trained on; nothing in it depends on them. `channel_order` is that of the extra input
    channels: image and mask (given frames zero-padded), affinity and image (one given frame copied to all), or none for a
    stack that knows no image. `text_guidance`, `image_guidance` and `steps` are what its maker recommends.

    `mixing`: learned gives every layer a weight of what it adds; `shared_noise` is PYoCo's alpha, for the noise to start from.

    Of public checkpoints: `family` is which one; `motion` the shape of its layers, instead of `attentions`, `positions`,
    `head_dim`, `mlp_ratio` and `kernel`; `values` the numbers that are added to the time embedding, with their defaults;
    `text_width` that of the text states of the image model it was trained on, None for any.
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
    mixing: Literal["residual", "learned"] = "residual"
    shared_noise: float = 0.0
    image_noise: int = 0
    text_guidance: float = 7.5
    image_guidance: float = 2.0
    steps: int = 250
    stage: str = ""
    source: str = ""
    family: Family = "emu"
    motion: MotionModuleConfig | None = None
    values: tuple[tuple[str, float], ...] = ()
    text_width: int | None = None

    def __post_init__(self) -> None:
        if self.role not in ("F", "I"):
            raise ValueError(f"a stack's role must be F (video) or I (interpolation), found {self.role!r}")
        if self.channel_order not in ORDERS:
            raise ValueError(f"channel_order must be image and mask, affinity and image, or nothing, found {self.channel_order}")
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, found {self.family!r}")
        if set(self.attentions) - {"self", "text"}:
            raise ValueError(f"attentions must be self or text, found {self.attentions}")
        if set(self.positions) - {"rotary", "sinusoidal"}:
            raise ValueError(f"positions must be rotary or sinusoidal, found {self.positions}")
        if self.kernel % 2 != 1 or self.kernel < 1:
            raise ValueError(f"the temporal kernel must be odd, found {self.kernel}")
        if self.mixing not in ("residual", "learned") or not self.shared_noise >= 0:
            raise ValueError(
                f"mixing must be residual or learned and shared_noise not negative, found {self.mixing!r} and {self.shared_noise}"
            )
        if self.frames < 1 or not self.fps > 0:
            raise ValueError(f"frames and fps must be positive, found {self.frames} and {self.fps}")

    @property
    def extra_channels(self) -> int:
        """Input channels beside the noisy latents: the image's and the mask or affinity; 0 for a stack that knows no image."""
        return self.latent_channels + 1 if self.channel_order else 0

    @property
    def takes_image(self) -> bool:
        """Whether frames can be given."""
        return bool(self.channel_order)

    @property
    def max_frames(self) -> int | None:
        """The longest clip that its table of positions allows; None for no limit."""
        return self.motion.positions or None if self.motion else None

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
            if values.get("motion") is not None:
                values["motion"] = MotionModuleConfig(**values["motion"])
            values["values"] = tuple((str(name), float(number)) for name, number in values.get("values", ()))
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"missing or misshapen entry: {error}") from error

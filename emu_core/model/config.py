"""What a temporal stack is, in small frozen dataclasses that are checked when made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from ..errors import UserError
from .layers import Layers, LayerShape
from .schedule import ScheduleConfig
from .sites import Site

Role = Literal["F", "I"]
StackKind = Literal["full", "slim", "convolutions", "attention", "depthwise", "directed", "textless"]
Channel = Literal["image", "mask", "affinity"]
Family = Literal["emu", "animatediff", "animatediff-lightning", "animatelcm", "hotshot-xl", "pia", "fancyvideo", "modelscope"]
FAMILIES: tuple[Family, ...] = get_args(Family)
ORDERS: tuple[tuple[Channel, ...], ...] = (("image", "mask"), ("mask", "image"), ("affinity", "image"), ("image", "affinity"), ())


@dataclass(frozen=True)
class UNetShape:
    """The U-Net that a stack is for: the name of its architecture, channels of its latents (None: any), width behind its first
    convolution, and width of the text states that it reads (None: any)."""

    base: str = ""
    latent_channels: int | None = 4
    input_width: int = 320
    text_width: int | None = None


@dataclass(frozen=True)
class ClipShape:
    """The clips that a stack was trained on; nothing in it depends on them. `size` is (height, width) in pixels."""

    frames: int = 8
    fps: float = 4.0
    size: tuple[int, int] = (512, 512)

    def __post_init__(self) -> None:
        if self.frames < 1 or not self.fps > 0:
            raise UserError(f"frames and fps must be positive, found {self.frames} and {self.fps}")


@dataclass(frozen=True)
class SamplingConfig:
    """How a stack's maker recommends to sample. `image_noise` is the timestep of the noise on given latents; `shared_noise` is
    PYoCo's alpha, for the noise to start from; `sampler` a name of `sampling.SAMPLERS`. `past`: how many frames of a video's
    end it wants to be given to go on. `keeps_given`: given frames come out as they were given (`conditioning.keep_given`)."""

    steps: int = 250
    text_guidance: float = 7.5
    image_guidance: float = 2.0
    image_noise: int = 0
    shared_noise: float = 0.0
    sampler: str = "ddim"
    past: int = 1
    keeps_given: bool = False

    def __post_init__(self) -> None:
        if self.past < 1:
            raise UserError(f"past must be 1 or more frames, found {self.past}")
        if not self.shared_noise >= 0:
            raise UserError(f"shared_noise must not be negative, found {self.shared_noise}")
        if self.keeps_given and self.image_noise:
            raise UserError(f"given frames cannot be kept with noise on them, found image_noise {self.image_noise}: choose one")


@dataclass(frozen=True)
class Origin:
    """Where a stack comes from: the family of its layers, the stage of training, and a word on its source."""

    family: Family = "emu"
    stage: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise UserError(f"family must be one of {', '.join(FAMILIES)}, found {self.family!r}")


@dataclass(frozen=True)
class StackConfig:
    """The shape of a temporal stack and how it wants to be run.

    `sites` are the sites that carry a layer, and `layers` says which. `role` is F for videos, I for interpolation.
    `channel_order` is that of the extra input channels: image and mask (given frames zero-padded), affinity and image (one given
    frame copied to all), or none for a stack that knows no image. `values` are numbers that some public checkpoints add to the
    time embedding, with their defaults.
    """

    unet: UNetShape
    sites: tuple[Site, ...]
    role: Role = "F"
    layers: Layers = field(default_factory=LayerShape)
    channel_order: tuple[Channel, ...] = ("image", "mask")
    values: tuple[tuple[str, float], ...] = ()
    clip: ClipShape = field(default_factory=ClipShape)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    origin: Origin = field(default_factory=Origin)

    def __post_init__(self) -> None:
        if self.role not in ("F", "I"):
            raise UserError(f"a stack's role must be F (video) or I (interpolation), found {self.role!r}")
        if self.channel_order not in ORDERS:
            raise UserError(f"channel_order must be image and mask, affinity and image, or nothing, found {self.channel_order}")
        if self.channel_order and self.unet.latent_channels is None:
            raise UserError("a stack that takes pictures says how many channels their latents have, found none")
        if self.sampling.keeps_given and "mask" not in self.channel_order:
            raise UserError(f"frames are kept by a mask of those that are given, found the channels {self.channel_order}")

    @property
    def extra_channels(self) -> int:
        """Input channels beside the noisy latents: the image's and the mask or affinity; 0 for a stack that knows no image."""
        return (self.unet.latent_channels or 0) + 1 if self.channel_order else 0

    @property
    def takes_image(self) -> bool:
        """Whether frames can be given."""
        return bool(self.channel_order)

    def changed(self, **settings: Any) -> StackConfig:
        """A copy with some settings replaced, each by its own name, whichever part it belongs to: `changed(frames=16, steps=50)`.

        ValueError for a name that no part has.
        """
        own: dict[str, Any] = {f.name: settings.pop(f.name) for f in fields(self) if f.name in settings}
        for name in ("unet", "layers", "clip", "sampling", "origin"):
            part: Any = own.get(name, getattr(self, name))
            if inner := {f.name: settings.pop(f.name) for f in fields(part) if f.name in settings}:
                own[name] = dataclasses.replace(part, **inner)
        if settings:
            raise UserError(f"unknown settings of a stack: {', '.join(sorted(settings))}")
        return dataclasses.replace(self, **own)

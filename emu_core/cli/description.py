"""What a file or an architecture is, as plain facts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from ..base import inspect_base
from ..base.architectures import STACK_SETTINGS, build_unet
from ..checkpoint import read_config
from ..model.conditioning import AMOUNTS_OF_MOTION
from ..model.sites import find_sites
from ..model.stack import TemporalStack
from ..model_folder import BUNDLED
from ..weights import open_weights

RECOMMENDED = ("text_guidance", "image_guidance", "steps", "sampler")


def describe_architecture(name: str) -> dict[str, Any]:
    """Sites and parameter counts of an architecture and of a full stack on it, counted on the meta device."""
    unet = build_unet(name)
    with torch.device("meta"):
        stack = TemporalStack.for_unet(unet, base=name, **STACK_SETTINGS.get(name, {}))
    found = [site for site, _ in find_sites(unet).values()]
    carried = {site.name: site.kind for site in stack.config.sites}
    spatial, temporal = _parameters(unet), _parameters(stack)
    by_kind = Counter[str]()
    for place, kind in carried.items():
        by_kind[kind] += _parameters(stack.layers[place.replace(".", "-")])
    return {
        "config": name,
        "latent_channels": stack.config.unet.latent_channels,
        "extra_input_channels": stack.config.extra_channels,
        "spatial_parameters": spatial,
        "temporal_parameters": temporal,
        "temporal_convolution_parameters": by_kind["conv"],
        "temporal_attention_parameters": by_kind["attention"],
        "input_channel_parameters": _parameters(stack.conv_in),
        "video_model_parameters": spatial + temporal,
        "sites": {kind: sum(site.kind == kind for site in found) for kind in ("conv", "resnet", "attention", "block")},
        "site_list": [
            {"name": s.name, "kind": s.kind, "channels": s.channels, "contexts": list(s.contexts), "layer": s.name in carried}
            for s in found
        ],
    }


def _parameters(module: torch.nn.Module | None) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0


def describe_file(path: str | None, variant: str | None = None) -> dict[str, Any]:
    """What a stack's file, an image model's file or folder is, read without its weights. None: the bundled model. `variant`: see
    `read_config`."""
    place = Path(path) if path is not None else BUNDLED
    why = None
    if place.is_file():
        try:
            return _describe_stack(place, variant)
        except ValueError as error:
            why = error
    try:
        base = inspect_base(place)
    except ValueError:
        # why it is no stack says what it is, but of a broken checkpoint with a U-Net its own reader says more
        broken = place.suffix == ".safetensors" and "is a whole image or video model" in str(why)
        if why is None or (broken and "model.diffusion_model.input_blocks.0.0.weight" in open_weights(place).shapes):
            raise
        raise why from None
    facts: dict[str, Any] = {
        "file": str(place),
        "kind": f"image model ({'folder' if base.kind == 'folder' else 'single file'})",
        "family": base.family,
        "bytes": sum(base.parts.values()),
        "parts": base.parts,
        "schedule": vars(base.schedule),
    }
    stacks = sorted(place.glob("stack_*.safetensors")) if place.is_dir() else []
    return facts | {"stacks": [_describe_stack(s) for s in stacks]} if stacks else facts


def _describe_stack(path: Path, variant: str | None = None) -> dict[str, Any]:
    config = read_config(path, variant)
    with torch.device("meta"):
        parameters = _parameters(TemporalStack(config))
    takes = ["text"] if "text" in config.layers.kinds else ["text (through the image model)"]
    takes += ["any given frames"] if "mask" in config.channel_order else []
    takes += ["one given frame", f"motion: {'; '.join(AMOUNTS_OF_MOTION)}"] if "affinity" in config.channel_order else []
    takes += [f"{name} ({default:g})" for name, default in config.values]
    return {
        "file": str(path),
        "kind": "temporal stack",
        "family": config.origin.family,
        "role": {"F": "F (video)", "I": "I (interpolation)"}[config.role],
        "base": config.unet.base,
        "frames": config.clip.frames,
        "max_frames": config.layers.max_frames,
        "fps": config.clip.fps,
        "size": list(config.clip.size),
        "takes": takes,
        "temporal_parameters": parameters,
        "sites": len(config.sites),
        "schedule": vars(config.schedule),
        "channel_order": list(config.channel_order),
        "attentions": list(config.layers.kinds),
        "image_noise": config.sampling.image_noise,
        **({"keeps_given": True} if config.sampling.keeps_given else {}),
        "recommended": {name: getattr(config.sampling, name) for name in RECOMMENDED},
        "stage": config.origin.stage,
        "source": config.origin.source,
    }


def as_text(facts: dict[str, Any], indent: str = "") -> str:
    """Facts as lines for a person; long lists of sites are counted, not listed."""
    lines = []
    for name, value in facts.items():
        title = f"{indent}{name.replace('_', ' ')}:"
        if name == "site_list":
            continue
        inner = [value] if isinstance(value, dict) else value
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            lines += [line for entry in inner for line in (title, as_text(entry, indent + "  "))]
        else:
            lines.append(f"{title} {value:,}" if type(value) is int else f"{title} {value}")
    return "\n".join(lines)

"""The image model of the little world, whose widths are no whole multiples of the first. See harness.py."""

from __future__ import annotations

from typing import Any

import parts
import torch


def check_a_picture_and_its_preview(pack: Any) -> dict[str, Any]:
    """Made by the node from the adapter's MODEL, CLIP and VAE; its linear preview is near the picture made small."""
    tiny = pack.module("nodes.adapter.tiny")
    bundled, tiny.TINY = tiny.TINY, tiny.TINY.parent / "little"
    try:
        model, clip, vae = tiny.load_model(), tiny.load_clip(), tiny.load_vae()
        latent_format = model.model.latent_format
        image = pack.run(
            "EmuVideoStartingFrame", model=model, clip=clip, vae=vae, prompt=parts.PROMPT, negative_prompt="", **parts.SIZE,
            seed=1, steps=8, sampler_name="ddim", text_guidance=-1.0,
        )[0]  # fmt: skip
    finally:
        tiny.TINY = bundled
    factors, bias = (torch.tensor(v) for v in (latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias))
    shown = vae.encode(image)[0].movedim(0, -1) @ factors + bias
    small = torch.nn.functional.avg_pool2d(image.movedim(-1, 1), 8)[0].movedim(0, -1) * 2 - 1
    assert (shown - small).abs().mean() < 0.2, (shown - small).abs().mean()
    return {"image": image, "prompt": parts.PROMPT}

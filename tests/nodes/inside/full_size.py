"""SD 1.5 at its true size with random weights: slow, several GB. See harness.py."""

from __future__ import annotations

from typing import Any

import parts
import torch


def check_identity_at_sd15_size(pack: Any) -> None:
    model = parts.sd15(model_channels=320, channel_mult=[1, 2, 4, 4], context_dim=768)
    generator = torch.Generator().manual_seed(2)
    positive, negative = ([[torch.randn(1, 77, 768, generator=generator), {}]] for _ in range(2))
    settings = {"base": "sd15", "head_dim": 64, "attentions": ("self",), "size": (512, 512)}
    name = parts.save_new_stack(pack, model, "identity_sd15.safetensors", **settings)
    video, plain = parts.apply(pack, model, name), parts.on_the_same_schedule(pack, model)
    latent = torch.zeros(2, 4, 8, 8)
    given_module = pack.module("nodes.adapter.given")
    given = given_module.Given(torch.randn(1, 4, 8, 8, generator=generator), (0,), 2)
    expected = parts.ksample(plain, positive, negative, latent, steps=1)
    found = parts.ksample(
        video, given_module.with_given(positive, given), given_module.with_given(negative, given), latent, steps=1
    )
    assert torch.isfinite(expected).all() and expected.std() > 0
    assert torch.equal(found, expected), (found - expected).abs().max()

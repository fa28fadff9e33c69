"""SD 1.5 at its true size with random weights: slow, several GB. See harness.py."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.supported_models
import parts
import torch

SD15 = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2] * 4,
    "channel_mult": [1, 2, 4, 4], "transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1, "use_spatial_transformer": True, "context_dim": 768, "use_linear_in_transformer": False,
    "legacy": False, "adm_in_channels": None, "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip


def sd15() -> Any:
    config = comfy.supported_models.SD15(SD15)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=torch.device("cpu"))
    parts.make_weights(model)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 0
        if fan_in:
            parameter.data.normal_(0, fan_in**-0.5, generator=generator)
        else:
            parameter.data.fill_(1.0 if parameter.dim() == 1 else 0.0)
    for module in model.modules():
        if getattr(module, "bias", None) is not None:
            module.bias.data.zero_()
    return parts.patcher_class()(model, comfy.model_management.get_torch_device(), torch.device("cpu"))


def check_identity_at_sd15_size(pack: Any) -> None:
    model = sd15()
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

"""SD 1.5 at its true size with random weights: slow, several GB. See harness.py."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import comfy.model_management
import harness
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


def check_little_memory(pack: Any) -> dict[str, Any]:
    """On a card: the same bits with 3 GB of free memory, where U-Net and stack do not fit, as with all of it."""
    device = comfy.model_management.get_torch_device()
    if device.type != "cuda":
        raise harness.NotHere("NOT CHECKED: there is no card whose memory could be full")
    model = parts.sd15(model_channels=320, channel_mult=[1, 2, 4, 4], context_dim=768)
    generator = torch.Generator().manual_seed(2)
    texts = [[[torch.randn(1, 77, 768, generator=generator), {}]] for _ in range(2)]
    settings = {"base": "sd15", "head_dim": 64, "size": (512, 512), "mlp_ratio": 4, "weights": 0.01}
    video = parts.apply(pack, model, parts.save_new_stack(pack, model, "full_sd15.safetensors", **settings))
    latent, seconds, found = torch.zeros(8, 4, 32, 32), [], []
    for keep in (None, 3 * 2**30):
        parts.forget()
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(device)[0]
        with ballast(max(free - keep, 0) if keep else 0):
            started = time.perf_counter()
            found.append(parts.ksample(video, *texts, latent, steps=4))
            seconds.append(round(time.perf_counter() - started, 2))
    assert torch.isfinite(found[0]).all()
    assert torch.equal(*found), (found[1] - found[0]).abs().max()
    return {"seconds": seconds, "card": torch.cuda.get_device_name(device)}


@contextlib.contextmanager
def ballast(size: int) -> Iterator[None]:
    """Another process that holds `size` bytes of the card's memory."""
    program = f"import torch; held = torch.empty({size}, dtype=torch.uint8, device='cuda'); print('held', flush=True); input()"
    if not size:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        yield
        other.communicate(b"\n")

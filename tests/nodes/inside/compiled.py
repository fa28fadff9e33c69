"""Checks of torch.compile on a video MODEL, which take minutes. See harness.py."""

from __future__ import annotations

import inspect
import shutil
from typing import Any

import parts
import torch
from clones import video_parts
from harness import NotHere


def compiled(video: Any, backend: str) -> Any:
    """As TorchCompileModel does it."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    plain = {"disable_dynamic": True} if "disable_dynamic" in inspect.signature(video.clone).parameters else {}
    result = video.clone(**plain)
    set_torch_compile_wrapper(model=result, backend=backend)
    return result


def check_traced(pack: Any) -> None:
    """Traced by Dynamo and run without a code generator: the same bits, and the origin is as it was."""
    _, video, positive, negative, latent = video_parts(pack)
    expected = parts.ksample(video, positive, negative, latent)
    found = parts.ksample(compiled(video, "eager"), positive, negative, latent)
    torch._dynamo.reset()
    assert parts.same(found, expected), (found - expected).abs().max()
    assert parts.same(parts.ksample(video, positive, negative, latent), expected)


def check_the_node(pack: Any) -> None:
    """ComfyUI's own node with Inductor, which rounds in other places: the video, not the plain MODEL's pictures, with a hundredth
    of what lies between them for all roundings."""
    if not any(shutil.which(name) for name in ("g++", "c++", "clang++")):
        raise NotHere("Inductor needs a C++ compiler")
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    model, video, positive, negative, latent = video_parts(pack)
    expected = parts.ksample(video, positive, negative, latent, steps=1)
    plain = parts.ksample(model, positive, negative, latent, steps=1)
    result = TorchCompileModel.execute(video, "inductor").result[0]
    found = parts.ksample(result, positive, negative, latent, steps=1)
    torch._dynamo.reset()
    assert (found - expected).abs().max() < 0.01 * (plain - expected).abs().max()


def check_put_in_the_models_place(pack: Any) -> None:
    """A node of others may put the compiled U-Net in the MODEL's place, instead of ComfyUI's way around each call."""
    if pack.dynamic:
        raise NotHere("ComfyUI itself cannot hand back the weights of a U-Net that was replaced: ModelPatcherDynamic fails")
    _, video, positive, negative, latent = video_parts(pack)
    expected = parts.ksample(video, positive, negative, latent, steps=1)
    result = video.clone()
    result.add_object_patch("diffusion_model", torch.compile(video.get_model_object("diffusion_model"), backend="eager"))
    found = parts.ksample(result, positive, negative, latent, steps=1)
    torch._dynamo.reset()
    assert parts.same(found, expected), (found - expected).abs().max()
    assert parts.same(parts.ksample(video, positive, negative, latent, steps=1), expected)
    parts.forget()
    assert parts.hooks(video) == 0

"""What the checks share: models, conditionings, runs of the ordinary sampler, stacks with weights or without."""

from __future__ import annotations

import inspect
import logging
import math
from pathlib import Path
from typing import Any

import comfy.cldm.cldm
import comfy.context_windows
import comfy.controlnet
import comfy.hooks
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.supported_models
import folder_paths
import torch

PROMPT = "a big red circle moves right on a white background"
SIZE = {"width": 64, "height": 64}
RECOMMENDED = {"text_guidance": -1.0, "image_guidance": -1.0}


def texts(clip: Any, prompt: str = PROMPT) -> tuple[list[Any], list[Any]]:
    return tuple(clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, ""))  # type: ignore[return-value]


def picture(seed: int = 0, count: int = 1, height: int = 64, width: int = 64) -> torch.Tensor:
    """Smooth random pictures (count, H, W, 3) in 0..1."""
    small = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1).movedim(1, -1)


def conditioning(pack: Any, clip: Any, vae: Any, prompt: str = PROMPT, **changes: Any) -> tuple[Any, ...]:
    positive, negative = texts(clip, prompt)
    settings = {**SIZE, "length": 8, "videos": 1, "positions": "0", "resize": "none", "image": picture(), **changes}
    return pack.run("EmuVideoConditioning", positive=positive, negative=negative, vae=vae, **settings)


def empty(model: Any, count: int, side: int = 8) -> torch.Tensor:
    """Empty latents (count, C, side, side) for a MODEL."""
    return torch.zeros(count, model.model.latent_format.latent_channels, side, side)


def ksample(
    model: Any, positive: Any, negative: Any, latent: torch.Tensor, seed: int = 5, steps: int = 3, **changes: Any
) -> torch.Tensor:
    """ComfyUI's ordinary sampler."""
    settings = {"sampler_name": "euler", "scheduler": "sgm_uniform", "cfg": 2.0, **changes}
    noise = comfy.sample.prepare_noise(latent, seed)
    name, scheduler, cfg = settings.pop("sampler_name"), settings.pop("scheduler"), settings.pop("cfg")
    return comfy.sample.sample(
        model, noise, steps, cfg, name, scheduler, positive, negative, latent, disable_pbar=True, seed=seed, **settings
    )


def save_new_stack(pack: Any, model: Any, name: str, weights: float = 0.0, **settings: Any) -> str:
    """Write a stack for this MODEL's U-Net to models/emu_video: the identity, or with random weights of this size."""
    stack_module, checkpoint = pack.module("emu_core.model.stack"), pack.module("emu_core.checkpoint")
    schedule = pack.module("emu_core.model.schedule").ScheduleConfig(**settings.pop("schedule", {}))
    settings = {"base": "tiny", "head_dim": 32, "size": (64, 64), "mlp_ratio": 1, "schedule": schedule, **settings}
    stack = stack_module.TemporalStack.for_unet(model.model.diffusion_model, **settings)
    if weights:
        generator = torch.Generator().manual_seed(1)
        for parameter in stack.parameters():
            parameter.data += weights * torch.randn(parameter.shape, generator=generator)
    folder = Path(folder_paths.get_folder_paths("emu_video")[0])
    checkpoint.save_stack(stack, folder / name, torch.float32)
    return name


def apply(pack: Any, model: Any, stack: str = "tiny F (bundled)", strength: float = 1.0) -> Any:
    return pack.run("EmuVideoApplyStack", model=model, stack=stack, strength=strength)[0]


def on_the_same_schedule(pack: Any, model: Any, **schedule: Any) -> Any:
    """The plain MODEL, sampled as a stack's MODEL is, so that only the U-Nets are compared."""
    sampling = pack.module("nodes.adapter.sampling").VideoModelSampling
    result = model.clone()
    result.add_object_patch("model_sampling", sampling(pack.module("emu_core.model.schedule").ScheduleConfig(**schedule)))
    return result


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two results are equal: to the bit on the CPU. On a card cuBLAS and cuDNN choose kernels by where tensors lie."""
    if comfy.model_management.get_torch_device().type == "cpu":
        return torch.equal(found, expected)
    difference = float((found.cpu().float() - expected.cpu().float()).abs().max()) if found.shape == expected.shape else math.inf
    if difference:
        logging.warning(f"on the card, not equal to the bit: {difference:.2e}")
    return difference <= 1e-4


def hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) for module in model.model.modules())


def refusal(action: Any) -> str:
    """The sentence of a ValueError that `action` must raise."""
    try:
        action()
    except ValueError as error:
        return str(error)
    raise AssertionError("expected a ValueError, nothing was raised")


def forget() -> None:
    comfy.model_management.unload_all_models()


def random_lora_file(model: Any) -> dict[str, torch.Tensor]:
    """A random LoRA on every attention, in the names that LoRA files use."""
    keys = {k: v for k, v in comfy.lora.model_lora_keys_unet(model.model).items() if k.startswith("lora_unet_")}
    shapes = {name: value.shape for name, value in model.model.state_dict().items()}
    generator, state = torch.Generator().manual_seed(7), {}
    for name, target in sorted(keys.items()):  # whose order is another under dynamic VRAM
        shape = shapes.get(target, ())
        if "attn" in name and len(shape) == 2:
            state[f"{name}.lora_up.weight"] = 0.3 * torch.randn(shape[0], 2, generator=generator)
            state[f"{name}.lora_down.weight"] = torch.randn(2, shape[1], generator=generator) / shape[1] ** 0.5
    assert len(state) >= 2 * 4 * 7
    return state


def random_lora(model: Any, clip: Any, strength: float = 1.0) -> Any:
    """The MODEL with the random LoRA."""
    return comfy.sd.load_lora_for_models(model, clip, random_lora_file(model), strength, 0)[0]


def random_lora_hook(model: Any) -> Any:
    """The same LoRA as a hook for a conditioning."""
    return comfy.hooks.create_hook_lora(random_lora_file(model), 1.0, 0.0)


SD15: dict[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "num_res_blocks": [2] * 4, "transformer_depth": [1] * 6 + [0] * 2,
    "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1, "use_spatial_transformer": True,
    "use_linear_in_transformer": False, "legacy": False, "adm_in_channels": None, "use_temporal_attention": False,
    "use_temporal_resblock": False,
}  # fmt: skip


def sd15(**sizes: Any) -> Any:
    """A MODEL of SD 1.5's layout with random weights; sizes: model_channels, channel_mult, context_dim."""
    family = comfy.supported_models.SD15({**SD15, **sizes})
    family.set_inference_dtype(torch.float32, None)
    model = family.get_model({}, "", device=torch.device("cpu"))
    make_weights(model)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.0)
    return patcher_class()(model, comfy.model_management.get_torch_device(), torch.device("cpu"))


def make_weights(module: torch.nn.Module) -> None:
    """Give weights to the layers that have none before they are loaded: under dynamic VRAM, ComfyUI's Linear."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear) and layer.weight is None:
            layer.weight = torch.nn.Parameter(torch.empty(layer.out_features, layer.in_features), requires_grad=False)
            if layer.comfy_need_lazy_init_bias:
                layer.bias = torch.nn.Parameter(torch.empty(layer.out_features), requires_grad=False)


def patcher_class() -> Any:
    """What ComfyUI manages its own models with: of the dynamic kind under dynamic VRAM."""
    return getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)


def windows_work() -> bool:
    """Whether context windows over the batch run: in 0.3.64 they fail in ComfyUI itself."""
    return "timestep[0]" in inspect.getsource(comfy.context_windows.IndexListContextHandler.set_step)


def windowed(model: Any, length: int, anchored: bool | None = None) -> Any:
    """The MODEL with context windows over the batch; `anchored` sets causal_window_fix, None leaves it as the node does."""
    handler = comfy.context_windows
    settings = {} if anchored is None or not anchors() else {"causal_window_fix": anchored}
    result = model.clone()
    result.model_options["context_handler"] = handler.IndexListContextHandler(
        context_schedule=handler.get_matching_context_schedule("standard_static"),
        fuse_method=handler.get_matching_fuse_method("pyramid"),
        context_length=length,
        context_overlap=4,
        dim=0,
        **settings,
    )
    return result


def windowed_by_node(model: Any, length: int, freenoise: bool) -> Any:
    """The MODEL from the node Context Windows (Manual), as it stands but for these and causal_window_fix, which is off."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    given = {one.id: one.default for one in ContextWindowsManualNode.define_schema().inputs if one.id != "model"}
    given |= {"context_schedule": "standard_static", "fuse_method": "pyramid", "context_stride": 1}  # not all have a default
    given |= {"context_length": length, "context_overlap": 4, "freenoise": freenoise, "dim": 0}
    return ContextWindowsManualNode.execute(model, **given | ({"causal_window_fix": False} if anchors() else {})).result[0]


def anchors() -> bool:
    """Whether this ComfyUI puts the frame before a window in front of it."""
    return "causal_window_fix" in inspect.signature(comfy.context_windows.IndexListContextHandler).parameters


def random_controlnet(model: Any) -> Any:
    """A ControlNet of the tiny U-Net's shape with random weights."""
    config = {
        k: v for k, v in model.model.model_config.unet_config.items() if k not in ("out_channels", "transformer_depth_output")
    }
    config |= {"hint_channels": 3, "operations": comfy.ops.disable_weight_init, "device": "cpu", "dtype": torch.float32}
    net = comfy.cldm.cldm.ControlNet(**config)
    make_weights(net)
    generator = torch.Generator().manual_seed(3)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / max(parameter[0].numel(), 1) ** 0.5
    return comfy.controlnet.ControlNet(net, load_device=comfy.model_management.get_torch_device(), manual_cast_dtype=None)


def with_control(conditioning: list[Any], control: Any, frames: int) -> list[Any]:
    hint = picture(4, frames).movedim(-1, 1)
    return [
        [item[0], {**item[1], "control": control.copy().set_cond_hint(hint, 0.7), "control_apply_to_uncond": False}]
        for item in conditioning
    ]

"""Public checkpoints as stacks on a MODEL. See harness.py; the files are put there by test_imported.py."""

from __future__ import annotations

from typing import Any

import parts
import torch
from harness import NotHere

LINEAR = {"beta_schedule": "linear", "zero_snr": False, "prediction": "epsilon"}
FANCY = {"beta_schedule": "linear"}
STEPS = {"steps": 4, "sampler_name": "ddim"}


def sd15() -> Any:
    """Narrow."""
    return parts.sd15(model_channels=32, channel_mult=[1, 2, 2, 2], context_dim=32)


def states(seed: int = 2) -> tuple[list[Any], list[Any]]:
    generator = torch.Generator().manual_seed(seed)
    return tuple([[torch.randn(1, 77, 32, generator=generator), {}]] for _ in range(2))  # type: ignore[return-value]


def sample(pack: Any, video: Any, conditionings: tuple[Any, ...], **changes: Any) -> torch.Tensor:
    positive, image_only, negative, latent = conditionings
    settings = {"seed": 11, "text_guidance": 4.0, "image_guidance": 1.0, **STEPS, **changes}
    inputs = {"positive": positive, "image_only": image_only, "negative": negative, "latent": latent}
    return pack.run("EmuVideoSampler", model=video, **inputs, **settings)[0]["samples"]


def check_lora_controlnet_and_sampler_on_sd15(pack: Any) -> None:
    """Each and all together under KSampler; with strength 0 equal to the plain MODEL bit for bit, with 1 not."""
    plain_model, latent = sd15(), torch.zeros(4, 4, 8, 8)
    plain_alone = parts.ksample(parts.on_the_same_schedule(pack, plain_model, **LINEAR), *states(), latent)
    for lora in (False, True):
        for control in (False, True):
            model = parts.random_lora(plain_model, None) if lora else plain_model
            positive, negative = states()
            if control:
                positive = parts.with_control(positive, parts.random_controlnet(model), 4)
            plain = parts.ksample(parts.on_the_same_schedule(pack, model, **LINEAR), positive, negative, latent)
            assert torch.equal(plain, plain_alone) is not (lora or control), "the patch does nothing"
            off = parts.apply(pack, model, "animatediff_sd15.safetensors", strength=0.0)
            assert torch.equal(parts.ksample(off, positive, negative, latent), plain), (lora, control)
            on = parts.ksample(parts.apply(pack, model, "animatediff_sd15.safetensors"), positive, negative, latent)
            assert torch.isfinite(on).all() and not torch.allclose(on, plain, atol=1e-2), (lora, control)


def check_strength_zero_is_the_plain_model_for_every_family(pack: Any) -> None:
    model, latent = sd15(), torch.zeros(4, 4, 8, 8)
    for name, schedule in (("pia_sd15", LINEAR), ("fancyvideo_sd15", FANCY), ("animatediff_v1_sd15", LINEAR)):
        plain = parts.ksample(parts.on_the_same_schedule(pack, model, **schedule), *states(), latent)
        off = parts.apply(pack, model, f"{name}.safetensors", strength=0.0)
        assert torch.equal(parts.ksample(off, *states(), latent), plain), name
        on = parts.ksample(parts.apply(pack, model, f"{name}.safetensors"), *states(), latent)
        assert torch.isfinite(on).all() and not torch.allclose(on, plain, atol=1e-2), name
    assert torch.equal(parts.ksample(model, *states(), latent), parts.ksample(sd15(), *states(), latent)), "residue"
    assert parts.hooks(model) == 0


def check_a_call_of_the_unet(pack: Any) -> dict[str, Any]:
    """The U-Net inside a MODEL with an imported file, from inputs that the core's U-Net got too."""
    from safetensors.torch import load_file

    model, result = sd15(), {}
    unet = model.model.diffusion_model
    unet.load_state_dict(load_file(pack.folder / "unet.safetensors"))
    inputs = load_file(pack.folder / "inputs.safetensors")
    stacks, run = pack.module("emu_core.checkpoint"), pack.module("emu_core.model.stack").Run
    layers = pack.module("nodes.adapter.video_model").COMFY_LAYERS
    for name in ("animatediff", "animatediff_v1", "pia", "fancyvideo"):
        folder = pack.folder / "models" / "emu_video"
        stack = stacks.load_stack(folder / f"{name}_sd15.safetensors", layers, dtype=torch.float32, device="cpu")
        attachment = stack.attach(unet)
        with attachment.run(run(4, (inputs["text"],), inputs["conditioning"] if stack.config.takes_image else None)):
            result[name] = unet(inputs["x"], inputs["t"].repeat(4), context=inputs["text"].repeat(4, 1, 1))
        attachment.detach()
    return result


def check_whole_loops(pack: Any) -> dict[str, Any]:
    """The tiny model with each family's checkpoint, from prompt to latents."""
    model, clip, vae = pack.run("EmuVideoTinyModel")
    result = {"image": parts.picture()}
    for name, changes in (
        ("animatediff", {"image": None}),
        ("animatediff_v1", {"image": None}),
        ("hotshot", {"image": None}),
        ("pia", {"motion": "large", "positions": "2"}),
        ("fancyvideo", {"cond_fps": 8.0, "motion_score": 5.0}),
    ):
        video = parts.apply(pack, model, f"{name}_tiny.safetensors")
        result[name] = sample(pack, video, parts.conditioning(pack, clip, vae, length=6, **changes))
    return result


def check_what_is_left_open_is_as_the_makers_have_it(pack: Any) -> None:
    """AnimateDiff-Lightning by its name, and the same file said to be another; against the same settings by hand."""
    model, clip, vae = pack.run("EmuVideoTinyModel")
    conditionings = parts.conditioning(pack, clip, vae, length=6, image=None)
    file, left = "animatediff_lightning_2step.safetensors", {"sampler_name": "recommended", "steps": 0, "text_guidance": -1.0}
    video = parts.apply(pack, model, file)
    found = sample(pack, video, conditionings, image_guidance=-1.0, **left)
    euler = sample(pack, video, conditionings, sampler_name="euler", steps=2, text_guidance=1.0)
    assert torch.equal(found, euler)
    said = pack.run("EmuVideoApplyStack", model=model, stack=file, strength=1.0, variant="animatelcm")[0]
    found = sample(pack, said, conditionings, image_guidance=-1.0, **left)
    assert torch.equal(found, sample(pack, said, conditionings, sampler_name="lcm", steps=6, text_guidance=1.5))
    assert not torch.equal(found, euler)


def check_sigmas_of_the_sdxl_families_are_comfyuis(pack: Any) -> None:
    """ComfyUI calls linear what is scaled_linear in diffusers: its own sigmas of SDXL are Hotshot-XL's, and with an end of 0.02
    those of AnimateDiff's beta."""
    from comfy.model_sampling import ModelSamplingDiscrete

    families, sampling = pack.module("emu_core.interop"), pack.module("nodes.adapter.sampling").VideoModelSampling
    for schedule, end, last in ((families.hotshot_xl.SCHEDULE, 0.012, 14.61), (families.animatediff.SDXL_BETA, 0.02, 65.93)):
        theirs = ModelSamplingDiscrete()
        theirs._register_schedule(beta_schedule="linear", linear_start=0.00085, linear_end=end)
        torch.testing.assert_close(sampling(schedule).sigmas, theirs.sigmas.cpu(), rtol=1e-5, atol=1e-6)
        assert abs(float(theirs.sigmas[-1]) - last) < 0.005


def check_three_guidances(pack: Any) -> dict[str, Any]:
    model, clip, vae = pack.run("EmuVideoTinyModel")
    video = parts.apply(pack, model, "pia_tiny.safetensors")
    return {"pia": sample(pack, video, parts.conditioning(pack, clip, vae, length=6), image_guidance=2.0)}


def check_context_windows_equal_the_pipelines(pack: Any) -> dict[str, Any]:
    if not parts.windows_work():
        raise NotHere("context windows over the batch fail in this ComfyUI itself")
    model, clip, vae = pack.run("EmuVideoTinyModel")
    plain = parts.apply(pack, model, "animatediff_tiny.safetensors")
    texts = parts.conditioning(pack, clip, vae, length=40, image=None)
    made = {"windowed": parts.windowed(plain, 16, anchored=False)}
    made |= {f"freenoise {free}": parts.windowed_by_node(plain, 16, free) for free in (False, True)}
    return {name: sample(pack, video, texts) for name, video in made.items()}


def check_a_window_of_all_positions_has_no_room_for_the_anchor(pack: Any) -> None:
    """ComfyUI puts the frame before a window in front of it and throws its result away. Where the stack has no position left for
    it, it is left out: the same as with causal_window_fix off. With one frame less there is room, and it counts."""
    if not parts.windows_work() or not parts.anchors():
        raise NotHere("no frame is put in front of a window in this ComfyUI")
    model, clip, vae = pack.run("EmuVideoTinyModel")
    controlled = parts.random_controlnet(model)
    video = parts.apply(pack, model, "animatediff_v1_tiny.safetensors")
    limit = pack.module("nodes.adapter.video_model").applied(video).layers.max_frames
    assert limit == 24
    conditions = list(parts.conditioning(pack, clip, vae, length=40, image=None))
    for length, same in ((limit, True), (limit - 1, False)):
        found = [sample(pack, parts.windowed(video, length, anchored), conditions) for anchored in (True, False)]
        assert torch.equal(*found) == same, length
    conditions[0] = parts.with_control(conditions[0], controlled, limit)
    found = [sample(pack, parts.windowed(video, limit, anchored), conditions) for anchored in (True, False)]
    assert torch.isfinite(found[0]).all()


def check_refusals(pack: Any) -> None:
    model, clip, vae = pack.run("EmuVideoTinyModel")
    video = parts.apply(pack, model, "animatediff_tiny.safetensors")
    words = parts.refusal(lambda: sample(pack, video, parts.conditioning(pack, clip, vae)))
    assert "text alone" in words, words
    ordinary = parts.conditioning(pack, clip, vae)
    words = parts.refusal(lambda: parts.ksample(video, ordinary[0], ordinary[2], ordinary[3]["samples"]))
    assert "family animatediff" in words and "take the image off" in words, words
    words = parts.refusal(lambda: parts.ksample(video, *parts.texts(clip), parts.empty(video, 33)))
    assert "positions for 32 frames, found 33" in words and "Context Windows" in words, words
    pia = parts.apply(pack, model, "pia_tiny.safetensors")
    two = parts.conditioning(pack, clip, vae, image=parts.picture(0, 2), positions="0, 1")
    assert "one given frame" in parts.refusal(lambda: sample(pack, pia, two))
    words = parts.refusal(lambda: parts.apply(pack, model, "pia_sd15.safetensors"))
    assert "pia_sd15.safetensors does not fit" in words, words
    assert "found 8 frames" not in words
    validate = pack.nodes["EmuVideoApplyStack"].validate_inputs
    assert "is a LoRA" in validate(stack="lora.safetensors")
    assert "was not opened" in validate(stack="bomb.ckpt")
    assert not (pack.folder / "exploded").exists()
    assert validate(stack="pia_tiny.ckpt") is True
    ranges = pack.module("nodes.conditioning").parse_positions
    assert ranges("0..3, -1") == [0, 1, 2, 3, -1]
    assert "frame numbers" in parts.refusal(lambda: ranges("0..x"))


def check_a_pickle_is_read_as_a_file_of_tensors(pack: Any) -> None:
    model, clip, vae = pack.run("EmuVideoTinyModel")
    conditionings = parts.conditioning(pack, clip, vae, length=6)
    one = sample(pack, parts.apply(pack, model, "pia_tiny.ckpt"), conditionings)
    assert torch.equal(one, sample(pack, parts.apply(pack, model, "pia_tiny.safetensors"), conditionings))

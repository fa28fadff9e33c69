"""Checks of the video MODEL itself: identity, patches of other kinds, residue, memory, refusals. See harness.py."""

from __future__ import annotations

from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.lora
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.supported_models
import comfy_extras.nodes_custom_sampler as custom
import folder_paths
import parts
import torch
from harness import NotHere


def tiny(pack: Any) -> tuple[Any, Any, Any]:
    return pack.run("EmuVideoTinyModel")


def identity_check(pack: Any, change: Any = None, control: bool = False) -> None:
    model, clip, vae = tiny(pack)
    if change is not None:
        changed = change(model, clip)
        latent = parts.empty(model, 8)
        before = parts.ksample(model, *parts.texts(clip), latent)
        model = changed
        assert not parts.same(before, parts.ksample(model, *parts.texts(clip), latent)), "the patch does nothing"
    name = parts.save_new_stack(pack, model, "identity.safetensors")
    video, plain = parts.apply(pack, model, name), parts.on_the_same_schedule(pack, model)
    positive, negative = parts.texts(clip)
    given_positive, _, given_negative, latent = parts.conditioning(pack, clip, vae)
    if control:
        net = parts.random_controlnet(model)
        unguided = parts.ksample(plain, positive, negative, latent["samples"])
        positive, given_positive = (parts.with_control(c, net, 8) for c in (positive, given_positive))
    expected = parts.ksample(plain, positive, negative, latent["samples"])
    found = parts.ksample(video, given_positive, given_negative, latent["samples"])
    if control:
        assert not parts.same(expected, unguided), "the ControlNet does nothing"
    assert parts.same(found, expected), (found - expected).abs().max()
    # and one frame by itself is what the whole batch has there
    assert torch.isfinite(found).all() and found.std() > 0.1


def check_identity(pack: Any) -> None:
    identity_check(pack)


def check_identity_with_lora(pack: Any) -> None:
    identity_check(pack, change=parts.random_lora)


def check_identity_with_controlnet(pack: Any) -> None:
    identity_check(pack, control=True)


def check_ordinary_samplers(pack: Any) -> None:
    """The video MODEL under samplers and schedulers that know nothing of it."""
    model, clip, vae = tiny(pack)
    video = parts.apply(pack, model)
    positive, _, negative, latent = parts.conditioning(pack, clip, vae)
    for sampler in ("euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "lcm", "ddim"):
        result = parts.ksample(video, positive, negative, latent["samples"], sampler_name=sampler)
        assert torch.isfinite(result).all() and 0.3 < result.std() < 3, (sampler, result.std())


def check_the_model_that_came_in_is_untouched(pack: Any) -> None:
    model, clip, vae = tiny(pack)
    weights = {k: v.clone() for k, v in model.model.state_dict().items()}
    video = parts.apply(pack, model)
    positive, _, negative, latent = parts.conditioning(pack, clip, vae)
    parts.ksample(video, positive, negative, latent["samples"])
    assert not model.injections and not model.wrappers.get("diffusion_model") and not model.object_patches
    parts.forget()
    after = model.model.state_dict()
    assert after.keys() == weights.keys() and all(parts.same(after[k], v) for k, v in weights.items())
    assert parts.hooks(model) == 0


def check_no_residue(pack: Any) -> None:
    """plain -> F -> plain -> I -> F -> plain: each as in a fresh start, bit for bit."""
    model, clip, vae = tiny(pack)
    positive, image_only, negative, latent = parts.conditioning(pack, clip, vae)
    text = parts.texts(clip)
    makers = {
        "plain": lambda: parts.ksample(model, *text, latent["samples"]),
        "F": lambda: parts.ksample(parts.apply(pack, model), positive, negative, latent["samples"]),
        "I": lambda: parts.ksample(parts.apply(pack, model, "tiny I (bundled)"), positive, negative, latent["samples"]),
    }
    fresh = {}
    for name, make in makers.items():
        parts.forget()
        fresh[name] = make()
    assert not parts.same(fresh["plain"], fresh["F"]) and not parts.same(fresh["F"], fresh["I"])
    parts.forget()
    kept = {"F": parts.apply(pack, model), "I": parts.apply(pack, model, "tiny I (bundled)")}
    for name in ("plain", "F", "plain", "I", "F", "plain"):
        if name == "plain":
            found = makers[name]()
            assert parts.hooks(model) == 0, "hooks are left on the plain MODEL"
        else:
            found = parts.ksample(kept[name], positive, negative, latent["samples"])
        assert parts.same(found, fresh[name]), name
    assert model.get_model_object("model_sampling").sigma_max == model.model.model_sampling.sigma_max


def check_cancel_in_the_middle(pack: Any) -> None:
    model, clip, vae = tiny(pack)
    video = parts.apply(pack, model)
    positive, _, negative, latent = parts.conditioning(pack, clip, vae)
    expected = parts.ksample(video, positive, negative, latent["samples"])
    plain = parts.ksample(model, *parts.texts(clip), latent["samples"])

    def cancel(step: int, *_: Any) -> None:
        if step == 1:
            raise comfy.model_management.InterruptProcessingException()

    try:
        parts.ksample(video, positive, negative, latent["samples"], callback=cancel)
        raise AssertionError("it was not cancelled")
    except comfy.model_management.InterruptProcessingException:
        pass
    assert parts.same(parts.ksample(video, positive, negative, latent["samples"]), expected)
    assert parts.same(parts.ksample(model, *parts.texts(clip), latent["samples"]), plain)


def check_clones_share_the_stack_and_take_further_patches(pack: Any) -> None:
    """A LoRA after the stack is the same as before it."""
    model, clip, vae = tiny(pack)
    positive, _, negative, latent = parts.conditioning(pack, clip, vae)
    before = parts.ksample(parts.apply(pack, parts.random_lora(model, clip)), positive, negative, latent["samples"])
    video = parts.apply(pack, model)
    first = parts.ksample(video, positive, negative, latent["samples"])
    after = parts.ksample(parts.random_lora(video, clip), positive, negative, latent["samples"])
    assert parts.same(before, after) and not parts.same(first, after)
    assert parts.same(parts.ksample(video, positive, negative, latent["samples"]), first)


def check_a_second_stack_replaces_the_first(pack: Any) -> None:
    model, clip, vae = tiny(pack)
    positive, _, negative, latent = parts.conditioning(pack, clip, vae)
    twice = parts.apply(pack, parts.apply(pack, model, "tiny I (bundled)"))
    once = parts.apply(pack, model)
    assert parts.same(*(parts.ksample(m, positive, negative, latent["samples"]) for m in (twice, once)))


def check_without_stack_is_the_image_model(pack: Any) -> None:
    model, clip, _ = tiny(pack)
    strip = pack.module("nodes.adapter.video_model").without_stack
    video, latent = parts.apply(pack, model), parts.empty(model, 2)
    expected = parts.ksample(model, *parts.texts(clip), latent)
    parts.ksample(video, *parts.texts(clip), parts.empty(model, 8))
    assert parts.same(parts.ksample(strip(video), *parts.texts(clip), latent), expected)
    assert parts.hooks(model) == 0


def check_strength(pack: Any) -> None:
    """0 switches the temporal layers off; between 0 and 1 is something else than either."""
    model, clip, vae = tiny(pack)
    positive, _, negative, latent = parts.conditioning(pack, clip, vae, image=None)
    results = [
        parts.ksample(parts.apply(pack, model, strength=s), positive, negative, latent["samples"]) for s in (0.0, 0.5, 1.0)
    ]
    plain = parts.ksample(parts.on_the_same_schedule(pack, model), *parts.texts(clip), latent["samples"])
    assert parts.same(results[0], plain)
    assert not parts.same(results[1], results[0]) and not parts.same(results[1], results[2])


def check_low_memory_gives_the_same(pack: Any) -> None:
    """Partly unloaded weights of U-Net and stack are cast as they are used: the same latents."""
    model, clip, vae = tiny(pack)
    video = parts.apply(pack, model)
    positive, _, negative, latent = parts.conditioning(pack, clip, vae)
    expected = parts.ksample(video, positive, negative, latent["samples"])
    cpu = torch.device("cpu")
    stack = video.get_additional_models()[0]
    if pack.dynamic:  # everything is brought in as it is used, always; what can be lost is what was brought in before
        for _ in range(2):
            for patcher in (video, stack):
                assert patcher.partially_unload(cpu, 1e32) > 0
            assert parts.same(parts.ksample(video, positive, negative, latent["samples"]), expected)
        parts.forget()
        assert parts.hooks(video) == 0
        return
    for patcher in (video, stack):
        freed = patcher.partially_unload(cpu, patcher.model_size() // 2)
        assert freed > 0
    casting = sum(getattr(m, "comfy_cast_weights", False) for p in (video, stack) for m in p.model.modules())
    assert casting > 20, casting
    assert parts.same(parts.ksample(video, positive, negative, latent["samples"]), expected)
    parts.forget()
    video.patch_model(video.load_device, lowvram_model_memory=1_000_000)
    stack.patch_model(video.load_device, lowvram_model_memory=100_000)
    assert parts.hooks(video) > 20
    assert parts.same(parts.ksample(video, positive, negative, latent["samples"]), expected)
    parts.forget()
    assert parts.hooks(video) == 0


def check_conditionings_one_by_one(pack: Any) -> None:
    """With little memory ComfyUI evaluates conditionings in turn."""
    model, clip, vae = tiny(pack)
    video = parts.apply(pack, model)
    positive, _, negative, latent = parts.conditioning(pack, clip, vae)
    together = parts.ksample(video, positive, negative, latent["samples"])
    counted = []

    def one_by_one(args: dict[str, Any]) -> list[torch.Tensor]:
        counted.append(len(args["conds"]))
        inner = {k: v for k, v in args["model_options"].items() if k != "sampler_calc_cond_batch_function"}
        return [
            comfy.samplers.calc_cond_batch(args["model"], [cond], args["input"], args["sigma"], inner)[0]
            for cond in args["conds"]
        ]

    alone = video.clone()
    alone.model_options["sampler_calc_cond_batch_function"] = one_by_one
    found = parts.ksample(alone, positive, negative, latent["samples"])
    assert counted == [2, 2, 2]
    torch.testing.assert_close(found, together, atol=5e-4, rtol=0)


def check_two_videos_in_a_batch(pack: Any) -> None:
    """Each of two videos is what it is alone with the same noise."""
    model, clip, vae = tiny(pack)
    video = parts.apply(pack, model)
    positive, _, negative, latent = parts.conditioning(pack, clip, vae, videos=2)
    assert latent["samples"].shape == parts.empty(model, 16).shape
    both = parts.ksample(video, positive, negative, latent["samples"])
    noise = comfy.sample.prepare_noise(latent["samples"], 5)
    for part in (slice(0, 8), slice(8, 16)):
        alone = comfy.sample.sample(
            video,
            noise[part],
            3,
            2.0,
            "euler",
            "sgm_uniform",
            positive,
            negative,
            latent["samples"][part],
            disable_pbar=True,
            seed=5,
        )
        torch.testing.assert_close(both[part], alone, atol=1e-4, rtol=0)


def check_context_windows(pack: Any) -> None:
    """ComfyUI's context windows: each gets the given frames that lie in it. As the node makes them, and without the anchor, the
    frame before a window that newer versions put in front of it."""
    if not parts.windows_work():
        raise NotHere(
            "context windows over the batch fail in this ComfyUI itself: IndexListContextHandler.set_step takes one timestep"
        )
    model, clip, vae = tiny(pack)
    video = parts.apply(pack, model)
    positions = (0, 3, 11)
    kwargs = {"image": parts.picture(0, 3), "positions": "0, 3, 11", "length": 12}
    positive, _, negative, latent = parts.conditioning(pack, clip, vae, **kwargs)
    seen = []
    module = pack.module("nodes.adapter.video_model")
    original = module.channels

    def spy(given: Any, config: Any, x: Any, latent_format: Any, window: Any) -> torch.Tensor:
        result = original(given, config, x, latent_format, window)
        seen.append((tuple(window), result[:, -1:].flatten(1).amax(1).nonzero().flatten().tolist()))
        return result

    module.channels = spy
    later = tuple(range(4, 12))
    try:
        for anchored in (None, False):
            seen.clear()
            found = parts.ksample(parts.windowed(video, 8, anchored), positive, negative, latent["samples"])
            assert torch.isfinite(found).all() and found.shape == latent["samples"].shape == parts.empty(model, 12).shape
            with_anchor = (3, *later) if anchored is None and parts.anchors() else later
            assert {index for index, _ in seen} == {tuple(range(8)), with_anchor}
            for index, places in seen:
                wanted = [place for place, frame in enumerate(index) if frame in positions]
                assert places in (wanted, [place + len(index) for place in wanted]), (index, places)
    finally:
        module.channels = original
    two = parts.conditioning(pack, clip, vae, length=6, videos=2, image=None)
    sentence = parts.refusal(lambda: parts.ksample(parts.windowed(video, 8), two[0], two[2], two[3]["samples"]))
    assert "one video" in sentence and "videos 1" in sentence, sentence


def check_the_anchor_is_cut_from_all_that_goes_by_frames(pack: Any) -> None:
    """Two conditionings of three frames, the first of which is the anchor."""
    cut = pack.module("nodes.adapter.video_model")._Cut(2, 3)
    frames, kept, other = torch.arange(6.0), torch.tensor([1.0, 2, 4, 5]), torch.arange(5.0)
    context = frames[:, None].expand(6, 7)
    x, control, others = cut((context, {"output": [frames, None], "middle": [other]}, {"y": None, "scale": 3.0}))
    assert parts.same(x, kept[:, None].expand(4, 7))
    assert parts.same(control["output"][0], kept) and control["output"][1] is None and control["middle"][0] is other
    assert others == {"y": None, "scale": 3.0}
    assert parts.same(cut.undo(kept), torch.tensor([0.0, 1, 2, 0, 4, 5]))


def check_wired_form_gives_the_same_latents(pack: Any) -> None:
    """DualCFGGuider + SamplerCustomAdvanced + trailing sigmas against the one node, for several weights."""
    model, clip, vae = tiny(pack)
    video = parts.apply(pack, model)
    positive, image_only, negative, latent = parts.conditioning(pack, clip, vae)
    for w_p, w_i in ((7.5, 2.0), (2.0, 1.0), (3.0, 3.0), (0.0, 2.0), (1.0, 1.0)):
        one = pack.run(
            "EmuVideoSampler", model=video, positive=positive, image_only=image_only, negative=negative, latent=latent, seed=4,
            steps=4, sampler_name="dpmpp_2m", text_guidance=w_p, image_guidance=w_i,
        )[0]["samples"]  # fmt: skip
        guider = custom.Guider_DualCFG(video)
        guider.set_conds(positive, image_only, negative)
        guider.set_cfg(w_p, w_i)
        sigmas = pack.run("EmuVideoScheduler", model=video, steps=4, denoise=1.0)[0]
        noise = custom.Noise_RandomNoise(4).generate_noise(latent)
        sampler = comfy.samplers.sampler_object("dpmpp_2m")
        wired = guider.sample(noise, latent["samples"], sampler, sigmas, disable_pbar=True, seed=4)
        torch.testing.assert_close(one, wired, atol=2e-4, rtol=0, msg=f"w_p {w_p} w_i {w_i}")


def check_trailing_sigmas(pack: Any) -> None:
    """They begin at the last timestep and end at 0, one more than the steps; denoise drops the noisiest."""
    model, _, _ = tiny(pack)
    video = parts.apply(pack, model)
    all_sigmas = video.get_model_object("model_sampling").sigmas
    sigmas = pack.run("EmuVideoScheduler", model=video, steps=250, denoise=1.0)[0]
    assert parts.same(sigmas[:-1], all_sigmas[torch.arange(999, 0, -4)]) and sigmas[-1] == 0
    half = pack.run("EmuVideoScheduler", model=video, steps=10, denoise=0.5)[0]
    assert parts.same(half, pack.run("EmuVideoScheduler", model=video, steps=20, denoise=1.0)[0][-11:])
    assert abs(float(all_sigmas[-1]) - (1 / 4.8973451890853435e-08 - 1) ** 0.5) < 0.01
    assert len(pack.run("EmuVideoScheduler", model=video, steps=5, denoise=0.0)[0]) == 0


def check_text_alone(pack: Any) -> None:
    """A plain CONDITIONING on the video MODEL is a video of the text alone; the pack's on a plain MODEL is nothing special."""
    model, clip, vae = tiny(pack)
    video, latent = parts.apply(pack, model), parts.empty(model, 8)
    given = parts.conditioning(pack, clip, vae, image=None)
    bare = parts.ksample(video, *parts.texts(clip), latent)
    assert parts.same(bare, parts.ksample(video, given[0], given[2], latent))
    packed = parts.conditioning(pack, clip, vae)
    assert parts.same(parts.ksample(model, packed[0], packed[2], latent), parts.ksample(model, *parts.texts(clip), latent))


def check_given_frames_reach_the_latents(pack: Any) -> None:
    """Frame 0 of the video is near the picture that was given, and not near another."""
    pack = pack.bundled()
    model, clip, vae = tiny(pack)
    video = parts.apply(pack, model)
    pictures, firsts = [], []
    for seed in (0, 2):
        image = pack.run(
            "EmuVideoStartingFrame", model=video, clip=clip, vae=vae, prompt=parts.PROMPT, negative_prompt="", **parts.SIZE,
            seed=seed, steps=0, sampler_name="euler", text_guidance=-1.0,
        )[0]  # fmt: skip
        positive, image_only, negative, latent = parts.conditioning(pack, clip, vae, image=image)
        result = pack.run(
            "EmuVideoSampler", model=video, positive=positive, image_only=image_only, negative=negative, latent=latent, seed=4,
            steps=0, sampler_name="ddim", **parts.RECOMMENDED,
        )[0]["samples"]  # fmt: skip
        pictures.append(image[0])
        firsts.append(vae.decode(result)[0])
    for own, other in ((0, 1), (1, 0)):
        near, far = (float(-10 * torch.log10((firsts[own] - pictures[i]).square().mean())) for i in (own, other))
        assert near > 20 and near > far + 4, (near, far)


def check_areas(pack: Any) -> None:
    """ConditioningSetArea on the pack's conditioning: each part gets its part of the given frames."""
    model, clip, vae = tiny(pack)
    video = parts.apply(pack, model)
    positive, _, negative, latent = parts.conditioning(pack, clip, vae)
    left = [[positive[0][0], {**positive[0][1], "area": (8, 4, 0, 0), "strength": 1.0, "set_area_to_bounds": False}]]
    result = parts.ksample(video, left + positive, negative, latent["samples"])
    assert torch.isfinite(result).all()


def check_refusals(pack: Any) -> None:
    model, clip, vae = tiny(pack)
    video = parts.apply(pack, model)
    positive, image_only, negative, latent = parts.conditioning(pack, clip, vae)
    sampler = {"seed": 0, "steps": 2, "sampler_name": "euler", **parts.RECOMMENDED}

    def sample(**changes: Any) -> Any:
        inputs = {"model": video, "positive": positive, "image_only": image_only, "negative": negative, "latent": latent}
        return pack.run("EmuVideoSampler", **{**inputs, **changes}, **sampler)

    wrong_batch = parts.refusal(lambda: sample(latent={"samples": parts.empty(model, 7)}))
    assert "7 frames" in wrong_batch and "videos of 8" in wrong_batch
    wrong_size = parts.refusal(lambda: sample(latent={"samples": parts.empty(model, 8, 16)}))
    assert "8 x 8" in wrong_size and "16 x 16" in wrong_size
    assert "Apply Temporal Stack" in parts.refusal(lambda: sample(model=model))
    assert "role I, expected role F" in parts.refusal(lambda: sample(model=parts.apply(pack, model, "tiny I (bundled)")))
    assert "Emu Video Conditioning" in parts.refusal(lambda: sample(positive=parts.texts(clip)[0]))
    other = parts.refusal(lambda: parts.conditioning(pack, clip, vae, image=parts.picture(0, 1, 32, 48)))
    assert "48 x 32" in other and "64 x 64" in other
    count = parts.refusal(lambda: parts.conditioning(pack, clip, vae, image=parts.picture(0, 2)))
    assert "2 frames and 1 positions" in count
    odd = parts.refusal(lambda: parts.conditioning(pack, clip, vae, width=60, image=None))
    assert "multiples of 8" in odd
    one = parts.refusal(
        lambda: pack.run(
            "EmuVideoInterpolate",
            model=parts.apply(pack, model, "tiny I (bundled)"),
            positive=positive,
            negative=negative,
            vae=vae,
            images=parts.picture(),
            stitch="continuous",
            **sampler,
        )  # fmt: skip
    )
    assert "2 or more keyframes" in one


def check_validation_before_the_queue(pack: Any) -> None:
    """What can be known from a node's widgets is said before anything runs."""
    stack, conditioning = pack.nodes["EmuVideoApplyStack"], pack.nodes["EmuVideoConditioning"]
    missing = stack.validate_inputs(stack="nowhere.safetensors")
    assert "nowhere.safetensors" in missing and "emu_video" in missing and "put" in missing
    assert stack.validate_inputs(stack="tiny F (bundled)") is True
    broken = folder_paths.get_folder_paths("emu_video")[0] + "/broken.safetensors"
    with open(broken, "wb") as file:
        file.write(b"\x00" * 40)
    assert "broken.safetensors" in stack.validate_inputs(stack="broken.safetensors")
    assert conditioning.validate_inputs(positions="0, -1", length=8) is True
    assert "outside a video of 8" in conditioning.validate_inputs(positions="8", length=8)
    assert "share a position" in conditioning.validate_inputs(positions="7, -1", length=8)
    assert "frame numbers" in conditioning.validate_inputs(positions="first", length=8)
    assert "empty" in pack.nodes["EmuVideoStartingFrame"].validate_inputs(prompt="  ")


def check_another_base_is_refused(pack: Any) -> None:
    model, _, _ = tiny(pack)
    # a stack of another U-Net: the tiny one with other widths
    module = pack.module("nodes.adapter.tiny")
    family = module.family({**module.read("unet")[0], "block_out_channels": [96, 192]})
    wider = comfy.model_patcher.ModelPatcher(family.get_model({}, "", device="cpu"), torch.device("cpu"), torch.device("cpu"))
    name = parts.save_new_stack(pack, wider, "wider.safetensors", base="sd15")
    sentence = parts.refusal(lambda: parts.apply(pack, model, name))
    assert "wider.safetensors" in sentence and "'sd15'" in sentence and "channels" in sentence
    # a MODEL that is no U-Net: a small SD3
    config = {"input_size": 8, "depth": 1, "patch_size": 2, "in_channels": 16, "context_embedder_config": None,
              "num_patches": 16, "pos_embed_max_size": 8, "dtype": torch.float32}  # fmt: skip
    sd3 = comfy.supported_models.SD3(config)
    sd3.set_inference_dtype(torch.float32, None)
    other = comfy.model_patcher.ModelPatcher(comfy.model_base.SD3(sd3, device="cpu"), torch.device("cpu"), torch.device("cpu"))
    sentence = parts.refusal(lambda: parts.apply(pack, other))
    assert "SD3" in sentence and "needs the U-Net" in sentence


def check_linked_inputs_pass_validation(pack: Any) -> None:
    """ComfyUI validates an input that is linked as None."""
    assert pack.nodes["EmuVideoConditioning"].validate_inputs(positions=None, length=8) is True
    assert pack.nodes["EmuVideoConditioning"].validate_inputs(positions="0, -1", length=None) is True
    assert pack.nodes["EmuVideoApplyStack"].validate_inputs(stack=None) is True
    assert pack.nodes["EmuVideoApplyStack"].fingerprint_inputs(stack=None, strength=1.0) is None
    assert "steps / denoise" in parts.refusal(
        lambda: pack.run("EmuVideoScheduler", model=parts.apply(pack, tiny(pack)[0]), steps=600, denoise=0.5)
    )


def check_previews_show_the_picture(pack: Any) -> None:
    """The linear preview of a picture's latents is near the picture made small."""
    pack = pack.bundled()
    model, clip, vae = tiny(pack)
    image = pack.run(
        "EmuVideoStartingFrame", model=model, clip=clip, vae=vae, prompt=parts.PROMPT, negative_prompt="", **parts.SIZE, seed=1,
        steps=8, sampler_name="ddim", text_guidance=-1.0,
    )[0]  # fmt: skip
    latent_format = model.model.latent_format
    factors, bias = (torch.tensor(v) for v in (latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias))
    shown = vae.encode(image)[0].movedim(0, -1) @ factors + bias
    small = torch.nn.functional.avg_pool2d(image.movedim(-1, 1), 8)[0].movedim(0, -1) * 2 - 1
    assert (shown - small).abs().mean() < 0.2, (shown - small).abs().mean()

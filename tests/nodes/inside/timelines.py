"""Videos of several calls: extension, loops, keyframes, prompts by range. See harness.py."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import parts
import torch

SETTINGS: dict[str, Any] = {"seed": 11, "steps": 3, "sampler_name": "euler", "text_guidance": 4.0, "image_guidance": 1.5}
UP = "a big red circle moves up on a white background"


def ready(pack: Any, stack: str = "standard_F.safetensors") -> dict[str, Any]:
    """What the three nodes share, with `clip` beside it."""
    model, clip, vae = pack.run("EmuVideoTinyModel")
    positive, negative = parts.texts(clip)
    model = parts.apply(pack, parts.on_the_same_schedule(pack, model), stack)
    return {"model": model, "positive": positive, "negative": negative, "vae": vae, **SETTINGS}


def prompts(pack: Any, **ranges: str) -> list[Any]:
    """A CONDITIONING as Conditioning (Combine) joins them: the usual prompt, and another for the range."""
    _, clip, _ = pack.run("EmuVideoTinyModel")
    usual, other = (parts.texts(clip, text)[0] for text in (parts.PROMPT, UP))
    return usual + pack.run("EmuVideoPromptRange", conditioning=other, **ranges)[0]


def check_extension(pack: Any) -> dict[str, torch.Tensor]:
    """By several frames of the past, with two prompts, of which the second is for the frames 6 to 11 after the given ones."""
    given = parts.picture(1, 3)
    inputs = {**ready(pack), "positive": prompts(pack, range="1.5s-3s"), "images": given, "past": 2}
    video, fps = pack.run("EmuVideoExtend", frames=14, **inputs)
    assert fps == 4.0
    assert torch.equal(video[:3], given), "given frames are not as they were given"
    return {"given": given, "video": video}


def check_backwards(pack: Any) -> dict[str, torch.Tensor]:
    """Of another size than whole latents, which is kept."""
    given = parts.picture(2, 2, 61, 70)
    video, _ = pack.run("EmuVideoExtend", images=given, frames=9, backwards=True, **ready(pack))
    assert torch.equal(video[9:], given), "given frames are not as they were given"
    return {"given": given, "video": video}


def check_loop(pack: Any) -> dict[str, torch.Tensor]:
    given = parts.picture(3)
    inputs = {**ready(pack), "image_guidance": -1.0}  # of which a call that leads to a given frame makes its own
    video, _ = pack.run("EmuVideoLoop", image=given, frames=0, **inputs)
    assert video.shape == (7, 64, 64, 3)
    assert torch.equal(video[:1], given), "the first frame is not as it was given"
    return {"given": given, "video": video}


def check_keyframes(pack: Any) -> dict[str, torch.Tensor]:
    """One by one and as a batch, in any order, named by both forms of growing inputs; spread evenly gives the same."""
    first, others = parts.picture(4), parts.picture(5, 2)
    inputs = {**ready(pack), **parts.SIZE, "positive": prompts(pack, range="8-"), "resize": "none", "length": 13}
    pictures = {"images": {"image0": others, "image3": first}}
    video, _ = pack.run("EmuVideoKeyframes", positions="6, -1, 0", **pictures, **inputs)
    given = torch.cat([first, others])
    assert torch.equal(video[[0, 6, 12]], given), "the pictures are not where they were put"
    flat = {"images.image0": first, "images.image1": others}
    again, _ = pack.run("EmuVideoKeyframes", positions="", **flat, **inputs)
    assert parts.same(again, video)
    return {"given": given, "video": video}


def check_text_alone(pack: Any) -> dict[str, torch.Tensor]:
    inputs = {**ready(pack), **parts.SIZE, "resize": "none", "length": 10, "positions": ""}
    return {"video": pack.run("EmuVideoKeyframes", **inputs)[0]}


def check_progress_is_of_the_whole_and_cancel_leaves_nothing(pack: Any) -> None:
    """Three calls of three steps each; then a Cancel in the second call, after which the same runs as before."""
    seen: list[tuple[int, int]] = []
    management, stop_at = comfy.model_management, [-1]

    def hook(value: int, total: int, preview: Any, **_: Any) -> None:
        management.throw_exception_if_processing_interrupted()  # as ComfyUI's main has it here
        seen.append((value, total))
        if 0 < stop_at[0] <= value:
            management.interrupt_current_processing(True)

    inputs = {**ready(pack), "images": parts.picture(1), "frames": 16}
    comfy.utils.set_progress_bar_global_hook(hook)
    soonest = getattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0)
    comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL = 0.0  # or where it is cancelled would depend on the machine
    try:
        whole, _ = pack.run("EmuVideoExtend", **inputs)
        told = [value for value, total in seen if total == 9]
        assert told == sorted(set(told)), seen
        assert (told[0], told[-1], len(told) > 4) == (1, 9, True), seen
        seen.clear()
        stop_at[0] = 5
        try:
            pack.run("EmuVideoExtend", **inputs)
            raise AssertionError("it went on after Cancel")
        except management.InterruptProcessingException:
            assert 5 <= max(value for value, total in seen if total == 9) < 9, seen
        stop_at[0] = -1
        assert parts.same(pack.run("EmuVideoExtend", **inputs)[0], whole)
    finally:
        comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL = soonest
        comfy.utils.set_progress_bar_global_hook(None)
        management.interrupt_current_processing(False)


def check_interpolation_follows_ranges(pack: Any) -> None:
    """A window has the prompt of the keyframe in its middle: the same as with that prompt alone."""
    inputs, (model, clip, _) = ready(pack), pack.run("EmuVideoTinyModel")
    inputs["model"] = parts.apply(pack, model, "tiny I (bundled)")
    images, how = parts.picture(6, 10), {"stitch": "continuous", "fps": 4.0}
    ranged, _ = pack.run("EmuVideoInterpolate", images=images, **{**inputs, "positive": prompts(pack, range="8-")}, **how)
    usual, other = (
        pack.run("EmuVideoInterpolate", images=images, **{**inputs, "positive": parts.texts(clip, text)[0]}, **how)[0]
        for text in (parts.PROMPT, UP)
    )
    assert parts.same(ranged[:33], usual[:33])
    assert parts.same(ranged[33:], other[33:])
    assert not torch.equal(usual[33:], other[33:])


def check_a_plain_sampler_passes_over_ranges(pack: Any) -> None:
    model, clip, _ = pack.run("EmuVideoTinyModel")
    positive, negative = parts.texts(clip)
    ranged = pack.run("EmuVideoPromptRange", conditioning=positive, range="0-2s")[0]
    found, expected = (parts.ksample(model, one, negative, parts.empty(model, 1)) for one in (ranged, positive))
    assert torch.equal(found, expected)


def check_prompts_by_range_are_those_joined(pack: Any) -> None:
    """One text is the same as CLIP Text Encode, Prompt for a Range and Conditioning (Combine)."""
    _, clip, _ = pack.run("EmuVideoTinyModel")
    found = pack.run("EmuVideoPrompts", clip=clip, text=f"\n {parts.PROMPT}\n\n1.5s - 3s : {UP}\n")[0]
    expected = prompts(pack, range="1.5s - 3s")
    assert [entry[1].get("emu_video_range") for entry in found] == [None, "1.5s - 3s"]
    for (text, values), (other, others) in zip(found, expected, strict=True):
        assert torch.equal(text, other)
        assert values.keys() == others.keys()
    for text, words in {"": "the prompt is empty", "0-2s:": "no prompt behind its range", "3-2: up": "choose one within"}.items():
        assert words in parts.refusal(lambda text=text: pack.run("EmuVideoPrompts", clip=clip, text=text))
        assert words in pack.nodes["EmuVideoPrompts"].validate_inputs(text=text)


def check_videos_of_a_batch_have_their_own(pack: Any) -> None:
    """Prompts and starting frames of their own: each video is what the whole batch would be with that prompt and frame."""
    model, clip, vae = pack.run("EmuVideoTinyModel")
    lines = f"{parts.PROMPT}\n\na small blue cross moves up"
    batch, videos = pack.run("EmuVideoPromptBatch", clip=clip, text=lines)
    size = {"negative_prompt": "", **parts.SIZE, "seed": 5, "steps": 3, "sampler_name": "ddim", "text_guidance": 3.0}
    frames, *single = (
        pack.run("EmuVideoStartingFrame", model=model, clip=clip, vae=vae, prompt=text, per_line=per_line, **size)[0]
        for text, per_line in ((lines, True), *((line, False) for line in lines.split("\n\n")))
    )
    assert parts.same(frames, torch.cat(single))
    video_model, negative = parts.apply(pack, model), parts.texts(clip)[1]

    def made(positive: Any, image: torch.Tensor, **changes: Any) -> torch.Tensor:
        settings = {**parts.SIZE, "length": 8, "videos": videos, "positions": "0", "resize": "none", **changes}
        conditions = pack.run("EmuVideoConditioning", positive=positive, negative=negative, vae=vae, image=image, **settings)
        names = ("positive", "image_only", "negative", "latent")
        return pack.run("EmuVideoSampler", model=video_model, **dict(zip(names, conditions, strict=True)), **SETTINGS)[0][
            "samples"
        ]

    found = made(batch, frames)
    for number, line in enumerate(lines.split("\n\n")):
        alone = made(parts.texts(clip, line)[0], frames[number : number + 1])
        own = slice(8 * number, 8 * number + 8)
        assert (found[own] - alone[own]).abs().max() <= 1e-3 * alone.std()  # a batch of another size rounds otherwise
        assert (found[8:] - alone[:8]).abs().max() > 0.1
    both = torch.cat([frames, frames.flip(0)])  # first and last frame of each
    assert made(batch, both, positions="0, -1").shape == found.shape
    words = {
        "prompts are given for 2 videos, and videos is 3": lambda: made(batch, frames[:1], videos=3),
        "found 2 frames and 1 positions": lambda: made(batch, frames, videos=1),
        "frames are given for 2 videos, and the latent holds 8 frames": lambda: parts.ksample(
            video_model, *parts.conditioning(pack, clip, vae, image=frames, videos=2)[:2], parts.empty(video_model, 8)
        ),
    }
    for text, action in words.items():
        assert text in parts.refusal(action)


def check_what_is_refused(pack: Any) -> dict[str, str]:
    inputs, images = ready(pack), parts.picture(1, 3)
    bad: dict[str, Any] = {}

    def extend(**changes: Any) -> Any:
        return pack.run("EmuVideoExtend", **{**inputs, "images": images, "frames": 8, **changes})

    def keyframes(**changes: Any) -> Any:
        usual = {**parts.SIZE, "resize": "none", "length": 20, "positions": "", "images": {"image0": images}}
        return pack.run("EmuVideoKeyframes", **{**inputs, **usual, **changes})

    _, clip, vae = pack.run("EmuVideoTinyModel")
    ranged = prompts(pack, range="0-1s")
    bad["a gap that no window bridges"] = lambda: keyframes(positions="0, 4, 19")
    bad["positions twice"] = lambda: keyframes(positions="0, 3, 3")
    bad["a position beyond the end"] = lambda: keyframes(positions="0, 3, 20")
    bad["more positions than pictures"] = lambda: keyframes(positions="0, 3, 5, 7")
    bad["more pictures than frames"] = lambda: keyframes(length=2)
    bad["sizes that differ"] = lambda: keyframes(width=128)
    bad["a range beyond the end"] = lambda: extend(positive=prompts(pack, range="1s-3s"))
    bad["a frame without a prompt"] = lambda: extend(positive=ranged[1:])
    bad["two prompts without a range"] = lambda: extend(positive=ranged + prompts(pack, range="4-8"))
    bad["no prompt"] = lambda: extend(positive=[])
    bad["no prompt in a range"] = lambda: pack.run("EmuVideoPromptRange", conditioning=[], range="0-2s")
    bad["no range"] = lambda: pack.run("EmuVideoPromptRange", conditioning=ranged, range="two seconds")
    bad["a range backwards"] = lambda: pack.run("EmuVideoPromptRange", conditioning=ranged, range="2s-1s")
    bad["a negative range"] = lambda: extend(negative=ranged)
    bad["past beyond the video"] = lambda: extend(past=5)
    bad["past beyond the window"] = lambda: extend(past=9, images=parts.picture(1, 12))
    bad["a loop too long"] = lambda: pack.run("EmuVideoLoop", image=images, frames=8, **inputs)
    bad["no stack"] = lambda: extend(model=pack.run("EmuVideoTinyModel")[0])
    bad["a stack without frames"] = lambda: extend(model=parts.apply(pack, inputs["model"], "text_alone.safetensors"))
    for one, frames in (("PIA with several", images), ("PIA with one", images[:1])):
        pia = parts.apply(pack, inputs["model"], "pia.safetensors")
        bad[one] = lambda pia=pia, frames=frames: extend(model=pia, images=frames, past=len(frames))
    conditions = parts.conditioning(pack, clip, vae)
    bad["the sampler of one call"] = lambda: pack.run(
        "EmuVideoSampler", model=inputs["model"], positive=ranged, image_only=conditions[1], negative=conditions[2],
        latent=conditions[3], **SETTINGS,
    )  # fmt: skip
    said = {}
    for name, action in bad.items():
        try:
            action()
            said[name] = ""
        except ValueError as error:
            said[name] = str(error)
    return said

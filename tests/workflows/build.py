"""Builds example_workflows/ and subgraphs/ from one description of each: the page's form (*.json), the API's (api/*.json), and,
by running it in a real ComfyUI, the picture of its output (*.jpg): `python -m tests.workflows.build COMFYUI [NAME ...]`. Take
the oldest ComfyUI: the page fills in what newer ones have beyond it, but none leaves out what it does not know.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..nodes.server import Server, temporary_folder
from .graph import Blueprint, Download, Ref, Workflow

OUT = Path(__file__).parents[2] / "example_workflows"
SUBGRAPHS = OUT.parent / "subgraphs"
PROMPT = "a big purple unicorn runs right along a beach"
DOLPHIN, CAR = "a small cyan dolphin jumps in the ocean", "a small blue car drives right on a meadow"
FISH = "a small orange fish jumps in the ocean"
"""All three of combinations that the bundled model was never trained on."""
SIZE = {"width": 64, "height": 64}
# -- pieces that several workflows share


@dataclass
class Models:
    model: Ref
    clip: Ref
    vae: Ref


def tiny(w: Workflow) -> Models:
    loader = w.add("EmuVideoTinyModel", 0)
    return Models(loader, Ref(loader.node, 1), Ref(loader.node, 2))


def prompt(w: Workflow, text: str = PROMPT) -> Ref:
    return w.add("PrimitiveStringMultiline", 0, "Prompt", value=text)


def texts(w: Workflow, models: Models, words: Ref, column: int = 0, negative: str = "") -> tuple[Ref, Ref]:
    positive = w.add("CLIPTextEncode", column, "Positive", clip=models.clip, text=words)
    title = "Negative" if negative else "Negative (empty)"
    return positive, w.add("CLIPTextEncode", column, title, clip=models.clip, text=negative)


def starting_frame(w: Workflow, models: Models, words: Ref, seed: int | Ref, **changes: Any) -> Ref:
    usual = {"negative_prompt": "", **SIZE, "seed": seed, "steps": 0, "sampler_name": "ddim", "text_guidance": -1.0}
    inputs = {"model": models.model, "clip": models.clip, "vae": models.vae, "prompt": words, **usual, **changes}
    return w.add("EmuVideoStartingFrame", 1, **inputs)


def stack(w: Workflow, models: Models, role: str, column: int = 2) -> Ref:
    return w.add("EmuVideoApplyStack", column, model=models.model, stack=f"tiny {role} (bundled)", strength=1.0)


def given(
    w: Workflow,
    models: Models,
    texts: tuple[Ref, Ref],
    image: Ref | None,
    positions: str = "0",
    column: int = 2,
    length: int | Ref = 8,
    size: dict[str, int] = SIZE,
    **told: Any,
) -> tuple[Ref, ...]:
    images = {} if image is None else {"image": image}
    node = w.add(
        "EmuVideoConditioning", column, "" if images else "Without image", positive=texts[0], negative=texts[1], vae=models.vae,
        **images, **size, length=length, videos=1, positions=positions, resize="center crop", **told,
    )  # fmt: skip
    return tuple(Ref(node.node, slot) for slot in range(4))


def sampled(w: Workflow, video_model: Ref, conditions: tuple[Ref, ...], seed: int | Ref, title: str = "") -> Ref:
    """LATENT of the video; its rate is the output behind it."""
    positive, image_only, negative, latent = conditions
    return w.add(
        "EmuVideoSampler", 3, title, model=video_model, positive=positive, image_only=image_only, negative=negative,
        latent=latent, seed=seed, steps=0, sampler_name="ddim", text_guidance=-1.0, image_guidance=-1.0,
    )  # fmt: skip


def rate_of(made: Ref) -> Ref:
    """The rate of what Emu Video Sampler, Emu Video Interpolation or Apply Temporal Stack gives."""
    return Ref(made.node, 1)


def decoded(w: Workflow, models: Models, latents: Ref, column: int = 4, title: str = "") -> Ref:
    return w.add("VAEDecode", column, title, samples=latents, vae=models.vae)


def saved(w: Workflow, images: Ref, fps: Ref, column: int, every: int = 1, scale: int = 2) -> None:
    """The video in one column, a sheet of its frames in the next."""
    video = w.add("CreateVideo", column, images=images, fps=fps)
    save_video(w, video, column)
    sheet = w.add("EmuVideoContactSheet", column + 1, images=images, columns=4, every=every, scale=scale, numbers=False)
    w.add("PreviewImage", column + 1, images=sheet)


def save_video(w: Workflow, video: Ref, column: int, size: tuple[int, int] | None = None) -> None:
    codec = {"codec": "h264", "format.codec": "h264"}
    w.add("SaveVideo", column, size=size, video=video, filename_prefix=f"video/emu_{w.name}", format="mp4", **codec)


def animated(w: Workflow, models: Models, words: Ref, image: Ref, seed: int, positions: str = "0", column: int = 0) -> None:
    """The bundled stack's video with the given frames, saved; `column` is that of the texts."""
    both = texts(w, models, words, column)
    latents = sampled(w, stack(w, models, "F"), given(w, models, both, image, positions), seed)
    saved(w, decoded(w, models, latents), rate_of(latents), 4)


# -- the workflows


def text_to_video() -> Workflow:
    w = Workflow(
        "text_to_video",
        "Text to Video",
        "## Text to video\nThe frozen image model makes a **starting frame** from the prompt; the **temporal stack** on the same "
        "model makes a video of 8 frames from that frame and the prompt.\n\nThe bundled tiny model knows figures (circle, "
        "square, triangle, cross, fish, dolphin, bird, boat, car, rocket, balloon, unicorn), colours, big and small, grounds "
        "(sea, sky, beach, meadow, night; white, gray, black) and motions (moves right, left, up, down, slowly; stays still, "
        "jumps, turns, grows, shrinks; the camera pans or zooms). For your own model, replace the loader and choose a stack from "
        "models/emu_video.",
    )
    models, words = tiny(w), prompt(w)
    frame = starting_frame(w, models, words, 8)
    animated(w, models, words, frame, 8)
    return w


def image_to_video() -> Workflow:
    w = Workflow(
        "image_to_video",
        "Image to Video",
        "## Image to video\nYour own picture is the starting frame; the prompt says how it moves. Pictures of another "
        "size are cut and resized as **resize** says. The picture emu_video_dolphin.png was put into ComfyUI's input folder "
        "by the pack.",
    )
    models, words = tiny(w), prompt(w, DOLPHIN)
    image = w.add("LoadImage", 1, image="emu_video_dolphin.png")
    animated(w, models, words, image, 7, column=1)
    return w


def text_to_video_interpolated() -> Workflow:
    w = Workflow(
        "text_to_video_interpolated",
        "Text to Video with Interpolation",
        "## Text to video, then four times the frame rate\nAll three steps of Emu Video: starting frame, 8 frames at 4 "
        "a second, and 37 frames at 16 a second by the **interpolation stack**, which is given the 8 frames and makes those "
        "between and around.",
    )
    models, words = tiny(w), prompt(w, "a big pink balloon floats up in the sky")
    frame = starting_frame(w, models, words, 9)
    positive, negative = texts(w, models, words)
    latents = sampled(w, stack(w, models, "F"), given(w, models, (positive, negative), frame), 9)
    images = decoded(w, models, latents)
    finer = w.add(
        "EmuVideoInterpolate", 4, model=stack(w, models, "I", 4), positive=positive, negative=negative, vae=models.vae,
        images=images, seed=9, steps=0, sampler_name="ddim", text_guidance=-1.0, image_guidance=-1.0, stitch="continuous",
        fps=rate_of(latents),
    )  # fmt: skip
    saved(w, finer, rate_of(finer), 5, every=5)
    return w


def text_to_video_wired() -> Workflow:
    w = Workflow(
        "text_to_video_wired",
        "Text to Video from Single Nodes",
        "## Text to video from ComfyUI's own nodes\nThe same as *Text to Video*, with the samplers wired: the starting frame by "
        "CFGGuider, the video by **DualCFGGuider** (style *regular*), whose cond1 is text and image, cond2 the image alone. "
        "cfg_conds is the paper's text guidance w_p, cfg_cond2_negative its image guidance w_i.",
    )
    models, words = tiny(w), prompt(w)
    positive, negative = texts(w, models, words)
    sampler = w.add("KSamplerSelect", 1, sampler_name="ddim")
    noise = w.add("RandomNoise", 1, noise_seed=8)
    latent = w.add("EmptyLatentImage", 1, **SIZE, batch_size=1)
    guider = w.add("CFGGuider", 1, model=models.model, positive=positive, negative=negative, cfg=3.0)
    sigmas = w.add("EmuVideoScheduler", 1, model=models.model, steps=20, denoise=1.0)
    first = w.add("SamplerCustomAdvanced", 2, noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent)
    frame = w.add("VAEDecode", 2, "Starting frame", samples=first, vae=models.vae)
    w.add("PreviewImage", 2, "Starting frame", size=(280, 280), images=frame)
    video_model = stack(w, models, "F", 3)
    p, i, n, empty = given(w, models, (positive, negative), frame, column=3)
    dual = w.add(
        "DualCFGGuider", 4, model=video_model, cond1=p, cond2=i, negative=n, cfg_conds=3.0, cfg_cond2_negative=1.0,
        style="regular",
    )  # fmt: skip
    video_sigmas = w.add("EmuVideoScheduler", 4, model=video_model, steps=20, denoise=1.0)
    second = w.add("SamplerCustomAdvanced", 5, noise=noise, guider=dual, sampler=sampler, sigmas=video_sigmas, latent_image=empty)
    saved(w, decoded(w, models, second, 6), rate_of(video_model), 6)
    return w


def first_and_last_frame() -> Workflow:
    w = Workflow(
        "first_and_last_frame",
        "First and Last Frame",
        "## First and last frame\nTwo pictures are given: **positions** says that they are frame 0 and frame -1, the "
        "last. Any set of frames can be given in this way, as a batch of images and a list of positions.",
    )
    models, words = tiny(w), prompt(w, CAR)
    first = w.add("LoadImage", 1, "First frame", image="emu_video_car.png")
    last = w.add("LoadImage", 1, "Last frame", image="emu_video_car_last.png")
    both = w.add("ImageBatch", 1, image1=first, image2=last)
    animated(w, models, words, both, 7, "0, -1")
    return w


def text_to_video_lora() -> Workflow:
    w = Workflow(
        "text_to_video_lora",
        "Text to Video with a LoRA",
        "## With a LoRA on the image model\nA LoRA on the text-to-image MODEL changes the starting frame and, since "
        "the video model is the same U-Net with temporal layers, the video too. "
        "The bundled example LoRA draws in pastel colours.",
    )
    models, words = tiny(w), prompt(w)
    lora = "emu_video_tiny_pastel.safetensors"
    with_lora = w.add("LoraLoaderModelOnly", 0, model=models.model, lora_name=lora, strength_model=1.0)
    models = Models(with_lora, models.clip, models.vae)
    frame = starting_frame(w, models, words, 1)
    animated(w, models, words, frame, 1)
    return w


def studied(
    w: Workflow, videos: dict[str, Ref], words: Ref, study: str, fps: Ref, column: int, rates: dict[str, Ref | float]
) -> None:
    """The videos side by side, saved, and into a study; rates of those that differ."""
    images = {f"images_{number}": ref for number, ref in enumerate(videos.values(), 1)}
    both = {**images, "fps": fps, **rates}
    labels = {f"label_{number}": name for number, name in enumerate(videos, 1)}
    compared = w.add("EmuVideoCompare", column, **both, **labels, height=0, shorter="loop", moments=5)
    video = w.add("CreateVideo", column, images=compared, fps=Ref(compared.node, 2))
    systems = {f"system_{number}": name for number, name in enumerate(videos, 1)}
    w.add("EmuVideoAddToStudy", column, **both, **systems, prompt=words, study=study)
    w.add("PreviewImage", column + 1, "Moments", size=(640, 420), images=Ref(compared.node, 1))
    save_video(w, video, column + 1, (640, 460))


def compare_systems() -> Workflow:
    w = Workflow(
        "compare_systems",
        "Compare Systems",
        "## Three systems on one prompt\nThe same starting frame and prompt go to **Emu Video**, to the same model **without the "
        "image** (text alone), and to no model (**the frame repeated**). The videos are measured, put side by side, and added to "
        "the study *compare systems*: **Add to Study** shows the address of the page where people vote.\n\nPut a CLIP folder "
        "into models/emu_video_metrics for the figures that need one.",
    )
    models, words = tiny(w), prompt(w)
    frame = starting_frame(w, models, words, 8)
    both = texts(w, models, words)
    video_model = stack(w, models, "F")
    latents = sampled(w, video_model, given(w, models, both, frame), 8)
    fps = rate_of(latents)
    emu = decoded(w, models, latents)
    without = sampled(w, video_model, given(w, models, both, None), 8, "Without image")
    alone = decoded(w, models, without, 4, "Without image")
    still = w.add("RepeatImageBatch", 4, "Frame repeated", image=frame, amount=8)
    w.add("EmuVideoEvaluate", 4, "Evaluate Emu Video", images=emu, fps=fps, prompt=words, clip="none", image=frame)
    videos = {"Emu Video": emu, "without the image": alone, "frame repeated": still}
    studied(w, videos, words, "compare systems", fps, 5, {})
    return w


# -- videos of several calls


def long_inputs(models: Models, video_model: Ref, positive: Ref, negative: Ref, seed: int | Ref) -> dict[str, Any]:
    """What Extend Video, Loop and Keyframes share."""
    links = {"model": video_model, "positive": positive, "negative": negative, "vae": models.vae}
    how = {"steps": 0, "sampler_name": "ddim", "text_guidance": -1.0, "image_guidance": -1.0}
    return {**links, "seed": seed, **how}


def encoded(w: Workflow, models: Models, text: str, column: int, title: str, frames: str = "") -> Ref:
    """A prompt, for a range of frames if there is one."""
    found = w.add("CLIPTextEncode", column, title, clip=models.clip, text=text)
    return w.add("EmuVideoPromptRange", column, conditioning=found, range=frames) if frames else found


def extend_a_video() -> Workflow:
    w = Workflow(
        "extend_a_video",
        "Extend a Video",
        "## A video goes on\nThe first 8 frames are made as in *Text to Video*; **Extend Video** adds 14 more, 7 by each call of "
        "the model, which is given the last frame. **Prompts by Range** has a line for each part of what is new, counted from "
        "the first new frame. The given frames stay as they are.\n\nFor your own video: Load Video, Get Video Components, and "
        "its images into Extend Video.",
    )
    models, words = tiny(w), prompt(w)
    frame = starting_frame(w, models, words, 8)
    both = texts(w, models, words)
    video_model = stack(w, models, "F")
    start = decoded(w, models, sampled(w, video_model, given(w, models, both, frame), 8))
    lines = "0-7: a big purple unicorn jumps along a beach\n7-: a big purple unicorn moves left along a beach"
    parts = w.add("EmuVideoPrompts", 4, clip=models.clip, text=lines)
    longer = w.add("EmuVideoExtend", 4, images=start, frames=14, **long_inputs(models, video_model, parts, both[1], 8))
    saved(w, longer, rate_of(longer), 5, every=2)
    return w


def loop() -> Workflow:
    w = Workflow(
        "loop",
        "Loop",
        "## A video that begins again where it ends\nThe picture is the first frame, and what would follow the last: played "
        "again and again, the video has no seam. **frames** 0 is as many as the model can close.",
    )
    models, words = tiny(w), prompt(w, FISH)
    image = w.add("LoadImage", 1, image="emu_video_fish.png")
    positive, negative = texts(w, models, words, 1)
    inputs = long_inputs(models, stack(w, models, "F"), positive, negative, 7)
    looping = w.add("EmuVideoLoop", 3, image=image, frames=0, **inputs)
    saved(w, looping, rate_of(looping), 4)
    return w


def keyframes() -> Workflow:
    w = Workflow(
        "keyframes",
        "Keyframes",
        "## Pictures at any places\nThree pictures become frames 0, 7 and 14 (**positions**; empty: spread evenly), and the "
        "model makes what is between. Connect one, and a further input appears. Each part has a prompt of its own: **Prompt for "
        "a Range**, joined by *Conditioning (Combine)*.",
    )
    models = tiny(w)
    first = w.add("LoadImage", 0, "First and last", image="emu_video_car.png")
    middle = w.add("LoadImage", 0, "Middle", image="emu_video_car_last.png")
    right = encoded(w, models, CAR, 1, "Right", "0-8")
    left = encoded(w, models, CAR.replace("right", "left"), 1, "Left", "8-")
    positive = w.add("ConditioningCombine", 2, conditioning_1=right, conditioning_2=left)
    negative = encoded(w, models, "", 2, "Negative (empty)")
    pictures = {"images.image0": first, "images.image1": middle, "images.image2": first}
    made = w.add(
        "EmuVideoKeyframes", 3, **pictures, **SIZE, length=15, positions="0, 7, -1", resize="center crop",
        **long_inputs(models, stack(w, models, "F"), positive, negative, 7),
    )  # fmt: skip
    saved(w, made, rate_of(made), 4)
    return w


# -- with public checkpoints on SD 1.5


def on_hub(repository: str, file: str, directory: str = "emu_video") -> Download:
    return Download(file.rpartition("/")[2], f"https://huggingface.co/{repository}/resolve/main/{file}", directory)


SD15 = on_hub("Comfy-Org/stable-diffusion-v1-5-archive", "v1-5-pruned-emaonly-fp16.safetensors", "checkpoints")
ANIMATEDIFF = on_hub("conrevo/AnimateDiff-A1111", "motion_module/mm_sd15_v3.safetensors")
PIA = on_hub("openmmlab/PIA-condition-adapter", "diffusion_pytorch_model.safetensors")
FANCYVIDEO = on_hub("qihoo360/FancyVideo", "fancyvideo_ckpts/vae_3d_61_frames/mp_rank_00_model_states.pt")
SVD = on_hub("stabilityai/stable-video-diffusion-img2vid", "svd.safetensors", "checkpoints")
LARGE = {"width": 512, "height": 512}
NEGATIVE = "low quality, blurry, deformed, watermark, text"


def sd15(w: Workflow) -> Models:
    loader = w.add("CheckpointLoaderSimple", 0, needs=SD15, ckpt_name=SD15.name)
    return Models(loader, Ref(loader.node, 1), Ref(loader.node, 2))


def public_stack(w: Workflow, models: Models, file: Download) -> Ref:
    return w.add("EmuVideoApplyStack", 2, needs=file, model=models.model, stack=file.name, strength=1.0)


def large_frame(w: Workflow, models: Models, words: Ref) -> Ref:
    changes = {"negative_prompt": NEGATIVE, **LARGE, "steps": 30, "sampler_name": "dpmpp_2m"}
    return starting_frame(w, models, words, 8, **changes)


def told(w: Workflow, models: Models, texts: tuple[Ref, Ref], image: Ref, **changes: Any) -> tuple[Ref, ...]:
    return given(w, models, texts, image, length=16, size=LARGE, **changes)


def from_text_alone(w: Workflow, models: Models, video_model: Ref, texts: tuple[Ref, Ref], title: str = "") -> Ref:
    """LATENT of AnimateDiff by the ordinary KSampler."""
    latent = w.add("EmptyLatentImage", 2, **LARGE, batch_size=16)
    return w.add(
        "KSampler", 3, title, model=video_model, positive=texts[0], negative=texts[1], latent_image=latent, seed=8, steps=25,
        cfg=7.5, sampler_name="euler", scheduler="sgm_uniform", denoise=1.0,
    )  # fmt: skip


def animatediff() -> Workflow:
    w = Workflow(
        "animatediff",
        "AnimateDiff",
        "## AnimateDiff on SD 1.5\nThe stack is AnimateDiff's original file; the MODEL that comes out is sampled by the ordinary "
        "**KSampler**, whose batch of 16 latents is one video of 16 frames (up to 32; beyond that, put *Context Windows "
        "(Manual)* on the MODEL). AnimateDiff knows no image.\n\nFiles: an SD 1.5 checkpoint in models/checkpoints, "
        f"**{ANIMATEDIFF.name}** (or mm_sd_v15_v2.ckpt, v3_sd15_mm.ckpt ...) in models/emu_video.",
    )
    models, words = sd15(w), prompt(w, "a sailing boat on a stormy sea, waves, cinematic light, highly detailed")
    video_model = public_stack(w, models, ANIMATEDIFF)
    latents = from_text_alone(w, models, video_model, texts(w, models, words, negative=NEGATIVE))
    saved(w, decoded(w, models, latents), rate_of(video_model), 4, scale=1)
    return w


def pia_image_to_video() -> Workflow:
    w = Workflow(
        "pia_image_to_video",
        "PIA Image to Video",
        "## PIA: your picture moves\nPIA is given one picture, which every frame resembles by an *affinity*; **motion** says how "
        "far frames may go from it (small, moderate, large; loops; style for a picture of another style than the checkpoint's). "
        "**positions** may be any frame. Best with a checkpoint of the picture's own style.\n\nFiles: an SD 1.5 checkpoint in "
        f"models/checkpoints, PIA's **{PIA.name}** (or pia.ckpt) in models/emu_video.",
    )
    models, words = sd15(w), prompt(w, "a lighthouse, clouds drifting, waves, best quality")
    image = w.add("LoadImage", 1, image="emu_video_dolphin.png")
    video_model = public_stack(w, models, PIA)
    conditions = told(w, models, texts(w, models, words, 1, NEGATIVE), image, motion="moderate")
    latents = sampled(w, video_model, conditions, 7)
    saved(w, decoded(w, models, latents), rate_of(latents), 4, scale=1)
    return w


def fancyvideo_text_to_video() -> Workflow:
    w = Workflow(
        "fancyvideo_text_to_video",
        "FancyVideo Text to Video",
        "## FancyVideo: text to video on SD 1.5\nEmu Video's own conditioning: the checkpoint makes a **starting frame**, "
        "FancyVideo makes the video from it. **cond_fps** and **motion_score** are numbers that it is told (-1: 25 and 3). With "
        "the ordinary VAE each latent is one frame, about 6 a second.\n\nFiles: an SD 1.5 checkpoint in models/checkpoints, and "
        f"FancyVideo's **{FANCYVIDEO.name}** (61 frames) in models/emu_video.",
    )
    models, words = sd15(w), prompt(w, "a panda eating bamboo in a forest, photo, highly detailed")
    frame = large_frame(w, models, words)
    video_model = public_stack(w, models, FANCYVIDEO)
    conditions = told(w, models, texts(w, models, words, negative=NEGATIVE), frame, cond_fps=-1.0, motion_score=-1.0)
    latents = sampled(w, video_model, conditions, 8)
    saved(w, decoded(w, models, latents), rate_of(latents), 4, scale=1)
    return w


SVD_RATE = 6


def svd_video(w: Workflow, frame: Ref) -> Ref:
    """Stable Video Diffusion from a starting frame, by ComfyUI's own nodes."""
    loader = w.add("ImageOnlyCheckpointLoader", 1, needs=SVD, ckpt_name=SVD.name)
    model = w.add("VideoLinearCFGGuidance", 1, model=loader, min_cfg=1.0)
    conditions = w.add(
        "SVD_img2vid_Conditioning", 2, clip_vision=Ref(loader.node, 1), init_image=frame, vae=Ref(loader.node, 2), **LARGE,
        video_frames=14, motion_bucket_id=127, fps=SVD_RATE, augmentation_level=0.0,
    )  # fmt: skip
    latents = w.add(
        "KSampler", 3, "SVD", model=model, positive=conditions, negative=Ref(conditions.node, 1),
        latent_image=Ref(conditions.node, 2), seed=8, steps=20, cfg=2.5, sampler_name="euler", scheduler="karras", denoise=1.0,
    )  # fmt: skip
    return w.add("VAEDecode", 4, "SVD", samples=latents, vae=Ref(loader.node, 2))


def compare_with_svd() -> Workflow:
    w = Workflow(
        "compare_with_svd",
        "Compare with SVD",
        "## Emu Video, SVD and AnimateDiff on one prompt\nOne **starting frame** and prompt, three systems: Emu Video's way on "
        "SD 1.5 (FancyVideo's layers), **SVD** by ComfyUI's own nodes, which is given the frame alone, and a direct "
        "**AnimateDiff** video, which is given the prompt alone. Side by side, and into the study *emu or svd*.\n\nFiles: an "
        f"SD 1.5 checkpoint and **{SVD.name}** in models/checkpoints, **{FANCYVIDEO.name}** and **{ANIMATEDIFF.name}** in "
        "models/emu_video. Videos from elsewhere: Load Video, Get Video Components.",
    )
    models, words = sd15(w), prompt(w, "a sailing boat on a stormy sea, waves, cinematic light, highly detailed")
    frame = large_frame(w, models, words)
    both = texts(w, models, words, negative=NEGATIVE)
    video_model = public_stack(w, models, FANCYVIDEO)
    conditions = told(w, models, both, frame, cond_fps=-1.0, motion_score=-1.0)
    latents = sampled(w, video_model, conditions, 8)
    emu = decoded(w, models, latents, 4, "Emu Video")
    motion = public_stack(w, models, ANIMATEDIFF)
    direct = decoded(w, models, from_text_alone(w, models, motion, both, "AnimateDiff"), 4, "AnimateDiff")
    videos = {"Emu Video": emu, "SVD": svd_video(w, frame), "AnimateDiff": direct}
    rates = {"fps_2": float(SVD_RATE), "fps_3": rate_of(motion)}
    studied(w, videos, words, "emu or svd", rate_of(latents), 5, rates)
    return w


# -- blueprints: a whole workflow as one node

CHANGE_MODEL = "It holds the bundled tiny model: open it to put your own checkpoint and stack in its place."


def finish(w: Blueprint, models: Models, words: Ref, image: Ref, length: Ref, seed: Ref) -> Blueprint:
    """The video of a starting frame, which is the image that is given."""
    conditions = given(w, models, texts(w, models, words), image, length=length)
    latents = sampled(w, stack(w, models, "F"), conditions, seed)
    images = decoded(w, models, latents)
    w.outputs = {"VIDEO": w.add("CreateVideo", 4, images=images, fps=rate_of(latents)), "IMAGE": images}
    return w


def text_to_video_blueprint() -> Blueprint:
    note = "A video from a prompt, by way of a starting frame. " + CHANGE_MODEL
    w = Blueprint("text_to_video", "Text to Video (Emu Video)", note, aliases=("t2v", "txt2vid", "animatediff"))
    words, length, seed = w.expose("prompt", "STRING", PROMPT), w.expose("length", "INT", 8), w.expose("seed", "INT", 8)
    models = tiny(w)
    return finish(w, models, words, starting_frame(w, models, words, seed), length, seed)


def image_to_video_blueprint() -> Blueprint:
    note = "Your picture moves as the prompt says. " + CHANGE_MODEL
    w = Blueprint("image_to_video", "Image to Video (Emu Video)", note, aliases=("i2v", "img2vid", "animate image"))
    image, words = w.expose("image", "IMAGE"), w.expose("prompt", "STRING", DOLPHIN)
    length, seed = w.expose("length", "INT", 8), w.expose("seed", "INT", 7)
    return finish(w, tiny(w), words, image, length, seed)


def longer_video_blueprint() -> Blueprint:
    note = (
        "A picture or a video goes on as long as you like; a line of the prompt for each part, such as 0-2s: ... " + CHANGE_MODEL
    )
    w = Blueprint("longer_video", "Longer Video (Emu Video)", note, aliases=("extend video", "long video", "prompt travel"))
    text = f"0-2s: {DOLPHIN}\n2s-: a small cyan dolphin moves left in the ocean"
    images, words = w.expose("images", "IMAGE"), w.expose("prompt", "STRING", text)
    frames, seed = w.expose("frames", "INT", 16), w.expose("seed", "INT", 7)
    models = tiny(w)
    positive = w.add("EmuVideoPrompts", 0, clip=models.clip, text=words)
    negative = encoded(w, models, "", 0, "Negative (empty)")
    inputs = long_inputs(models, stack(w, models, "F"), positive, negative, seed)
    longer = w.add("EmuVideoExtend", 3, images=images, frames=frames, **inputs)
    w.outputs = {"VIDEO": w.add("CreateVideo", 4, images=longer, fps=rate_of(longer)), "IMAGE": longer}
    return w


BLUEPRINTS = {
    make.__name__.removesuffix("_blueprint"): make
    for make in (text_to_video_blueprint, image_to_video_blueprint, longer_video_blueprint)
}


def blueprint_file(name: str) -> Path:
    """The page shows the file's name; it says whose it is, since ComfyUI has blueprints for the same of other models."""
    return SUBGRAPHS / f"{BLUEPRINTS[name]().title}.json"


WORKFLOWS = {
    make.__name__: make
    for make in (
        text_to_video, image_to_video, text_to_video_interpolated, first_and_last_frame, text_to_video_lora, text_to_video_wired,
        compare_systems, animatediff, pia_image_to_video, fancyvideo_text_to_video, compare_with_svd, extend_a_video, loop,
        keyframes,
    )
}  # fmt: skip
"""In README's order."""


def page_file(name: str) -> Path:
    """The page's form of a workflow. ComfyUI's list of templates shows the files' names, and has them in order if sorted by name:
    so they are numbered titles."""
    return OUT / f"{list(WORKFLOWS).index(name) + 1:02} {WORKFLOWS[name]().title}.json"


def as_text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    from .illustrate import draw_inputs, pictured

    draw_inputs()
    root, names = Path(sys.argv[1]), sys.argv[2:] or list(WORKFLOWS)
    (OUT / "api").mkdir(parents=True, exist_ok=True)
    SUBGRAPHS.mkdir(exist_ok=True)
    with Server(root, temporary_folder()) as server:
        info = server.get("/object_info")
        for name, make in BLUEPRINTS.items():
            blueprint_file(name).write_text(as_text(make().page(info)))
        for name in names:
            workflow = WORKFLOWS[name]()
            page_file(name).write_text(as_text(workflow.page(info)))
            (OUT / "api" / f"{name}.json").write_text(as_text(workflow.api()))
            pictured(name, server).save(page_file(name).with_suffix(".jpg"), quality=90)
            sys.stdout.write(f"{name}: written\n")


if __name__ == "__main__":
    main()

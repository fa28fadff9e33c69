"""Builds example_workflows/ from one description of each: the page's form (*.json), the API's (api/*.json), and, by running it
in a real ComfyUI, the picture of its output (*.jpg): `python -m tests.workflows.build COMFYUI [NAME ...]`. Those that need a
download get a picture of their graph.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..nodes.server import Server, temporary_folder

OUT = Path(__file__).parents[2] / "example_workflows"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
PROMPT = "a big red circle moves right on a white background"
SIZE = {"width": 64, "height": 64}


@dataclass(frozen=True)
class Ref:
    """Output `slot` of a node."""

    node: int
    slot: int = 0


@dataclass(frozen=True)
class Download:
    """A model that the page offers to download: `name` in the node's list, `directory` under ComfyUI's models."""

    name: str
    url: str
    directory: str


@dataclass
class Workflow:
    """A graph under construction. `add` places a node; inputs are values, or `Ref`s to other nodes' outputs; `needs` is the
    model that it loads, if that has to be downloaded first."""

    name: str
    note: str
    nodes: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        kind: str,
        at: tuple[int, int],
        size: tuple[int, int] = (300, 120),
        title: str = "",
        needs: Download | None = None,
        **inputs: Any,
    ) -> Ref:
        self.nodes.append({"kind": kind, "at": at, "size": size, "title": title, "inputs": inputs, "needs": needs})
        return Ref(len(self.nodes))

    @property
    def downloads(self) -> list[Download]:
        """Models that have to be there before it runs."""
        return [node["needs"] for node in self.nodes if node["needs"] is not None]

    def api(self) -> dict[str, Any]:
        """The form that `/prompt` takes."""
        result = {}
        for number, node in enumerate(self.nodes, 1):
            inputs = {k: [str(v.node), v.slot] if isinstance(v, Ref) else v for k, v in node["inputs"].items()}
            title = node["title"] or node["kind"]
            result[str(number)] = {"class_type": node["kind"], "inputs": inputs, "_meta": {"title": title}}
        return result

    def page(self, info: dict[str, Any]) -> dict[str, Any]:
        """The form that the page saves and loads; `info` is `/object_info`."""
        links: list[list[Any]] = []
        nodes = [self._page_node(number, node, info, links) for number, node in enumerate(self.nodes, 1)]
        for link in links:
            nodes[link[1] - 1]["outputs"][link[2]]["links"].append(link[0])
        left, top = min(n["at"][0] for n in self.nodes), min(n["at"][1] for n in self.nodes)
        nodes.append(
            {
                "id": len(nodes) + 1,
                "type": "MarkdownNote",
                "pos": [left, top - 260],
                "size": [640, 190],
                "flags": {},
                "order": 0,
                "mode": 0,
                "inputs": [],
                "outputs": [],
                "title": "Emu Video",
                "properties": {},
                "widgets_values": [self.note],
                "color": "#432",
                "bgcolor": "#653",
            }  # fmt: skip
        )
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"emu-video/{self.name}")), "revision": 0, "last_node_id": len(nodes),
            "last_link_id": len(links), "nodes": nodes, "links": links, "groups": [], "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [60 - left, 300 - top]}}, "version": 0.4,
        }  # fmt: skip

    def _page_node(self, number: int, node: dict[str, Any], info: dict[str, Any], links: list[list[Any]]) -> dict[str, Any]:
        known = info[node["kind"]]
        declared = {**known["input"].get("required", {}), **known["input"].get("optional", {})}
        assert node["inputs"].keys() <= declared.keys(), (node["kind"], node["inputs"].keys() - declared.keys())
        inputs, values = [], []
        for name, (kind, *rest) in declared.items():
            options = rest[0] if rest else {}
            given = node["inputs"].get(name)
            is_widget = isinstance(kind, list) or kind in WIDGETS
            if isinstance(given, Ref) or not is_widget:
                entry: dict[str, Any] = {"name": name, "type": "COMBO" if isinstance(kind, list) else kind, "link": None}
                if isinstance(given, Ref):
                    source = info[self.nodes[given.node - 1]["kind"]]
                    links.append([len(links) + 1, given.node, given.slot, number, len(inputs), source["output"][given.slot]])
                    entry["link"] = len(links)
                if is_widget:
                    entry["widget"] = {"name": name}
                inputs.append(entry)
            if is_widget:
                first = next(iter(kind if isinstance(kind, list) else options.get("options") or ()), None)
                values.append(options.get("default", first) if given is None or isinstance(given, Ref) else given)
                if options.get("control_after_generate"):
                    values.append("fixed")
                if options.get("image_upload"):
                    values.append("image")
        properties: dict[str, Any] = {"Node name for S&R": node["kind"]}
        if node["needs"] is not None:
            properties["models"] = [asdict(node["needs"])]
        outputs = [
            {"name": label, "type": kind, "links": []} for label, kind in zip(known["output_name"], known["output"], strict=True)
        ]
        return {
            "id": number, "type": node["kind"], "pos": list(node["at"]), "size": list(node["size"]), "flags": {}, "order": number,
            "mode": 0, "inputs": inputs, "outputs": outputs, "properties": properties,
            "widgets_values": values, **({"title": node["title"]} if node["title"] else {}),
        }  # fmt: skip


# -- pieces that several workflows share


@dataclass
class Models:
    model: Ref
    clip: Ref
    vae: Ref


def tiny(w: Workflow) -> Models:
    loader = w.add("EmuVideoTinyModel", (0, 0), (280, 90))
    return Models(loader, Ref(loader.node, 1), Ref(loader.node, 2))


def prompt(w: Workflow, text: str = PROMPT) -> Ref:
    return w.add("PrimitiveStringMultiline", (0, 140), (280, 130), "Prompt", value=text)


def texts(w: Workflow, models: Models, words: Ref) -> tuple[Ref, Ref]:
    positive = w.add("CLIPTextEncode", (340, 460), (280, 90), "Positive", clip=models.clip, text=words)
    negative = w.add("CLIPTextEncode", (340, 600), (280, 110), "Negative (empty)", clip=models.clip, text="")
    return positive, negative


def starting_frame(w: Workflow, models: Models, words: Ref, seed: int) -> Ref:
    return w.add(
        "EmuVideoStartingFrame", (340, 0), (300, 400), model=models.model, clip=models.clip, vae=models.vae, prompt=words,
        negative_prompt="", **SIZE, seed=seed, steps=0, sampler_name="ddim", text_guidance=-1.0,
    )  # fmt: skip


def stack(w: Workflow, models: Models, role: str, at: tuple[int, int]) -> Ref:
    return w.add("EmuVideoApplyStack", at, (300, 110), model=models.model, stack=f"tiny {role} (bundled)", strength=1.0)


def given(w: Workflow, models: Models, positive: Ref, negative: Ref, image: Ref, positions: str = "0") -> tuple[Ref, ...]:
    node = w.add(
        "EmuVideoConditioning", (690, 170), (300, 290), positive=positive, negative=negative, vae=models.vae, image=image, **SIZE,
        length=8, videos=1, positions=positions, resize="center crop",
    )  # fmt: skip
    return tuple(Ref(node.node, slot) for slot in range(4))


def sampled(w: Workflow, video_model: Ref, conditions: tuple[Ref, ...], seed: int) -> Ref:
    positive, image_only, negative, latent = conditions
    return w.add(
        "EmuVideoSampler", (1040, 0), (300, 310), model=video_model, positive=positive, image_only=image_only, negative=negative,
        latent=latent, seed=seed, steps=0, sampler_name="ddim", text_guidance=-1.0, image_guidance=-1.0,
    )  # fmt: skip


def decoded(w: Workflow, models: Models, latents: Ref, at: tuple[int, int] = (1040, 360)) -> Ref:
    return w.add("VAEDecode", at, (220, 60), samples=latents, vae=models.vae)


def saved(w: Workflow, images: Ref, fps: float, at: tuple[int, int], sheet: bool = True, every: int = 1, scale: int = 2) -> None:
    x, y = at
    video = w.add("CreateVideo", (x, y), (260, 90), images=images, fps=fps)
    w.add("SaveVideo", (x, y + 140), (320, 400), video=video, filename_prefix=f"video/emu_{w.name}", format="mp4", codec="h264")
    if sheet:
        picture = w.add(
            "EmuVideoContactSheet", (x + 370, y), (280, 150), images=images, columns=4, every=every, scale=scale, numbers=False
        )
        w.add("PreviewImage", (x + 370, y + 200), (420, 340), images=picture)


# -- the workflows


def text_to_video() -> Workflow:
    w = Workflow(
        "text_to_video",
        "## Text to video\nThe frozen image model makes a **starting frame** from the prompt; the **temporal stack** on the same "
        "model makes a video of 8 frames from that frame and the prompt.\n\nThe bundled tiny model knows shapes (circle, square, "
        "triangle, cross), colours, big and small, backgrounds (white, gray, black) and motions (moves left, right, up, down, "
        "slowly; stays still). For your own model, replace the loader and choose a stack from models/emu_video.",
    )
    models, words = tiny(w), prompt(w)
    frame = starting_frame(w, models, words, 8)
    positive, negative = texts(w, models, words)
    latents = sampled(w, stack(w, models, "F", (690, 0)), given(w, models, positive, negative, frame), 8)
    saved(w, decoded(w, models, latents), 4.0, (1390, 0))
    return w


def image_to_video() -> Workflow:
    w = Workflow(
        "image_to_video",
        "## Image to video\nYour own picture is the starting frame; the prompt says how it moves. Pictures of another "
        "size are cut and resized as **resize** says. The picture emu_video_example.png was put into ComfyUI's input folder "
        "by the pack.",
    )
    models, words = tiny(w), prompt(w, "a small blue cross moves up on a gray background")
    image = w.add("LoadImage", (340, 0), (300, 290), image="emu_video_example.png")
    positive, negative = texts(w, models, words)
    latents = sampled(w, stack(w, models, "F", (690, 0)), given(w, models, positive, negative, image), 7)
    saved(w, decoded(w, models, latents), 4.0, (1390, 0))
    return w


def text_to_video_interpolated() -> Workflow:
    w = Workflow(
        "text_to_video_interpolated",
        "## Text to video, then four times the frame rate\nAll three steps of Emu Video: starting frame, 8 frames at 4 "
        "a second, and 37 frames at 16 a second by the **interpolation stack**, which is given the 8 frames and makes those "
        "between and around.",
    )
    models, words = tiny(w), prompt(w, "a small green triangle moves down on a black background")
    frame = starting_frame(w, models, words, 9)
    positive, negative = texts(w, models, words)
    latents = sampled(w, stack(w, models, "F", (690, 0)), given(w, models, positive, negative, frame), 9)
    images = decoded(w, models, latents)
    finer = w.add(
        "EmuVideoInterpolate", (1390, 0), (300, 330), model=stack(w, models, "I", (1040, 470)), positive=positive,
        negative=negative, vae=models.vae, images=images, seed=9, steps=0, sampler_name="ddim", text_guidance=-1.0,
        image_guidance=-1.0, stitch="continuous",
    )  # fmt: skip
    saved(w, finer, 16.0, (1740, 0), every=5)
    return w


def text_to_video_wired() -> Workflow:
    w = Workflow(
        "text_to_video_wired",
        "## Text to video from ComfyUI's own nodes\nThe same as *text_to_video*, with the samplers wired: the starting frame by "
        "CFGGuider, the video by **DualCFGGuider** (style *regular*), whose cond1 is text and image, cond2 the image alone. "
        "cfg_conds is the paper's text guidance w_p, cfg_cond2_negative its image guidance w_i.",
    )
    models, words = tiny(w), prompt(w)
    positive, negative = texts(w, models, words)
    sampler = w.add("KSamplerSelect", (0, 330), (280, 60), sampler_name="ddim")
    noise = w.add("RandomNoise", (0, 450), (280, 90), noise_seed=8)
    latent = w.add("EmptyLatentImage", (340, -130), (280, 110), **SIZE, batch_size=1)
    guider = w.add("CFGGuider", (340, 30), (280, 110), model=models.model, positive=positive, negative=negative, cfg=3.0)
    sigmas = w.add("EmuVideoScheduler", (340, 190), (280, 90), model=models.model, steps=20, denoise=1.0)
    first = w.add(
        "SamplerCustomAdvanced",
        (690, -130),
        (280, 130),
        noise=noise,
        guider=guider,
        sampler=sampler,
        sigmas=sigmas,
        latent_image=latent,
    )
    frame = w.add("VAEDecode", (690, 50), (220, 60), "Starting frame", samples=first, vae=models.vae)
    w.add("PreviewImage", (690, 510), (300, 260), "Starting frame", images=frame)
    video_model = stack(w, models, "F", (1040, -130))
    p, i, n, empty = given(w, models, positive, negative, frame)
    dual = w.add(
        "DualCFGGuider", (1040, 30), (300, 190), model=video_model, cond1=p, cond2=i, negative=n, cfg_conds=3.0,
        cfg_cond2_negative=1.0, style="regular",
    )  # fmt: skip
    video_sigmas = w.add("EmuVideoScheduler", (1040, 270), (300, 90), model=video_model, steps=20, denoise=1.0)
    second = w.add(
        "SamplerCustomAdvanced",
        (1040, 410),
        (300, 130),
        noise=noise,
        guider=dual,
        sampler=sampler,
        sigmas=video_sigmas,
        latent_image=empty,
    )
    saved(w, decoded(w, models, second, (1040, 590)), 4.0, (1390, 0))
    return w


def first_and_last_frame() -> Workflow:
    w = Workflow(
        "first_and_last_frame",
        "## First and last frame\nTwo pictures are given: **positions** says that they are frame 0 and frame -1, the "
        "last. Any set of frames can be given in this way, as a batch of images and a list of positions.",
    )
    models, words = tiny(w), prompt(w, "a small blue cross moves up on a gray background")
    first = w.add("LoadImage", (340, -330), (300, 290), "First frame", image="emu_video_example.png")
    last = w.add("LoadImage", (690, -330), (300, 290), "Last frame", image="emu_video_example_last.png")
    both = w.add("ImageBatch", (690, 60), (220, 60), image1=first, image2=last)
    positive, negative = texts(w, models, words)
    latents = sampled(w, stack(w, models, "F", (340, 60)), given(w, models, positive, negative, both, "0, -1"), 7)
    saved(w, decoded(w, models, latents), 4.0, (1390, 0))
    return w


def text_to_video_lora() -> Workflow:
    w = Workflow(
        "text_to_video_lora",
        "## With a LoRA on the image model\nA LoRA on the text-to-image MODEL changes the starting frame and, since "
        "the video model is the same U-Net with temporal layers, the video too. "
        "The bundled example LoRA draws in pastel colours.",
    )
    models, words = tiny(w), prompt(w, "a big purple square moves left on a white background")
    with_lora = w.add(
        "LoraLoaderModelOnly",
        (0, 330),
        (280, 90),
        model=models.model,
        lora_name="emu_video_tiny_pastel.safetensors",
        strength_model=1.0,
    )
    models = Models(with_lora, models.clip, models.vae)
    frame = starting_frame(w, models, words, 1)
    positive, negative = texts(w, models, words)
    latents = sampled(w, stack(w, models, "F", (690, 0)), given(w, models, positive, negative, frame), 1)
    saved(w, decoded(w, models, latents), 4.0, (1390, 0))
    return w


def studied(
    w: Workflow, videos: dict[str, Ref], words: Ref, study: str, fps: float, at: tuple[int, int], rates: dict[str, float]
) -> None:
    """The videos side by side, saved, and into a study; rates of those that differ."""
    x, y = at
    images = {f"images_{number}": ref for number, ref in enumerate(videos.values(), 1)}
    both = {**images, "fps": fps, **rates}
    labels = {f"label_{number}": name for number, name in enumerate(videos, 1)}
    compared = w.add("EmuVideoCompare", at, (300, 420), **both, **labels, height=0, shorter="loop", moments=5)
    video = w.add("CreateVideo", (x, y + 500), (300, 90), images=compared, fps=Ref(compared.node, 2))
    w.add("PreviewImage", (x + 340, y), (640, 420), "Moments", images=Ref(compared.node, 1))
    w.add(
        "SaveVideo",
        (x + 340, y + 480),
        (640, 380),
        video=video,
        filename_prefix=f"video/emu_{w.name}",
        format="mp4",
        codec="h264",
    )
    systems = {f"system_{number}": name for number, name in enumerate(videos, 1)}
    w.add("EmuVideoAddToStudy", (x, y + 650), (320, 540), **both, **systems, prompt=words, study=study)


def compare_systems() -> Workflow:
    w = Workflow(
        "compare_systems",
        "## Three systems on one prompt\nThe same starting frame and prompt go to **Emu Video**, to the same model **without the "
        "image** (text alone), and to no model (**the frame repeated**). The videos are measured, put side by side, and added to "
        "the study *compare systems*: **Add to Study** shows the address of the page where people vote.\n\nPut a CLIP folder "
        "into models/emu_video_metrics for the figures that need one.",
    )
    models, words = tiny(w), prompt(w)
    frame = starting_frame(w, models, words, 8)
    positive, negative = texts(w, models, words)
    video_model = stack(w, models, "F", (690, -130))
    emu = decoded(w, models, sampled(w, video_model, given(w, models, positive, negative, frame), 8), (1390, 360))
    blind = w.add(
        "EmuVideoConditioning", (690, 530), (300, 290), "Without image", positive=positive, negative=negative, vae=models.vae,
        **SIZE, length=8, videos=1, positions="0", resize="center crop",
    )  # fmt: skip
    latents = w.add(
        "EmuVideoSampler", (1040, 480), (300, 310), "Without image", model=video_model,
        **{name: Ref(blind.node, slot) for slot, name in enumerate(("positive", "image_only", "negative", "latent"))},
        seed=8, steps=0, sampler_name="ddim", text_guidance=-1.0, image_guidance=-1.0,
    )  # fmt: skip
    alone = decoded(w, models, latents, (1390, 480))
    still = w.add("RepeatImageBatch", (1390, 600), (220, 80), "Frame repeated", image=frame, amount=8)
    w.add(
        "EmuVideoEvaluate",
        (1040, 1030),
        (570, 700),
        "Evaluate Emu Video",
        images=emu,
        fps=4.0,
        prompt=words,
        clip="none",
        image=frame,
    )
    videos = {"Emu Video": emu, "without the image": alone, "frame repeated": still}
    studied(w, videos, words, "compare systems", 4.0, (1660, 0), {})
    return w


# -- with public checkpoints on SD 1.5

HUB = "https://huggingface.co"
SD15 = Download(
    "v1-5-pruned-emaonly-fp16.safetensors",
    f"{HUB}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
    "checkpoints",
)
ANIMATEDIFF = Download(
    "mm_sd15_v3.safetensors",
    f"{HUB}/conrevo/AnimateDiff-A1111/resolve/main/motion_module/mm_sd15_v3.safetensors",
    "emu_video",
)
PIA = Download(
    "diffusion_pytorch_model.safetensors",
    f"{HUB}/openmmlab/PIA-condition-adapter/resolve/main/diffusion_pytorch_model.safetensors",
    "emu_video",
)
FANCYVIDEO = Download(
    "mp_rank_00_model_states.pt",
    f"{HUB}/qihoo360/FancyVideo/resolve/main/fancyvideo_ckpts/vae_3d_61_frames/mp_rank_00_model_states.pt",
    "emu_video",
)
SVD = Download("svd.safetensors", f"{HUB}/stabilityai/stable-video-diffusion-img2vid/resolve/main/svd.safetensors", "checkpoints")
LARGE = {"width": 512, "height": 512}
NEGATIVE = "low quality, blurry, deformed, watermark, text"


def sd15(w: Workflow) -> Models:
    loader = w.add("CheckpointLoaderSimple", (0, 0), (280, 110), needs=SD15, ckpt_name=SD15.name)
    return Models(loader, Ref(loader.node, 1), Ref(loader.node, 2))


def public_stack(w: Workflow, models: Models, file: Download, at: tuple[int, int] = (690, 0)) -> Ref:
    return w.add("EmuVideoApplyStack", at, (300, 110), needs=file, model=models.model, stack=file.name, strength=1.0)


def with_negative(w: Workflow, models: Models, words: Ref) -> tuple[Ref, Ref]:
    positive = w.add("CLIPTextEncode", (340, 460), (280, 90), "Positive", clip=models.clip, text=words)
    return positive, w.add("CLIPTextEncode", (340, 600), (280, 110), "Negative", clip=models.clip, text=NEGATIVE)


def told(w: Workflow, models: Models, texts: tuple[Ref, Ref], image: Ref, **changes: Any) -> tuple[Ref, ...]:
    node = w.add(
        "EmuVideoConditioning", (690, 170), (300, 370), positive=texts[0], negative=texts[1], vae=models.vae, image=image,
        **LARGE, length=16, videos=1, positions="0", resize="center crop", **changes,
    )  # fmt: skip
    return tuple(Ref(node.node, slot) for slot in range(4))


def animatediff() -> Workflow:
    w = Workflow(
        "animatediff",
        "## AnimateDiff on SD 1.5\nThe stack is AnimateDiff's original file; the MODEL that comes out is sampled by the ordinary "
        "**KSampler**, whose batch of 16 latents is one video of 16 frames (up to 32; beyond that, put *Context Windows "
        "(Manual)* on the MODEL). AnimateDiff knows no image.\n\nFiles: an SD 1.5 checkpoint in models/checkpoints, "
        f"**{ANIMATEDIFF.name}** (or mm_sd_v15_v2.ckpt, v3_sd15_mm.ckpt ...) in models/emu_video.",
    )
    models, words = sd15(w), prompt(w, "a sailing boat on a stormy sea, waves, cinematic light, highly detailed")
    positive, negative = with_negative(w, models, words)
    latent = w.add("EmptyLatentImage", (690, 170), (300, 110), **LARGE, batch_size=16)
    latents = w.add(
        "KSampler", (1040, 0), (300, 270), model=public_stack(w, models, ANIMATEDIFF), positive=positive, negative=negative,
        latent_image=latent, seed=8, steps=25, cfg=7.5, sampler_name="euler", scheduler="sgm_uniform", denoise=1.0,
    )  # fmt: skip
    saved(w, decoded(w, models, latents), 8.0, (1390, 0), scale=1)
    return w


def pia_image_to_video() -> Workflow:
    w = Workflow(
        "pia_image_to_video",
        "## PIA: your picture moves\nPIA is given one picture, which every frame resembles by an *affinity*; **motion** says how "
        "far frames may go from it (small, moderate, large; loops; style for a picture of another style than the checkpoint's). "
        "**positions** may be any frame. Best with a checkpoint of the picture's own style.\n\nFiles: an SD 1.5 checkpoint in "
        f"models/checkpoints, PIA's **{PIA.name}** (or pia.ckpt) in models/emu_video.",
    )
    models, words = sd15(w), prompt(w, "a lighthouse, clouds drifting, waves, best quality")
    image = w.add("LoadImage", (340, 0), (300, 290), image="emu_video_example.png")
    conditions = told(w, models, with_negative(w, models, words), image, motion="moderate")
    latents = sampled(w, public_stack(w, models, PIA), conditions, 7)
    saved(w, decoded(w, models, latents), 8.0, (1390, 0), scale=1)
    return w


def fancyvideo_text_to_video() -> Workflow:
    w = Workflow(
        "fancyvideo_text_to_video",
        "## FancyVideo: text to video on SD 1.5\nEmu Video's own conditioning: the checkpoint makes a **starting frame**, "
        "FancyVideo makes the video from it. **cond_fps** and **motion_score** are numbers that it is told (-1: 25 and 3). With "
        "the ordinary VAE each latent is one frame, about 6 a second.\n\nFiles: an SD 1.5 checkpoint in models/checkpoints, and "
        f"FancyVideo's **{FANCYVIDEO.name}** (61 frames) in models/emu_video.",
    )
    models, words = sd15(w), prompt(w, "a panda eating bamboo in a forest, photo, highly detailed")
    frame = w.add(
        "EmuVideoStartingFrame", (340, 0), (300, 400), model=models.model, clip=models.clip, vae=models.vae, prompt=words,
        negative_prompt=NEGATIVE, **LARGE, seed=8, steps=30, sampler_name="dpmpp_2m", text_guidance=-1.0,
    )  # fmt: skip
    conditions = told(w, models, with_negative(w, models, words), frame, cond_fps=-1.0, motion_score=-1.0)
    latents = sampled(w, public_stack(w, models, FANCYVIDEO), conditions, 8)
    saved(w, decoded(w, models, latents), 6.0, (1390, 0), scale=1)
    return w


def svd_video(w: Workflow, frame: Ref) -> Ref:
    """Stable Video Diffusion from a starting frame, by ComfyUI's own nodes."""
    loader = w.add("ImageOnlyCheckpointLoader", (340, 930), (300, 110), needs=SVD, ckpt_name=SVD.name)
    model = w.add("VideoLinearCFGGuidance", (690, 930), (300, 60), model=loader, min_cfg=1.0)
    conditions = w.add(
        "SVD_img2vid_Conditioning", (690, 1040), (300, 300), clip_vision=Ref(loader.node, 1), init_image=frame,
        vae=Ref(loader.node, 2), **LARGE, video_frames=14, motion_bucket_id=127, fps=6, augmentation_level=0.0,
    )  # fmt: skip
    latents = w.add(
        "KSampler", (1040, 930), (300, 270), "SVD", model=model, positive=conditions, negative=Ref(conditions.node, 1),
        latent_image=Ref(conditions.node, 2), seed=8, steps=20, cfg=2.5, sampler_name="euler", scheduler="karras", denoise=1.0,
    )  # fmt: skip
    return w.add("VAEDecode", (1390, 930), (220, 60), "SVD", samples=latents, vae=Ref(loader.node, 2))


def compare_with_svd() -> Workflow:
    w = Workflow(
        "compare_with_svd",
        "## Emu Video, SVD and AnimateDiff on one prompt\nOne **starting frame** and prompt, three systems: Emu Video's way on "
        "SD 1.5 (FancyVideo's layers), **SVD** by ComfyUI's own nodes, which is given the frame alone, and a direct "
        "**AnimateDiff** video, which is given the prompt alone. Side by side, and into the study *emu or svd*.\n\nFiles: an "
        f"SD 1.5 checkpoint and **{SVD.name}** in models/checkpoints, **{FANCYVIDEO.name}** and **{ANIMATEDIFF.name}** in "
        "models/emu_video. Videos from elsewhere: Load Video, Get Video Components.",
    )
    models, words = sd15(w), prompt(w, "a sailing boat on a stormy sea, waves, cinematic light, highly detailed")
    frame = w.add(
        "EmuVideoStartingFrame", (340, 0), (300, 420), model=models.model, clip=models.clip, vae=models.vae, prompt=words,
        negative_prompt=NEGATIVE, **LARGE, seed=8, steps=30, sampler_name="dpmpp_2m", text_guidance=-1.0,
    )  # fmt: skip
    positive, negative = with_negative(w, models, words)
    conditions = told(w, models, (positive, negative), frame, cond_fps=-1.0, motion_score=-1.0)
    emu = decoded(w, models, sampled(w, public_stack(w, models, FANCYVIDEO), conditions, 8), (1390, 0))
    svd = svd_video(w, frame)
    latent = w.add("EmptyLatentImage", (690, 740), (300, 110), **LARGE, batch_size=16)
    latents = w.add(
        "KSampler", (1040, 540), (300, 270), "AnimateDiff", model=public_stack(w, models, ANIMATEDIFF, (690, 590)),
        positive=positive, negative=negative, latent_image=latent, seed=8, steps=25, cfg=7.5, sampler_name="euler",
        scheduler="sgm_uniform", denoise=1.0,
    )  # fmt: skip
    direct = decoded(w, models, latents, (1390, 540))
    videos = {"Emu Video": emu, "SVD": svd, "AnimateDiff": direct}
    studied(w, videos, words, "emu or svd", 6.0, (1660, 0), {"fps_3": 8.0})
    return w


WORKFLOWS = {
    make.__name__: make
    for make in (
        text_to_video, image_to_video, text_to_video_interpolated, text_to_video_wired, first_and_last_frame, text_to_video_lora,
        compare_systems, animatediff, pia_image_to_video, fancyvideo_text_to_video, compare_with_svd,
    )
}  # fmt: skip


def as_text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def graph_picture(server: Server, workflow: Path) -> Image.Image:
    """The workflow as the page draws it. Needs Chromium and playwright-core (PLAYWRIGHT_CORE, or .browser)."""
    script, out = Path(__file__).with_name("graph.mjs"), temporary_folder() / "graph.png"
    places = {"PLAYWRIGHT_CORE": str(Path(__file__).parents[2] / ".browser"), **os.environ}
    subprocess.run(["node", str(script), server.address, str(workflow), str(out)], env=places, check=True, timeout=240)
    picture = Image.open(out).convert("RGB")
    return picture.resize((1000, round(1000 * picture.height / picture.width)), Image.Resampling.LANCZOS)


def main() -> None:
    root, names = Path(sys.argv[1]), sys.argv[2:] or list(WORKFLOWS)
    (OUT / "api").mkdir(parents=True, exist_ok=True)
    with Server(root, temporary_folder()) as server:
        info = server.get("/object_info")
        for name in names:
            workflow = WORKFLOWS[name]()
            (OUT / f"{name}.json").write_text(as_text(workflow.page(info)))
            (OUT / "api" / f"{name}.json").write_text(as_text(workflow.api()))
            if workflow.downloads:  # the graph itself, since its models are not here
                graph_picture(server, OUT / f"{name}.json").save(OUT / f"{name}.jpg", quality=88)
            else:
                pictures = [Image.open(path) for path in server.files(server.run(workflow.api()), ".png")]
                sheet = max(pictures, key=lambda picture: picture.width)  # a starting frame may be shown as well
                sheet.convert("RGB").save(OUT / f"{name}.jpg", quality=90)
            sys.stdout.write(f"{name}: written\n")


if __name__ == "__main__":
    main()

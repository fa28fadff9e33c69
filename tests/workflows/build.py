"""Builds example_workflows/ from one description of each: the page's form (*.json), the API's (api/*.json), and, by running it
in a real ComfyUI, the picture of its output (*.jpg): `python -m tests.workflows.build COMFYUI [NAME ...]`.
"""

from __future__ import annotations

import json
import sys
import uuid
from dataclasses import dataclass, field
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


@dataclass
class Workflow:
    """A graph under construction. `add` places a node; inputs are values, or `Ref`s to other nodes' outputs."""

    name: str
    note: str
    nodes: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, at: tuple[int, int], size: tuple[int, int] = (300, 120), title: str = "", **inputs: Any) -> Ref:
        self.nodes.append({"kind": kind, "at": at, "size": size, "title": title, "inputs": inputs})
        return Ref(len(self.nodes))

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
                first = kind[0] if isinstance(kind, list) else (options.get("options") or [None])[0]
                values.append(options.get("default", first) if given is None or isinstance(given, Ref) else given)
                if options.get("control_after_generate"):
                    values.append("fixed")
                if options.get("image_upload"):
                    values.append("image")
        outputs = [
            {"name": label, "type": kind, "links": []} for label, kind in zip(known["output_name"], known["output"], strict=True)
        ]
        return {
            "id": number, "type": node["kind"], "pos": list(node["at"]), "size": list(node["size"]), "flags": {}, "order": number,
            "mode": 0, "inputs": inputs, "outputs": outputs, "properties": {"Node name for S&R": node["kind"]},
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


def saved(w: Workflow, images: Ref, fps: float, at: tuple[int, int], sheet: bool = True, every: int = 1) -> None:
    x, y = at
    video = w.add("CreateVideo", (x, y), (260, 90), images=images, fps=fps)
    w.add("SaveVideo", (x, y + 140), (320, 400), video=video, filename_prefix=f"video/emu_{w.name}", format="mp4", codec="h264")
    if sheet:
        picture = w.add(
            "EmuVideoContactSheet", (x + 370, y), (280, 150), images=images, columns=4, every=every, scale=2, numbers=False
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


WORKFLOWS = {
    make.__name__: make
    for make in (
        text_to_video, image_to_video, text_to_video_interpolated, text_to_video_wired, first_and_last_frame, text_to_video_lora,
    )
}  # fmt: skip


def as_text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    root, names = Path(sys.argv[1]), sys.argv[2:] or list(WORKFLOWS)
    (OUT / "api").mkdir(parents=True, exist_ok=True)
    with Server(root, temporary_folder()) as server:
        info = server.get("/object_info")
        for name in names:
            workflow = WORKFLOWS[name]()
            (OUT / f"{name}.json").write_text(as_text(workflow.page(info)))
            (OUT / "api" / f"{name}.json").write_text(as_text(workflow.api()))
            pictures = [Image.open(path) for path in server.files(server.run(workflow.api()), ".png")]
            sheet = max(pictures, key=lambda picture: picture.width)  # a starting frame may be shown as well
            sheet.convert("RGB").save(OUT / f"{name}.jpg", quality=90)
            sys.stdout.write(f"{name}: written\n")


if __name__ == "__main__":
    main()

"""Prompts with weights and of any length, negative prompts, LoRAs and VAEs: what the pipeline makes of them is what the nodes
make in real ComfyUI."""

from __future__ import annotations

import ast
import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from emu_core.base import Base, load_base
from emu_core.base.lora import merge
from emu_core.base.prompts import chunks, weighted
from emu_core.base.vae import inspect as inspect_vae
from emu_core.base.vae import load as load_vae
from emu_core.checkpoint import load_stack, save_stack
from emu_core.model_folder import BUNDLED
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings

from ..core import helpers
from ..core.ldm_layout import Layout
from . import prompt_models
from .conftest import outcome
from .test_numbers import STANDARD, standard_stack

pytestmark = pytest.mark.newest
LAYOUTS: tuple[Layout, ...] = ("sd1", "sdxl")
once = pytest.mark.parametrize("inside", ["as-it-is"], indirect=True, scope="session")
"""Dynamic VRAM changes no text and no file; what it does to LoRAs, other tests look at."""
STRENGTH = 0.7
LONG = "a photo of a red fox that runs through deep snow at dawn, with mountains behind it and birds above, "
PROMPTS = [
    "a (red:1.3) circle moves right on a white background",
    "", " ", "a red circle", "(a red circle)", "((a red)) circle", "(((a)))", "a (b (c (d:0.5) e) f:1.4) g",
    "(a:-0.5) b", "(a:0) b",
    "(a: 1.2 ) b", "(a:1e-1)", "(a:b:1.5)", "(:1.5)", "()", "( )", "a)", "(a", "a) (b:2) c", "((a)", "(a))", ")(", "a \\(b\\) c",
    "(a \\(b:2\\):1.5)", "\\((a:1.2)\\)", "a\\\\(b)", "(a:.5)(b:2.)", "(a:+1.1)", "(a:1_0)", "(a:１.５)",
    "(é café:1.2) 中文 (字:0.8)",
    "👨‍👩‍👧 (🦊:1.3)", "a\n(b\t:1.2)\n c", "UPPER (Case:1.1)", "<|endoftext|> (a:1.2) b", "a, (b, c:1.21); d!",
    "(a:1.1.1)", "(a:)",
    "don't (can't:0.9)", "a  (  b  :  1.3  )  c",
    LONG * 5, f"({LONG * 5}:1.2)", f"{LONG * 3}(a blue bird that sings:1.4) {LONG * 3}", "x" * 300, f"({'word ' * 90}:0.8), end",
    " ".join(f"(w{n}:{n / 20})" for n in range(60)), f"{'a ' * 74}(one two three four:1.2) end", f"{'a ' * 75}(one:1.2) end",
]  # fmt: skip
RUNS = {
    "sd1": (f"{LONG * 3}(a (blue:1.4) bird:0.8)", "(blurry:1.2), text"),
    "sdxl": (f"{LONG * 2}(a (blue:1.4) bird:0.8)", f"(blurry:1.2), text, {LONG * 5}"),
    "tiny": ("a big (red:1.5) circle moves right on a white background " * 3, "(green:0.7) square"),
}
BOTH = {
    "sd1": [["sd1 kohya", 0.5], ["sd1 dora", 0.8]],
    "sdxl": [["sdxl kohya, original blocks", 0.6], ["sdxl loha", -0.4]],
    "tiny": [["emu_video_tiny_pastel", 0.8]],
}


CHECKED = {
    "sd1": ("kohya", "diffusers", "tucker", "loha", "dora by columns", "differences"),
    "sdxl": ("kohya, original blocks", "diffusers", "comfyui", "simpletuner", "lokr", "dora"),
}
"""Each form of LoRA on one image model, and the names of two text encoders on the one that has them."""


def random_texts(count: int = 300) -> list[str]:
    """Of what the syntax is made of, with words between."""
    draw, pieces = (
        random.Random(5),
        ["(", ")", ":", "\\", "\\(", "\\)", "1.3", "0.5", "-2", "a", " red fox", " ", ",", "é", "字", "\n"],
    )
    return ["".join(draw.choices(pieces, k=draw.randrange(40))) for _ in range(count)]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models, LoRAs, stacks and prompts."""
    folder, loras = tmp_path_factory.mktemp("prompts"), {}
    for layout in LAYOUTS:
        unet, texts = prompt_models.write_model(folder, layout)
        forms = {f"{layout} {name}": state for name, state in prompt_models.loras(layout, unet, texts).items()}
        loras[layout] = [f"{layout} {name}" for name in CHECKED[layout]]
        assert forms.keys() >= {*loras[layout]}
        for name, state in forms.items():
            prompt_models.save(state, folder / "loras" / f"{name}.safetensors")
        stack = helpers.random_stack(unet, "custom")
        stack.config = stack.config.changed(schedule=STANDARD)
        save_stack(stack, folder / f"{layout}_F.safetensors", torch.float32)
    for role in "FI":
        save_stack(standard_stack(BUNDLED, role), folder / f"tiny_{role}.safetensors", torch.float32)
    bundled = BUNDLED.parent / "loras" / "emu_video_tiny_pastel.safetensors"
    (folder / "loras" / bundled.name).write_bytes(bundled.read_bytes())
    prompt_models.write_vaes(folder, prompt_models.vae(6))
    texts = [*PROMPTS, *random_texts()]
    told = {"prompts": PROMPTS, "texts": texts, "loras": loras, "strength": STRENGTH, "run": RUNS, "both": BOTH}
    (folder / "prompts.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="session")
def ran(inside: Callable[..., Any], made: Path) -> dict[str, Any]:
    def prepare(out: Path) -> None:
        for file in made.rglob("*.*"):
            if file.is_file():
                place = (
                    out / ("models/emu_video" if file.stem.endswith(("_F", "_I")) else file.parent.relative_to(made)) / file.name
                )
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(file)

    return inside("prompts", prepare)


@cache
def plain_base(made: Path, comfy_root: Path, layout: str) -> Base:
    """Read once, for tests that leave it as it is."""
    return base(made, comfy_root, layout)


def base(made: Path, comfy_root: Path, layout: str, **options: Any) -> Base:
    if layout == "tiny":
        loaded = load_base(BUNDLED, **options)
        loaded.schedule = replace(loaded.schedule, zero_snr=False)
        return loaded
    return load_base(made / f"{layout}.safetensors", tokenizer=comfy_root, **options)


def close(found: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
    assert found.shape == wanted.shape, what
    assert torch.isfinite(found).all(), what
    assert (found - wanted).abs().max() <= 1e-4, what


# ---- the text


@pytest.fixture(scope="session")
def theirs(comfy_root: Path) -> Callable[[str], list[tuple[str, float]]]:
    """ComfyUI's own reading of brackets, from its file, which cannot be imported here."""
    source, wanted = (comfy_root / "comfy" / "sd1_clip.py").read_text(), {"token_weights", "parse_parentheses"}
    functions = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    functions = [n for n in functions if n.name in wanted | {"escape_important", "unescape_important"}]
    assert len(functions) == 4
    found: dict[str, Any] = {"re": re}
    exec(compile(ast.Module(functions, []), "sd1_clip.py", "exec"), found)  # noqa: S102
    escaped, unescaped, read = (found[name] for name in ("escape_important", "unescape_important", "token_weights"))
    return lambda text: [(unescaped(piece), weight) for piece, weight in read(escaped(text), 1.0)]


@given(st.text(st.one_of(st.sampled_from("(()):\\.0123456789-+e_ "), st.characters(exclude_categories=["Cs"])), max_size=60))
@example("((((((((((a:0.5)))))))))")
@example("\0\1\0\2")
@settings(max_examples=500, deadline=None, derandomize=True)
def test_brackets_of_any_text(theirs: Callable[[str], list[tuple[str, float]]], text: str) -> None:
    wanted = theirs(text)
    if any(weight - weight != 0 for _, weight in wanted):  # "(a:nan)": a sentence here, a black video there
        with pytest.raises(ValueError, match="has the weight"):
            weighted(text)
    elif not re.search(r"(^|\s)embedding:", text):
        assert weighted(text) == wanted


@once
def test_tokens_and_their_weights(ran: dict[str, Any], made: Path, comfy_root: Path) -> None:
    data = outcome(ran, "check_tokens")["data"]
    texts = [*PROMPTS, *random_texts()]
    sdxl, tiny = plain_base(made, comfy_root, "sdxl"), plain_base(made, comfy_root, "tiny")
    for number, text in enumerate(texts):
        for name, tokenizer in zip("lg", sdxl.tokenizers, strict=True):
            assert [[[*pair] for pair in part] for part in chunks(tokenizer, text, 77)] == data["sdxl"][number][name], text
        [(_, wanted)] = data["tiny"][number].items()
        assert [[[*pair] for pair in part] for part in chunks(tiny.tokenizers[0], text, 20)] == wanted, text
    assert max(len(found["l"]) for found in data["sdxl"]) >= 3


@once
@pytest.mark.parametrize("layout", [*LAYOUTS, "tiny"])
def test_states(layout: str, ran: dict[str, Any], made: Path, comfy_root: Path) -> None:
    outcome(ran, "check_states")
    found, ours = load_file(ran["out"] / "check_states.safetensors"), plain_base(made, comfy_root, layout)
    for number, prompt in enumerate(PROMPTS):
        states = ours.encode_prompt(prompt)
        close(states.hidden, found[f"{layout} {number}"], prompt)
        if layout == "sdxl":
            assert states.pooled is not None
            close(states.pooled, found[f"{layout} {number} pooled"], prompt)
    plain, weight = (ours.encode_prompt(prompt).hidden for prompt in ("a red circle", "(a red circle:1.3)"))
    assert (plain - weight).abs().max() > 0.1


# ---- LoRAs and VAEs


@once
@pytest.mark.parametrize("layout", LAYOUTS)
def test_loras(layout: str, ran: dict[str, Any], made: Path, comfy_root: Path) -> None:
    """A picture each, from the U-Net and the text encoders that they change."""
    outcome(ran, "check_loras")
    found = load_file(ran["out"] / "check_loras.safetensors")
    told = json.loads((made / "prompts.json").read_text())["loras"][layout]
    ours, plain = plain_base(made, comfy_root, layout), found[f"{layout} none"]
    parts = {"unet": ours.unet, **dict(zip(("text_encoder", "text_encoder_2"), ours.text_encoders, strict=False))}
    kept = [(parameter, parameter.data) for part in parts.values() for parameter in part.parameters()]
    for name in ["none", *told]:
        merge([] if name == "none" else [(made / "loras" / f"{name}.safetensors", STRENGTH)], parts, ours.family)
        frame = EmuVideoPipeline(ours).starting_frame(PROMPTS[0], Settings((64, 64), seed=11, steps=2, t2i_guidance=3.0))
        close(frame, found[f"{layout} {name}"], name)
        assert name == "none" or (frame - plain).abs().max() > 0.02, name
        for parameter, before in kept:
            parameter.data = before


@once
@pytest.mark.parametrize("name", [*LAYOUTS, "tiny"])
def test_whole_runs(name: str, ran: dict[str, Any], made: Path, comfy_root: Path) -> None:
    """Weights, length, negative prompt, two LoRAs and a VAE at once; each step starts from what the nodes made before it."""
    outcome(ran, "check_whole_runs")
    found = {
        k.split(" ", 1)[1]: v
        for k, v in load_file(ran["out"] / "check_whole_runs.safetensors").items()
        if k.startswith(name + " ")
    }
    loras = [(made / "loras" / f"{lora}.safetensors", strength) for lora, strength in BOTH[name]]
    options = {"loras": loras} | ({} if name == "tiny" else {"vae": made / "vae.safetensors"})
    stacks = [load_stack(made / f"{name}_{role}.safetensors", dtype=torch.float32) for role in ("FI" if name == "tiny" else "F")]
    pipeline = EmuVideoPipeline(base(made, comfy_root, name, **options), *stacks)
    prompt, negative = RUNS[name]
    how = Settings((64, 64), frames=4, seed=11, steps=2, sampler="ddim", negative=negative)
    how = replace(how, text_guidance=4.0, image_guidance=1.5, t2i_guidance=3.0)
    close(pipeline.starting_frame(prompt, how), found["frame"], "starting frame")
    close(pipeline.video(found["frame"], prompt, how), found["video"], "video")
    without = pipeline.video(found["frame"], prompt, replace(how, negative=""))
    assert (without - found["video"]).abs().max() > 1e-3
    if name == "tiny":
        finer = pipeline.interpolate(found["video"], prompt, replace(how, text_guidance=2.0, image_guidance=1.0))
        close(finer, found["finer"], "interpolated")


def test_one_vae_in_all_forms(made: Path, comfy_root: Path) -> None:
    """The same numbers whatever the file calls its weights."""
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    base = plain_base(made, comfy_root, "sd1")
    own, config = base.decode_latents(latents), base.vae.config
    forms = prompt_models.write_vaes(made / "forms", prompt_models.vae(6))
    vaes = {name: load_vae(inspect_vae(path, config), torch.float32) for name, path in forms.items()}
    decoded = {name: replace(base, vae=vae).decode_latents(latents) for name, vae in vaes.items()}
    for name, images in decoded.items():
        torch.testing.assert_close(images, decoded["original"], atol=1e-6, rtol=0, msg=name)
        assert (images - own).abs().max() > 0.1


@pytest.mark.slow
@once
def test_load_vae(inside: Callable[..., Any], made: Path, comfy_root: Path, tmp_path: Path) -> None:
    """A VAE of the true size, by ComfyUI's own node."""
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    forms = prompt_models.write_vaes(tmp_path, prompt_models.vae(6, (128, 256, 512, 512), 2))

    def prepare(out: Path) -> None:
        for name in ("original", "diffusers"):
            (out / forms[name].name).symlink_to(forms[name])
        prompt_models.save({"latents": latents}, out / "latents.safetensors")

    run = inside("vaes", prepare)
    outcome(run, "check_load_vae")
    found = load_file(run["out"] / "check_load_vae.safetensors")
    picture = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(picture, (64, 64), mode="bicubic").clamp(0, 1).movedim(1, -1)
    for name in ("original", "diffusers"):
        ours, theirs = base(made, comfy_root, "sd1", vae=forms[name]), forms[name].stem
        close(ours.decode_latents(latents), found[f"{theirs} decoded"], name)
        close(ours.encode_images(image), found[f"{theirs} encoded"], name)

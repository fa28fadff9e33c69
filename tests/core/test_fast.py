"""`--fast`: a model's distilled stacks, and a LoRA that is there for the starting frame alone."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from emu_core.base import load_base
from emu_core.checkpoint import load_stack, save_stack
from emu_core.cli.compare import plan
from emu_core.cli.main import build_parser, main
from emu_core.errors import UserError
from emu_core.many.together import together
from emu_core.media import read_video
from emu_core.model_folder import BUNDLED, advises_fast, few_steps_lora, recommended_with, stack_files
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings
from emu_core.toy.bundle import lora_of_rank
from emu_core.weights import open_weights
from tests.core.test_cli import refused

PROMPT = "a big red circle moves right on a white background"
LORA = "few_steps_lora.safetensors"


def write_lora(model: Path, path: Path, **said: str) -> None:
    """One that changes every query of the model's U-Net."""
    state, generator = {}, torch.Generator().manual_seed(0)
    for name, parameter in load_base(model).unet.named_parameters():
        if name.endswith("to_q.weight"):
            key = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
            state[f"{key}.lora_down.weight"] = 0.3 * torch.randn(4, parameter.shape[1], generator=generator)
            state[f"{key}.lora_up.weight"] = 0.3 * torch.randn(parameter.shape[0], 4, generator=generator)
    save_file(state, path, said)


@pytest.fixture(scope="module")
def model(narrow: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The narrow model, for four steps, with a stack F of two steps without guidance, and a LoRA of three."""
    folder = tmp_path_factory.mktemp("fast") / "model"
    shutil.copytree(narrow, folder, ignore=shutil.ignore_patterns("emu_video.json"))
    stack = load_stack(folder / "stack_F.safetensors", dtype=torch.float32)
    stack.config = stack.config.changed(steps=4)
    save_stack(stack, folder / "stack_F.safetensors", torch.float32)
    (folder / "emu_video.json").write_text(json.dumps({"steps": 4, "text_guidance": 3.0}))
    stack.config = stack.config.changed(steps=2, text_guidance=1.0, image_guidance=1.0, stage="distil_2")
    save_stack(stack, folder / "stack_F_fast.safetensors", torch.float32)
    write_lora(folder, folder / LORA, steps="3", text_guidance="1")
    return folder


def says(model: Path, folder: Path, **defaults: object) -> Path:
    """A copy of the model whose maker says this."""
    shutil.copytree(model, folder)
    (folder / "emu_video.json").write_text(json.dumps(defaults))
    return folder


def test_the_parts_are_those_that_the_folder_holds(model: Path) -> None:
    usual, own = stack_files(model), model / "stack_I.safetensors"
    assert usual == {"F": model / "stack_F.safetensors", "I": own}
    assert stack_files(model, fast=True) == {"F": model / "stack_F_fast.safetensors", "I": own}
    assert stack_files(model, "mine.safetensors", fast=True) == {"F": Path("mine.safetensors"), "I": own}


def test_a_fast_video_is_made_of_the_lora_for_the_frame_and_the_plain_model_for_the_rest(model: Path) -> None:
    """The same by hand, in two pipelines."""
    pipeline = EmuVideoPipeline.from_files(model, fast=True)
    result = pipeline(PROMPT, Settings(seed=2), interpolate=False)
    with_lora = EmuVideoPipeline.from_files(model, loras=[(model / LORA, 1.0)])
    frame = with_lora.starting_frame(PROMPT, Settings(seed=2, steps=3, t2i_guidance=1.0))
    plain = EmuVideoPipeline.from_files(model, stack=model / "stack_F_fast.safetensors")
    assert torch.equal(result.starting_frame, frame)
    assert torch.equal(result.video, plain.video(frame, PROMPT, Settings(seed=2)))
    assert not torch.equal(frame, plain.starting_frame(PROMPT, Settings(seed=2, steps=3, t2i_guidance=1.0)))
    for name, value in plain.base.unet.state_dict().items():
        assert torch.equal(pipeline.base.unet.state_dict()[name], value), name


def test_it_takes_as_many_calls_as_it_says(model: Path) -> None:
    pipeline, calls = EmuVideoPipeline.from_files(model, fast=True), dict.fromkeys(("image", "video"), 0)

    def count(name: str, *_: object) -> None:
        calls[name] += 1

    pipeline.image_unet.register_forward_pre_hook(partial(count, "image"))
    pipeline.base.unet.register_forward_pre_hook(partial(count, "video"))
    pipeline(PROMPT, Settings(), interpolate=False)
    assert calls == {"image": 3, "video": 2}


def test_the_bundled_model_makes_a_video_of_37_frames_in_ten_calls() -> None:
    pipeline, calls = EmuVideoPipeline.from_files(fast=True), []
    for unet in (pipeline.image_unet, pipeline.base.unet):
        unet.register_forward_pre_hook(lambda *_: calls.append(1))
    assert pipeline("a big red circle moves right on a white background", Settings(seed=1)).interpolated.shape[0] == 37
    assert len(calls) == 10
    assert not advises_fast()


@pytest.mark.parametrize("shape", [(), (3, 3)])
def test_a_lora_of_fewer_directions_keeps_those_that_say_most(shape: tuple[int, ...], tmp_path: Path) -> None:
    """What is lost are the smaller singular values (Eckart & Young 1936); nothing where there were none."""
    generator, lost = torch.Generator().manual_seed(0), []
    for true_rank in (3, 6):
        down = torch.randn(true_rank, 5, *shape, generator=generator)
        up = torch.randn(7, true_rank, *(1 for _ in shape), generator=generator)
        file = tmp_path / f"{true_rank}.safetensors"
        save_file({"a.lora_down.weight": down, "a.lora_up.weight": up}, file, {"steps": "4"})
        lora_of_rank(3, file)
        found = open_weights(file)
        made = found.read()
        assert found.metadata["steps"] == "4"
        assert made["a.lora_down.weight"].shape == (3, *down.shape[1:])
        assert made["a.lora_up.weight"].shape == (7, 3, *up.shape[2:])
        whole = up.flatten(1) @ down.flatten(1)
        error = made["a.lora_up.weight"].flatten(1) @ made["a.lora_down.weight"].flatten(1) - whole
        lost.append(error.norm().item())
        expected = torch.linalg.svdvals(whole)[3:].norm().item()
        assert lost[-1] == pytest.approx(expected, abs=1e-4)
    assert lost[1] > 0.1


def test_several_at_once_are_those_that_each_is_alone(model: Path) -> None:
    pipeline = EmuVideoPipeline.from_files(model, fast=True, dtype=torch.float64)
    tasks = [lambda p, seed=seed: p(PROMPT, Settings(seed=seed), interpolate=False).video for seed in (0, 5)]
    for found, task in zip(together(pipeline, tasks), tasks, strict=True):
        assert isinstance(found, torch.Tensor)
        torch.testing.assert_close(found, task(pipeline), atol=1e-6, rtol=0)


def generated(model: Path, out: Path, *options: str) -> tuple[torch.Tensor, bool]:
    """The frames, and whether the file says that they were made fast."""
    assert main(["generate", PROMPT, "--out", str(out), "--model", str(model), "--no-interpolate", *options]) == 0
    video = read_video(out)
    return video.frames, video.metadata.get("fast") == "True"


def test_the_makers_word_holds_unless_another_is_given(model: Path, tmp_path: Path) -> None:
    advised = says(model, tmp_path / "advised", steps=4, text_guidance=3.0, fast=True)
    plain, is_fast = generated(model, tmp_path / "plain")
    assert not is_fast
    fast, is_fast = generated(model, tmp_path / "fast", "--fast")
    assert is_fast
    assert not torch.equal(plain, fast)
    by_default, is_fast = generated(advised, tmp_path / "by_default")
    assert is_fast
    assert torch.equal(by_default, fast)
    for options in (["--no-fast"], ["--steps", "3"], ["--text-guidance", "2"], ["--t2i-guidance", "2"], ["--sampler", "euler"]):
        assert not generated(advised, tmp_path / "_".join(options), *options)[1], options
    again, is_fast = generated(advised, tmp_path / "again", "--steps", "3", "--fast")
    assert is_fast
    assert not torch.equal(again, fast)


@pytest.mark.parametrize("flags", [["--fast"], ["--no-fast"], []])
def test_a_comparison_hands_it_on(model: Path, tmp_path: Path, flags: list[str]) -> None:
    """To the frames that systems share and to each system's videos, also where a system's maker advises it and the option that
    speaks against it is of the frames alone."""
    advised = says(model, tmp_path / "advised", fast=True)
    given = ["compare", "--prompts", "toy", "--out", str(tmp_path / "m"), "--model", str(advised)]
    options = build_parser().parse_args([*given, "--system", "a: --seed 0", "--system", "b: --steps 2", *flags])
    a, b = "--fast" in flags or not flags, "--fast" in flags
    assert [part.fast for part in plan(options)] == ([a, a, b, b] if a != b else [a, a, a])
    options = build_parser().parse_args([*given, "--system", "a: --t2i-guidance 5", "--system", "b: --t2i-guidance 5", *flags])
    assert {part.fast for part in plan(options)} == {"--fast" in flags}


def test_a_list_remembers_whether_it_was_made_fast(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = ["generate", "--prompts", str(tmp_path / "p.txt"), "--out", str(tmp_path / "m")]
    many += ["--model", str(model), "--no-interpolate"]
    (tmp_path / "p.txt").write_text(f"{PROMPT}\n")
    assert main([*many, "--fast"]) == 0
    assert main([*many, "--fast", "--resume"]) == 0
    assert "fast" in refused(capsys, *many, "--resume")


def test_where_there_is_nothing_fast_it_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("*fast*", LORA))
    command = ["generate", PROMPT, "--out", str(tmp_path / "a.mp4"), "--model", str(bare)]
    assert "holds nothing for few calls: make it with `emu-video train distil`" in refused(capsys, *command, "--fast")
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize(
    "name", ["../few_steps_lora.safetensors", "nothing.safetensors", "unet", 7, "", ["few_steps_lora.safetensors"], "x" * 300]
)
def test_the_lora_is_a_file_of_the_folder(model: Path, tmp_path: Path, name: object) -> None:
    folder = says(model, tmp_path / "model", few_steps_lora=name)
    shutil.copy(model / LORA, tmp_path / LORA)
    with pytest.raises(UserError, match=r"expected few_steps_lora to be a file in this folder, found .*mend the name"):
        few_steps_lora(folder)
    (folder / "loras").mkdir(exist_ok=True)
    shutil.move(folder / LORA, folder / "loras" / "quick.safetensors")
    (folder / "emu_video.json").write_text(json.dumps({"few_steps_lora": "loras/quick.safetensors"}))
    assert few_steps_lora(folder) == folder / "loras" / "quick.safetensors"


def test_the_lora_may_be_a_link(model: Path, tmp_path: Path) -> None:
    """As in a cache that keeps each file once."""
    folder = says(model, tmp_path / "model", few_steps_lora=LORA)
    shutil.move(folder / LORA, tmp_path / "blob")
    (folder / LORA).symlink_to(tmp_path / "blob")
    assert few_steps_lora(folder) == folder / LORA


@pytest.mark.parametrize("word", ["no", 1, None, {"a": 0}])
def test_the_makers_word_is_true_or_false(model: Path, tmp_path: Path, word: object) -> None:
    folder = says(model, tmp_path / "model", fast=word)
    with pytest.raises(UserError, match="expected fast to be true or false, found"):
        advises_fast(folder)


def test_nothing_there_is_nothing_advised(model: Path, tmp_path: Path) -> None:
    folder = says(model, tmp_path / "model", fast=True)
    (folder / "stack_F_fast.safetensors").unlink()
    (folder / LORA).unlink()
    assert not advises_fast(folder)
    assert advises_fast(says(model, tmp_path / "other", fast=True))


def test_a_lora_that_cannot_be_used_is_refused_before_anything_is_loaded(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("emu_core.pipeline.load_base", load)
    monkeypatch.setattr("emu_core.pipeline.load_stack", load)
    command = ["generate", PROMPT, "--out", str(tmp_path / "a.mp4"), "--fast", "--model"]
    for number, content in enumerate((b"no weights", (BUNDLED / "stack_F.safetensors").read_bytes())):
        folder = says(model, tmp_path / f"model {number}")
        (folder / LORA).write_bytes(content)
        assert LORA in refused(capsys, *command, str(folder))
    folder = says(model, tmp_path / "wrong")
    write_lora(folder, folder / LORA, steps="many")
    assert "expected steps and a text guidance" in refused(capsys, *command, str(folder))


def test_who_makes_no_starting_frame_has_no_second_network(model: Path) -> None:
    pipeline = EmuVideoPipeline.from_files(model, fast=True, starting_frames=False)
    assert pipeline.image_unet is None
    assert pipeline.models["F"].stack.config.origin.stage == "distil_2"


def test_what_the_lora_says_of_itself_is_checked(model: Path, tmp_path: Path) -> None:
    write_lora(model, tmp_path / "silent.safetensors", format="pt")
    assert recommended_with(tmp_path / "silent.safetensors") == {"steps": 4, "text_guidance": 1.0}
    for number, said in enumerate(({"steps": "0"}, {"steps": "x"}, {"text_guidance": "nan"}, {"text_guidance": "-1"})):
        write_lora(model, tmp_path / f"{number}.safetensors", **said)
        with pytest.raises(UserError, match="expected steps and a text guidance in its metadata"):
            recommended_with(tmp_path / f"{number}.safetensors")

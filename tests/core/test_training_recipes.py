"""Recipes: the paper's figures, their files, what is refused before the first step, and the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from emu_core.cli.main import main
from emu_core.toy import recipes as toy
from emu_core.training import paper
from emu_core.training.checks import check_recipe
from emu_core.training.recipes import FLAT, from_dict, override

from .tiny_training import SD15, small


def test_stages_have_the_papers_figures() -> None:
    """Emu Video, arXiv 2311.10709, section 4 and the appendix's table of training."""
    stages = {name: make(SD15) for name, make in paper.STAGES.items()}
    table = {
        "stage1_256px": (70_000, 512, 1e-4, 1000, 0.0, 8, 8.0, 256, "epsilon", False),
        "stage2_512px": (15_000, 512, 1e-4, 1000, 0.0, 8, 4.0, 512, "v_prediction", True),
        "stage3_16frames": (25_000, 512, 1e-4, 1000, 0.0, 16, 4.0, 512, "v_prediction", True),
        "hq_finetune": (20_000, 64, 2.5e-5, 10_000, 1e-4, 8, 4.0, 512, "v_prediction", True),
        "interpolation": (15_000, 384, 1.5e-4, 1500, 0.0, 37, 16.0, 512, "v_prediction", True),
    }
    for name, recipe in stages.items():
        o, c, s = recipe.optimisation, recipe.clips, recipe.schedule
        found = (o.steps, o.batch, o.rate, o.warmup, o.weight_decay, c.frames, c.fps, c.size[0], s.prediction, s.zero_snr)
        assert found == table[name]
        assert (o.betas, o.decay) == ((0.9, 0.999), 0.0)  # a constant rate after the warm-up
    i = stages["interpolation"]
    assert (i.role, i.given.image_noise, i.recommended.image_noise) == ("I", 250, 100)
    recommended = stages["stage2_512px"].recommended
    assert (recommended.text_guidance, recommended.image_guidance) == (7.5, 2.0)


@pytest.mark.parametrize("scale", [toy.TINY, *paper.SCALES.values()], ids=lambda scale: scale.family)
def test_recipes_survive_their_files(scale: paper.Scale) -> None:
    for recipe in [*(make(scale) for make in paper.STAGES.values()), *toy.RECIPES.values()]:
        assert from_dict(json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe


def test_chain_hands_on_the_length_of_the_clips() -> None:
    names = {chain: [r.name for r in paper.CHAINS[chain].recipes(SD15, [])] for chain in ("paper", "short")}
    assert names["paper"] == list(paper.STAGES)
    hq = {chain: paper.CHAINS[chain].recipes(SD15, [])[-2].clips.frames for chain in names}
    assert hq == {"paper": 16, "short": 8}
    single = paper.CHAINS["paper"].recipes(SD15, ["single_stage", "direct"])
    assert [r.name for r in single] == list(paper.STAGES)[1:]
    assert all(not r.method.image for r in single)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule.zero_snr": "true"}, "epsilon prediction is undefined at zero terminal SNR"),
        ({"optimisation.steps": "0"}, "optimisation.steps must be 1 or more, found 0"),
        ({"optimisation.rate": "0"}, r"optimisation.rate must be above 0, found 0.0: change it with --set"),
        ({"clips.size": "30,30"}, "clips.size must be multiples of 8, found 30,30"),
        ({"clips.frames": "1"}, "2 or more frames"),
        ({"role": "I"}, "an interpolation model is trained on 37 frames, of which 8 are given, found clips.frames=4"),
        ({"optimisation.batch": "4", "compute.micro": "3"}, "the batch of 4 do not divide into compute.micro=3: choose a"),
        ({"image_noise": "1000"}, "image_noise must be a timestep, 0 to 999, found 1000"),
        ({"compute.cache": "true", "clips.shards": "somewhere"}, "choose how many clips of each video to keep"),
        ({"compute.precision": "float16", "compute.parallel": "fsdp"}, "use compute.precision=bfloat16"),
        ({"family": "sdxl"}, "is for a base of family sdxl, and .* is of family tiny"),
        ({"base": ""}, "needs an image model to build on: name its folder or file with --base"),
        ({"base": "/nowhere"}, "/nowhere"),
        ({"init": "/nowhere.safetensors"}, "starts from /nowhere.safetensors, which does not exist"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_step(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_recipe(override(small(), changes))


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_launched(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "stage1_256px", "--family", "tiny", "--set", "optimisation.batch=4", "--processes", "3"]
    assert main(command) == 2
    assert "batch 4 does not divide over 3 processes: choose another optimisation.batch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "stage9"], "unknown recipe 'stage9': expected one of stage1_256px"),
        (["train", "chain"], "expected the name of a chain, paper, short, tiny-demo"),
        (["train", "chain", "tiny-demo", "--family", "sd15"], "is for the family tiny alone"),
        (["train", "stage1_256px"], "needs an image model to build on: name its folder or file with --base"),
        (["train", "tiny-f", "--family", "sd15"], "recipe 'tiny-f' is for the tiny model alone"),
        (["train", "stage1_256px", "--ablation", "none"], "unknown ablation 'none': expected one of direct"),
        (["train", "stage1_256px", "--fit", "8GB"], "does not fit 8GB"),
        (["train", "stage1_256px", "--family", "flux"], "recipes for the families tiny, sd15, sd21, sdxl, found 'flux'"),
        (["train", "nowhere.json"], "nowhere.json is no recipe"),
        (["train", "stage1_256px", "--processes", "0"], "--processes must be 1 or more"),
    ],
)
def test_command_line_says_what_is_wrong(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in (*paper.STAGES, *paper.ABLATIONS, *paper.CHAINS, *toy.CHAINS, *toy.RECIPES))
    assert main(["recipes", "stage2_512px", "--family", "sdxl", "--ablation", "direct", "--set", "optimisation.steps=5"]) == 0
    shown = from_dict(json.loads(capsys.readouterr().out))
    assert (shown.family, shown.method.image, shown.optimisation.steps) == ("sdxl", False, 5)
    assert main(["recipes", "chain", "tiny-demo"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(paper.STAGES)


def test_what_is_drawn_is_of_the_world_that_the_image_model_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the model's folder says, unless the recipe's file or --set says otherwise."""
    base = tmp_path / "base"
    base.mkdir()

    def kind(recipe: str, *arguments: str) -> str:
        assert main(["recipes", recipe, "--base", str(base), *arguments]) == 0
        shown = capsys.readouterr().out
        (tmp_path / "shown.json").write_text(shown)
        return str(json.loads(shown)["world"]["kind"])

    assert kind("stage2_512px", "--family", "tiny") == "shapes"
    assert kind(str(tmp_path / "shown.json")) == "shapes"
    (base / "emu_video.json").write_text('{"world": "little"}')
    assert kind(str(tmp_path / "shown.json")) == "shapes"
    assert kind("stage2_512px", "--family", "tiny", "--set", "world.kind=shapes") == "shapes"
    assert kind("stage2_512px", "--family", "tiny") == "little"


def test_files_and_names_of_version_0_1_are_read() -> None:
    """There every setting of `FLAT` stood in the recipe itself."""
    recipe = override(small("interpolation"), {"base": "a", "first_frame": "0.5", "widths": "8,16", "save_every": 7})
    new = {"start.base": "a", "given.first_frame": 0.5, "every.save": 7, "network.widths": (8, 16)}
    assert recipe == override(small("interpolation"), new)
    flat = json.loads(json.dumps(dataclasses.asdict(recipe)))
    for old, new in FLAT.items():
        part, _, name = new.partition(".")
        flat[old] = flat[part].pop(name)
    flat = {name: value for name, value in flat.items() if value != {}}
    assert (flat["image_noise"], flat["image_noise_inference"]) == (100, 20)
    assert not {new.partition(".")[0] for new in FLAT.values()} - {"optimisation", "world", "network"} & flat.keys()
    assert from_dict(flat) == recipe


SILLY = {
    "compute.precision=x": "must be one of float32, bfloat16, float16, found 'x'", "role=x": "must be one of F, I, found 'x'",
    "method.stack=": "must be one of full, slim, convolutions", "clips.size=64": "must be 2 numbers, such as 0,0, found '64'",
    "optimisation.betas=1,2,3": "must be 2 numbers", "optimisation.betas=0.9,1": "must be 0 to below 1",
    "optimisation.rate=inf": "must be at most 2147483647, found inf", "optimisation.decay=nan": "must be 0 to 1, found nan",
    "optimisation.seed=99999999999999999999": "must be at most", "given.first_frame=-1": "must be 0 to 1",
    "schedule.steps=99999999999": "must be at most", "clips.shards=/nowhere": "/nowhere",
}  # fmt: skip


def test_a_seed_may_be_as_large_as_torch_takes_it() -> None:
    """As in recipes of version 0.1."""
    check_recipe(small(optimisation__seed=str(2**63 - 1)))


@pytest.mark.parametrize("setting", SILLY)
def test_a_silly_value_is_a_sentence_before_any_work(setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "stage1_256px", "--family", "tiny", "--set", setting, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert SILLY[setting] in said
    assert "Traceback" not in said
    assert not out.exists()

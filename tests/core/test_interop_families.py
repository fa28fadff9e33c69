"""What each public family wants, as its authors' own configurations say it; relatives that only a name tells apart."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import MotionAdapter

from emu_core.checkpoint import load_stack, read_config, save_stack
from emu_core.cli.main import main
from emu_core.interop import VARIANTS, import_plan
from emu_core.interop.variants import by_name
from emu_core.model.config import StackConfig
from emu_core.model.sampling import sample
from emu_core.model.schedule import ScheduleConfig, abar, trailing_timesteps
from emu_core.model.stack import TemporalStack
from emu_core.weights import WeightFile
from tests.core import reference

State = dict[str, torch.Tensor]
SMALL = reference.SMALL_SD15
SMALL_SDXL: dict[str, Any] = {"block_out_channels": (32, 64, 64), "layers_per_block": 2, "cross_attention_dim": 32}
SMALL_SDXL |= {"attention_head_dim": 8, "sample_size": 8, "down_block_types": ("DownBlock2D", *2 * ["CrossAttnDownBlock2D"])}
SMALL_SDXL |= {"up_block_types": (*2 * ["CrossAttnUpBlock2D"], "UpBlock2D")}


@dataclass(frozen=True)
class Row:
    """`source`: where its authors say so. `sigma`: of the last timestep. `spacing`: of the authors' sampler; here it is trailing
    throughout. `betas` in diffusers' names, which call linear what LDM and ComfyUI call sqrt_linear."""

    source: str
    betas: str
    end: float
    sigma: float
    prediction: str = "epsilon"
    spacing: str = "leading"
    frames: int = 16
    longest: int | None = 32
    fps: float = 8.0
    size: tuple[int, int] = (512, 512)
    sampler: str = "ddim"
    steps: int = 25
    guidance: float = 8.0


ANIMATEDIFF = "guoyww/AnimateDiff, configs/inference/inference-{}.yaml; app.py: 25 steps, scale 8"
LIGHTNING = "ByteDance/AnimateDiff-Lightning, model card; distilled from v2"
TABLE = {
    "animatediff_v1": Row(ANIMATEDIFF.format("v1"), "linear", 0.012, 25.15, longest=24),
    "animatediff_v2": Row(ANIMATEDIFF.format("v2"), "linear", 0.012, 25.15),
    "animatediff_v3": Row(ANIMATEDIFF.format("v3"), "linear", 0.012, 25.15),
    "animatediff_sdxl": Row(
        "guoyww/AnimateDiff, branch sdxl, configs/inference/inference.yaml, configs/prompts/1-original_sdxl.yaml",
        *("scaled_linear", 0.020, 65.93),
        **{"size": (1024, 1024), "sampler": "euler", "steps": 100, "guidance": 8.5},
    ),
    "hotshot_xl": Row(
        *("hotshotco/Hotshot-XL, fine_tune.py takes SDXL's scheduler; inference.py, hotshot_xl_pipeline.py", "scaled_linear"),
        *(0.012, 14.61),
        **{"frames": 8, "longest": 24, "sampler": "euler_ancestral", "steps": 30, "guidance": 5.0},
    ),
    "pia": Row("open-mmlab/PIA, example/config/base.yaml; i2v_pipeline.py", "linear", 0.012, 25.15, guidance=7.5),
    "fancyvideo": Row(
        *("360CVGroup/FancyVideo, fancyvideo_infer_pipeline.py; configs/inference/i2v.yaml", "linear", 0.012, math.inf),
        *("v_prediction",),
        **{"fps": 6.25, "size": (768, 768), "steps": 50, "guidance": 7.5},
    ),
    "modelscope": Row(
        *("diffusers, pipeline_text_to_video_synth.py; scheduler of damo-vilab/text-to-video-ms-1.7b", "scaled_linear"),
        *(0.012, 14.61),
        **{"longest": None, "size": (256, 256), "steps": 50, "guidance": 9.0},
    ),
    **{
        f"lightning_{n}": Row(LIGHTNING, "linear", 0.012, 25.15, spacing="trailing", sampler="euler", steps=n, guidance=1.0)
        for n in (1, 2, 4, 8)
    },
    "animatelcm": Row(
        *("G-U-N/AnimateLCM, animatelcm_sd15/configs/inference-t2v.yaml, app.py: 6 steps, scale 1.5", "linear", 0.012, 25.15),
        **{"longest": 64, "sampler": "lcm", "steps": 6, "guidance": 1.5},
    ),
}


@pytest.fixture(scope="module")
def v2() -> State:
    return reference.original_layout(reference.motion_adapter(reference.image_unet(**SMALL), mid=True).state_dict())


def real_shapes(levels: int, mid: bool, layout: str = "original", conv_in: bool = False) -> dict[str, tuple[int, ...]]:
    """Of the modules for SD 1.5 (4 levels) or SDXL (3) at their true widths."""
    sizes: dict[str, Any] = {"block_out_channels": (320, 640, 1280, 1280)[:levels], "conv_in_channels": 9 if conv_in else None}
    with torch.device("meta"):
        state = MotionAdapter(**sizes, use_motion_mid_block=mid).state_dict()
    state = state if layout == "diffusers" else reference.original_layout(state)
    return {name: tuple(value.shape) for name, value in state.items()}


def without_tables(state: State) -> State:
    return {name: value for name, value in state.items() if "pos_e" not in name}


def config_of(name: str, v2: State, folder: Path) -> StackConfig:
    if name == "animatediff_sdxl":  # at its true widths, by which it is known
        return import_plan(WeightFile(folder / "any.safetensors", real_shapes(3, mid=False))).config
    unet = reference.image_unet(**(SMALL_SDXL if name == "hotshot_xl" else SMALL))
    file = f"animatediff_lightning_{name[-1]}step_comfyui" if name.startswith("lightning") else "any"
    state = {
        "animatediff_v1": lambda: reference.original_layout(reference.motion_adapter(unet, mid=False, length=24).state_dict()),
        "animatediff_v3": lambda: reference.original_layout(reference.motion_adapter(unet, mid=False).state_dict()),
        "hotshot_xl": lambda: reference.hotshot_state(unet),
        "pia": lambda: reference.motion_adapter(unet, mid=False, conv_in=True).state_dict(),
        "fancyvideo": lambda: reference.fancyvideo_state(unet),
        "modelscope": lambda: reference.modelscope_unet(**reference.SMALL_MODELSCOPE).state_dict(),
        "animatelcm": lambda: without_tables(v2),
    }.get(name, lambda: v2)()
    return read_config(reference.save(state, folder / f"{file}.safetensors"))


def ldm_sigma(row: Row, start: float = 0.00085) -> float:
    """The last noise level by the formula of LDM's make_beta_schedule, from which both diffusers and ComfyUI have theirs."""
    power = 0.5 if row.betas == "scaled_linear" else 1.0
    betas = np.linspace(start**power, row.end**power, 1000, dtype=np.float64) ** (1 / power)
    last = np.prod(1 - betas)
    return float(np.sqrt((1 - last) / last))


@pytest.mark.parametrize("name", TABLE)
def test_each_family_is_set_up_as_its_authors_have_it(name: str, v2: State, tmp_path: Path) -> None:
    row, config = TABLE[name], config_of(name, v2, tmp_path)
    schedule, sampling, clip = config.schedule, config.sampling, config.clip
    assert (schedule.beta_schedule, schedule.beta_start, schedule.beta_end) == (row.betas, 0.00085, row.end)
    assert (schedule.prediction, schedule.zero_snr) == (row.prediction, math.isinf(row.sigma))
    last = float(abar(schedule)[-1])
    assert math.isinf(row.sigma) if last == 0 else math.sqrt((1 - last) / last) == pytest.approx(row.sigma, abs=0.005)
    if last:
        assert ldm_sigma(row) == pytest.approx(row.sigma, abs=0.005)
    assert (clip.frames, clip.fps, clip.size, config.layers.max_frames) == (row.frames, row.fps, row.size, row.longest)
    recommended = (sampling.sampler, sampling.steps, sampling.text_guidance, sampling.image_guidance)
    assert recommended == (row.sampler, row.steps, row.guidance, 1.0)


def test_the_documents_have_every_source() -> None:
    text = (Path(__file__).parents[2] / "docs" / "public_checkpoints.md").read_text(encoding="utf-8")
    for row in TABLE.values():
        assert row.source.split(",")[0] in text
        assert math.isinf(row.sigma) or f"{row.sigma:.2f}" in text


@pytest.mark.parametrize("name", ["animatediff_sdxl", "hotshot_xl", "animatediff_v3"])
def test_what_was_converted_with_the_wrong_schedule_is_right_now(name: str, v2: State, tmp_path: Path) -> None:
    """Until then all of these had the betas of AnimateDiff for SD 1.5."""
    right = config_of(name, v2, tmp_path)
    stack = TemporalStack(right.changed(schedule=config_of("animatediff_v3", v2, tmp_path).schedule))
    save_stack(stack, tmp_path / "converted.safetensors")
    assert read_config(tmp_path / "converted.safetensors").schedule == right.schedule


# -- AnimateDiff-Lightning and AnimateLCM


@pytest.mark.parametrize(
    ("path", "variant"),
    [
        ("animatediff_lightning_1step_diffusers.safetensors", "lightning-1step"),
        ("AnimateDiff-Lightning 8 steps.ckpt", "lightning-8step"),
        ("lightning/animatediff_lightning_2step_comfyui.safetensors", "lightning-2step"),
        ("animatediff_lightning.safetensors", "lightning-4step"),
        ("8step-AnimateDiff-Lightning.ckpt", "lightning-8step"),
        ("Lightning_2step.ckpt", "lightning-2step"),
        ("AnimateDiff-Lightning/2step.safetensors", "lightning-2step"),
        ("models--ByteDance--AnimateDiff-Lightning/snapshots/abc/diffusion_pytorch_model.safetensors", "lightning-4step"),
        ("mm_sd_v15_v2_for_AnimateLCM.ckpt", "animatediff"),
        ("AnimateLCM/Motion_Module/mm_sd_v15_v2.ckpt", "animatediff"),
        ("AnimateLCM/Motion_Module/something.ckpt", None),
        ("my_pytorch_lightning_finetune.ckpt", None),
        ("sdxl_lightning_4step_lora.safetensors", None),
        ("notanimatelcm.ckpt", None),
        ("AnimateLCM_sd15_t2v.ckpt", "animatelcm"),
        ("sd15_t2v_beta.ckpt", "animatelcm"),
        ("models--wangfuyun--AnimateLCM/snapshots/abc/diffusion_pytorch_model.fp16.safetensors", "animatelcm"),
        ("animatelcm/animatediff_lightning_4step_comfyui.safetensors", "lightning-4step"),
        ("mm_sd_v15_v2.ckpt", "animatediff"),
        ("lightning_18steps/mm.ckpt", None),
    ],
)
def test_what_a_name_says(path: str, variant: str | None) -> None:
    assert by_name(Path("/nowhere/models") / path) == variant


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_the_user_has_the_last_word(v2: State, layout: str, tmp_path: Path) -> None:
    state = v2 if layout == "original" else reference.motion_adapter(reference.image_unet(**SMALL), mid=True).state_dict()
    path = reference.save(state, tmp_path / "animatediff_lightning_4step.safetensors")
    config = read_config(path)
    assert (config.origin.family, config.origin.stage) == ("animatediff-lightning", "4 steps")
    assert config.origin.source.endswith("taken for lightning-4step by its name")
    assert read_config(path, "animatediff").sampling.steps == 25
    for variant in VARIANTS:
        assert read_config(path, variant).origin.source.endswith(f"taken for {variant} as was said")
    assert read_config(path, "animatelcm").layers.max_frames == 32  # it has a table
    with pytest.raises(ValueError, match="unknown variant 'lighting', expected one of animatediff, lightning-1step"):
        read_config(path, "lighting")


def test_a_variant_is_for_the_keys_of_v2(tmp_path: Path) -> None:
    v3 = reference.motion_adapter(reference.image_unet(**SMALL), mid=False)
    path = reference.save(v3, tmp_path / "v3_sd15_mm.safetensors")
    assert read_config(path).origin.stage == "v3"
    with pytest.raises(ValueError, match="has the keys of animatediff v3, and a variant is for those of AnimateDiff v2"):
        read_config(path, "lightning-4step")


@pytest.mark.parametrize("name", ["animatediff_lightning_4step", "AnimateLCM_sd15_t2v", "mm_sd_v15_v2"])
def test_without_its_middle_a_file_of_such_a_name_is_half_a_file(name: str, tmp_path: Path) -> None:
    """Its keys are those of v3."""
    v3 = reference.original_layout(reference.motion_adapter(reference.image_unet(**SMALL), mid=False).state_dict())
    with pytest.raises(ValueError, match="is half a checkpoint of .*, as its name says, without the module in the middle"):
        read_config(reference.save(v3, tmp_path / f"{name}.safetensors"))


def test_animatelcms_own_name_for_its_positions(v2: State, tmp_path: Path) -> None:
    """Its program keeps them in a buffer of another name than AnimateDiff's."""
    state = {name.replace(".pos_encoder.pe", ".pos_encoder.pos_encoding"): value for name, value in v2.items()}
    path = reference.save(state, tmp_path / "any.safetensors")
    config = read_config(path)
    assert (config.origin.family, config.layers.max_frames) == ("animatelcm", 32)
    assert config.origin.source.endswith("taken for animatelcm by its table of positions")
    found = [value for name, value in load_stack(path).state_dict().items() if name.endswith("positions.table")]
    wanted = [value[0] for name, value in v2.items() if name.endswith(".pe")]
    assert len(found) == len(wanted)
    assert all(any(torch.equal(one, other) for other in wanted) for one in found)


def test_animatelcm_has_its_64_positions_made(v2: State, tmp_path: Path) -> None:
    """By the formula of its program's PositionalEncoding, of 64 rows."""
    path = reference.save(without_tables(v2), tmp_path / "any.safetensors")
    assert read_config(path).origin.family == "animatelcm"
    found = load_stack(path).state_dict()
    name = next(name for name in found if name.endswith("positions.table"))
    width = found[name].shape[1]
    angles = np.arange(64)[:, None] * np.exp(np.arange(0, width, 2) * (-math.log(10000.0) / width))
    wanted = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(64, width)
    np.testing.assert_allclose(found[name].numpy(), wanted, atol=64 * 2**-23)
    assert load_stack(path, variant="animatediff").state_dict()[name].shape == (32, width)


def test_convert_keeps_what_a_file_was_taken_for(v2: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = reference.save(v2, tmp_path / "file.safetensors"), tmp_path / "stack.safetensors"
    assert main(["convert", str(path), "--out", str(out), "--variant", "lightning-2step"]) == 0
    capsys.readouterr()
    assert main(["info", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["family"], facts["stage"]) == ("animatediff-lightning", "2 steps")
    assert facts["recommended"] == {"text_guidance": 1.0, "image_guidance": 1.0, "steps": 2, "sampler": "euler"}
    with pytest.raises(ValueError, match="says itself what it is"):
        read_config(out, "animatelcm")


def test_lcm_makes_noise_anew_at_each_step() -> None:
    """Multistep consistency sampling (Song et al., arXiv 2303.01469, algorithm 1): clean, then noise of the next timestep."""
    schedule = ScheduleConfig(beta_schedule="linear", zero_snr=False, prediction="epsilon")
    noise, steps = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), 6
    found = sample(lambda x, t: 0.3 * x, noise, schedule, steps, "lcm", torch.Generator().manual_seed(1))
    generator, power, x = torch.Generator().manual_seed(1), abar(schedule).float(), noise
    times = trailing_timesteps(schedule, steps).tolist()
    for t, following in zip(times, [*times[1:], None], strict=True):
        clean = (x - (1 - power[t]).sqrt() * 0.3 * x) / power[t].sqrt()
        if following is None:
            x = clean
        else:
            fresh = torch.randn(x.shape, generator=generator)
            x = power[following].sqrt() * clean + (1 - power[following]).sqrt() * fresh
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


# -- half a file, at the true widths, where deep cuts look like smaller models

CUTS = {
    "no way up": ("up_blocks.",),
    "no way down": ("down_blocks.",),
    "the middle alone": ("up_blocks.", "down_blocks."),
    "one module alone": (
        "down_blocks.",
        "mid_block.",
        "up_blocks.1.",
        "up_blocks.2.",
        "up_blocks.3.",
        *(f"up_blocks.0.motion_modules.{j}." for j in (1, 2)),
    ),
    "the outer levels alone": ("down_blocks.2.", "down_blocks.3.", "up_blocks.2.", "up_blocks.3."),
    "the first level alone": tuple(f"{side}_blocks.{level}." for side in ("down", "up") for level in (1, 2, 3)),
    "the last numbers of both ways": ("down_blocks.3.", "up_blocks.3."),
    "one module fewer everywhere": tuple(
        f"{side}.{level}.motion_modules.{j}." for side, j in (("down_blocks", 1), ("up_blocks", 2)) for level in range(4)
    ),
    "one module": ("up_blocks.1.motion_modules.2.",),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("levels", "mid"), [(4, True), (4, False), (3, False)])
@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_half_a_file_is_no_smaller_stack(layout: str, levels: int, mid: bool, cut: str, tmp_path: Path) -> None:
    whole = real_shapes(levels, mid, layout)
    assert import_plan(WeightFile(tmp_path / "any.safetensors", whole)).config.unet.base == ("sd15" if levels == 4 else "sdxl")
    shapes = {name: shape for name, shape in whole.items() if not name.startswith(CUTS[cut])}
    if not shapes or len(shapes) == len(whole):
        return  # nothing is left, or nothing of it is there
    with pytest.raises(ValueError, match="is half a checkpoint of family animatediff, without its modules at"):
        import_plan(WeightFile(tmp_path / "any.safetensors", shapes))


@pytest.mark.parametrize("broken", [(), (320,), (320, 9, 3), (320, 7, 3, 3), None])
def test_a_damaged_first_convolution_makes_no_animatediff_of_pia(broken: tuple[int, ...] | None, tmp_path: Path) -> None:
    shapes = real_shapes(4, False, "diffusers", conv_in=True)
    assert import_plan(WeightFile(tmp_path / "any.safetensors", shapes)).config.origin.family == "pia"
    shapes = {name: shape for name, shape in shapes.items() if name != "conv_in.weight" or broken is not None}
    shapes |= {} if broken is None else {"conv_in.weight": broken}
    with pytest.raises(ValueError, match="is damaged, for its conv_in.weight should have 4 or 9 channels"):
        import_plan(WeightFile(tmp_path / "any.safetensors", shapes))


@pytest.mark.parametrize(
    "drops", [("mid_block.",), ("conv_in.",), ("fps_embedding.",), ("temp",), ("down_blocks.", "up_blocks.", "mid_block.")]
)
def test_half_a_fancyvideo(drops: tuple[str, ...], tmp_path: Path) -> None:
    state = reference.fancyvideo_state(reference.image_unet(**SMALL))
    shapes = {name: tuple(value.shape) for name, value in state.items() if not name.startswith(drops)}
    shapes["FancyVideo"] = ()
    if drops == ("temp",):
        assert import_plan(WeightFile(tmp_path / "any.safetensors", shapes)).config.origin.family == "fancyvideo"
        return
    with pytest.raises(ValueError, match="half a checkpoint of family fancyvideo|is part of a checkpoint with motion modules"):
        import_plan(WeightFile(tmp_path / "any.safetensors", shapes))


@pytest.mark.parametrize(
    "drop", ["transformer_in.", "mid_block.", r"\.temp_convs\.", r"\.temp_attentions\.", r"^up_blocks.*temp_attentions"]
)
def test_half_a_modelscope(drop: str, tmp_path: Path) -> None:
    state = reference.modelscope_unet(**reference.SMALL_MODELSCOPE).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items() if not re.search(drop, name)}
    with pytest.raises(ValueError, match="is half a checkpoint of family modelscope, without its modules at"):
        import_plan(WeightFile(tmp_path / "any.safetensors", shapes))


def test_uneven_sets_of_other_widths_are_whole(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"block_out_channels": (32, 64, 64), "motion_layers_per_block": (1, 2, 2)}
    shapes = {k: tuple(v.shape) for k, v in MotionAdapter(**sizes, motion_num_attention_heads=4).state_dict().items()}
    config = import_plan(WeightFile(tmp_path / "any.safetensors", shapes)).config
    assert (config.origin.stage, config.schedule.beta_schedule, config.clip.size) == ("v2", "linear", (512, 512))


def test_tables_without_a_row(v2: State, tmp_path: Path) -> None:
    shapes = {name: tuple(v.shape) if "pos_e" not in name else (1, 0, v.shape[2]) for name, v in v2.items()}
    with pytest.raises(ValueError, match="no stack can be built of their shapes \\(a table of positions without a row\\)"):
        import_plan(WeightFile(tmp_path / "any.safetensors", shapes))

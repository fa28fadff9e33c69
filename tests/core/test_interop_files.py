"""Files of public checkpoints: which family, what is refused and why, and conversion. Every refusal is one sentence."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from emu_core.checkpoint import load_stack, read_config
from emu_core.cli.main import main
from emu_core.interop import animatediff, recognise
from emu_core.interop.layout import is_spatial
from emu_core.interop.recognise import import_plan
from emu_core.model.stack import TemporalStack
from emu_core.weights import WeightFile, open_weights
from tests.core import reference
from tests.core.helpers import small_unet
from tests.core.test_interop_originals import FAMILIES, checkpoint, fixture

State = dict[str, torch.Tensor]
SMALL = reference.SMALL_SD15
write = reference.save


@pytest.fixture(scope="module")
def adapter_state() -> State:
    return reference.motion_adapter(reference.image_unet(**SMALL), mid=True).state_dict()


@pytest.fixture(scope="module")
def original(adapter_state: State) -> State:
    return reference.original_layout(adapter_state)


# -- which family


@pytest.mark.parametrize("wrapped", ["plain", "state_dict", "module", "prefixed"])
@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_pickles_of_tensors_are_read_however_a_trainer_wraps_them(
    original: State, tmp_path: Path, wrapped: str, suffix: str
) -> None:
    content: Any = original
    if wrapped == "prefixed":
        content = {"epoch": 3, "global_step": 7, "state_dict": {f"module.{k}": v for k, v in original.items()}}
    elif wrapped != "plain":
        content = {"epoch": 3, wrapped: original}
    torch.save(content, tmp_path / f"file{suffix}")
    found = load_stack(tmp_path / f"file{suffix}").state_dict()
    wanted = load_stack(write(original, tmp_path / "file.safetensors")).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)


def test_a_pickle_of_the_old_kind_is_read(original: State, tmp_path: Path) -> None:
    torch.save(original, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert read_config(tmp_path / "old.pt").origin.family == "animatediff"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_family_is_in_the_keys_not_in_the_name(name: str, tmp_path: Path) -> None:
    path = checkpoint(name, tmp_path).rename(tmp_path / "sd_xl_base_lora.safetensors")
    config = read_config(path)
    assert config.origin.family == FAMILIES[name]
    assert config.takes_image is (name in ("pia", "fancyvideo"))
    assert config.layers.max_frames == (24 if name in ("animatediff_v1", "hotshot_xl") else 32)


def test_versions_of_animatediff(tmp_path: Path) -> None:
    stages = [read_config(checkpoint(f"animatediff_v{n}", tmp_path)).origin.stage for n in (1, 2, 3)]
    assert stages == ["v1", "v2", "v3"]


def test_an_image_model_in_the_same_file_is_left_out(original: State, tmp_path: Path) -> None:
    whole = {**original, **reference.image_unet(**SMALL).state_dict()}
    found = load_stack(write(whole, tmp_path / "whole.safetensors")).state_dict()
    assert found.keys() == load_stack(write(original, tmp_path / "part.safetensors")).state_dict().keys()


def test_positions_that_a_file_leaves_out_are_computed(original: State, tmp_path: Path) -> None:
    without = {k: v for k, v in original.items() if not k.endswith(".pe")}
    found = load_stack(write(without, tmp_path / "without.safetensors"), variant="animatediff").state_dict()
    wanted = load_stack(write(original, tmp_path / "with.safetensors")).state_dict()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=32 * 2 * torch.finfo(torch.float32).eps, rtol=0)  # angles below 32


def test_schedules_and_channels(tmp_path: Path) -> None:
    fancy = read_config(checkpoint("fancyvideo", tmp_path))
    assert (fancy.schedule.beta_schedule, fancy.schedule.zero_snr, fancy.schedule.prediction) == ("linear", True, "v_prediction")
    assert (fancy.channel_order, dict(fancy.values)) == (("image", "mask"), {"fps": 25.0, "motion_score": 3.0})
    pia = read_config(checkpoint("pia", tmp_path))
    assert (pia.schedule.beta_schedule, pia.schedule.zero_snr, pia.schedule.prediction) == ("linear", False, "epsilon")
    assert pia.channel_order == ("affinity", "image")


def test_a_fancyvideo_of_the_first_kind_has_no_embeddings(tmp_path: Path) -> None:
    state = reference.fancyvideo_state(reference.image_unet(**SMALL))
    state = {k: v for k, v in state.items() if "_embedding." not in k}
    config = read_config(write(state, tmp_path / "first.safetensors"))
    assert (config.origin.family, config.values) == ("fancyvideo", ())


# -- the base


@pytest.mark.parametrize(("layout", "base", "width"), [("sd15", "sd15", 768), ("sdxl", "sdxl", 2048)])
def test_the_base_is_known_by_its_widths(layout: str, base: str, width: int) -> None:
    widths = (320, 640, 1280, 1280) if layout == "sd15" else (320, 640, 1280)
    shapes = {f"down_blocks.{i}.motion_modules.0.norm.weight": (channels,) for i, channels in enumerate(widths)}
    config = animatediff.plan(shapes).config
    assert (config.unet.base, config.unet.text_width) == (base, width)


def test_another_base_is_refused(tmp_path: Path) -> None:
    """A stack of SD 1.5's shape on an SDXL U-Net, on a narrower one, and on one that reads other texts."""
    stack = load_stack(checkpoint("animatediff_v2", tmp_path))
    for name, words in (("sdxl", "has a layer at down.3"), ("tiny", "has a layer at down.0.layer.1|expects")):
        with pytest.raises(ValueError, match=words):
            stack.attach(small_unet(name))
    stack.config = stack.config.changed(text_width=768)
    with pytest.raises(ValueError, match="text states have a width of 768, the given U-Net reads 32"):
        stack.attach(reference.image_unet(**SMALL))


# -- what is refused


def drop(*names: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        for name in [k for k in state if any(part in k for part in names)]:
            del state[name]

    return change


def add(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Callable[[State], None]:
    return lambda state: state.update({name: torch.zeros(*shape).to(dtype)})


FIRST = "down_blocks.0.motion_modules.0.temporal_transformer."
FAULTS: dict[str, tuple[Callable[[State], None], str]] = {
    "missing": (drop("up_blocks.1.motion_modules.2.temporal_transformer.proj_out"), r"without 2 of its weights: up_blocks.1"),
    "missing block": (drop("transformer_blocks.0.ff."), r"without \d+ of its weights: .*ff.net.*, \.\.\."),
    "extra": (add("down_blocks.0.motion_modules.0.gate", 3), "1 weights that this family does not have: down_blocks.0.*gate"),
    "shape": (add(FIRST + "proj_in.weight", 32, 31), r"proj_in.weight to give .* \(32, 32\), found shape \(32, 31\)"),
    "table": (add(FIRST + "transformer_blocks.0.attention_blocks.0.pos_encoder.pe", 1, 16, 32), "found shape"),
    "odd width": (add(FIRST + "norm.weight", 33), "no stack can be built of their shapes|found shape"),
    "8 bit": (add(FIRST + "proj_in.weight", 32, 32, dtype=torch.float8_e4m3fn), "F8_E4M3 in .*proj_in.weight: take the file"),
    "integers": (add(FIRST + "proj_in.weight", 32, 32, dtype=torch.int8), "found I8"),
    "gate LoRA": (add("down_blocks.0.motion_modules.0.to_q_gate.weight", 2, 2), "weights that this family does not have"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_checkpoints_are_refused_by_name(original: State, tmp_path: Path, fault: str) -> None:
    change, words = FAULTS[fault]
    state = dict(original)
    change(state)
    path = write(state, tmp_path / "faulty.safetensors")
    for action in (read_config, load_stack):
        with pytest.raises(ValueError, match=words) as error:
            action(path)
        assert str(path) in str(error.value)


def test_cross_frame_text_modules_are_refused(tmp_path: Path) -> None:
    state = reference.fancyvideo_state(reference.image_unet(**SMALL))
    state["down_blocks.0.attentions.0.transformer_blocks.0.attn2.ctm_i_modules.0.weight"] = torch.zeros(2)
    with pytest.raises(ValueError, match="FancyVideo checkpoint with cross-frame text modules"):
        read_config(write(state, tmp_path / "ctgm.safetensors"))


OTHERS = {
    "lora": (
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight",
        r"is a LoRA \(a spatial adapter\), not a temporal stack",
    ),
    "peft lora": ("unet.down_blocks.0.attentions.0.to_q.lora_A.weight", "is a LoRA"),
    "peft lora with a name": ("base_model.model.down_blocks.0.attentions.0.to_q.lora_A.default.weight", "is a LoRA"),
    "sd-scripts, text": ("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", "is a LoRA"),
    "old diffusers lora": ("unet.up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.up.weight", "is a LoRA"),
    "LyCORIS": ("lycoris_down_blocks_0_attentions_0_proj_in.hada_w1_a", "is a LoRA"),
    "LoKr": ("lycoris_down_blocks_0_attentions_0_proj_in.lokr_w1", "is a LoRA"),
    "spatial adapter": ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight", "is a LoRA"),
    "motion lora": (FIRST + "transformer_blocks.0.attention_blocks.0.processor.to_q_lora.down.weight", "is a motion LoRA"),
    "motion lora, diffusers": ("unet.mid_block.motion_modules.0.x.attn1.processor.to_q_lora.up.weight", "is a motion LoRA"),
    "motion lora, ModelScope": ("down_blocks.0.temp_attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", "is a motion"),
    "motion lora, PEFT": ("unet.mid_block.motion_modules.0.x.attn1.to_q.lora_B.weight", "is a motion LoRA"),
    "checkpoint": ("cond_stage_model.transformer.text_model.embeddings.position_ids", "is a whole image or video model"),
    "SDXL checkpoint": (
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
        "is a whole image or video model",
    ),
    "controlnet": ("control_model.input_blocks.0.0.weight", "is a ControlNet"),
    "controlnet, diffusers": ("controlnet_down_blocks.0.weight", "is a ControlNet"),
    "CameraCtrl": (FIRST + "transformer_blocks.0.attention_blocks.0.processor.qkv_merge.weight", "is CameraCtrl"),
    "MotionCtrl": (FIRST + "transformer_blocks.0.cc_projection.weight", "is MotionCtrl"),
    "AnimateLCM-I2V": ("img_encoder.body.0.block1.weight", "is AnimateLCM-I2V"),
    "HelloMeme, reference": ("reference_modules_down.0.attn1.to_q.weight", "is a part of HelloMeme"),
    "HelloMeme, control": ("exp_pre_proj.linear_1.weight", "is a part of HelloMeme"),
    "HelloMeme, motion": ("motion_up.0.norm.weight", "is a part of HelloMeme"),
    "IP-Adapter": ("image_proj.norm.weight", "is an IP-Adapter"),
    "SVD": ("down_blocks.0.attentions.0.temporal_transformer_blocks.0.norm1.weight", "is Stable Video Diffusion"),
    "SVD, original": ("model.diffusion_model.input_blocks.1.1.time_stack.0.norm1.weight", "is Stable Video Diffusion"),
    "I2VGen-XL": ("image_latents_proj_in.0.weight", "is I2VGen-XL"),
    "VideoCrafter": ("model.diffusion_model.input_blocks.1.0.temopral_conv.conv1.0.weight", "is VideoCrafter"),
    "Flux": ("model.diffusion_model.double_blocks.0.img_attn.norm.query_norm.scale", "is a diffusion transformer"),
    "Wan": ("blocks.0.self_attn.q.weight", "is a diffusion transformer"),
    "VAE": ("decoder.conv_in.weight", "is a VAE"),
    "CLIP": ("text_model.embeddings.token_embedding.weight", "is a text encoder"),
    "IP-Adapter FaceID": ("ip_adapter.0.to_q_lora.down.weight", "is an IP-Adapter"),
    "CameraCtrl, pose encoder": ("encoder_down_attention_blocks.0.0.norm.weight", "is CameraCtrl"),
    "T2I-Adapter": ("body.0.in_conv.weight", "is a T2I-Adapter"),
    "ControlNet, LDM alone": ("zero_convs.0.0.weight", "is a ControlNet"),
    "LaVie": ("down_blocks.0.attentions.0.transformer_blocks.0.attn_temp.to_q.weight", "is LaVie"),
    "SVD LoRA": ("unet.down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_q.lora_A.weight", "is Stable Video"),
    "T5": ("encoder.block.0.layer.0.SelfAttention.q.weight", "is a text encoder"),
    "CLIP vision": ("vision_model.embeddings.class_embedding", "is an image encoder"),
    "a ViT": ("blocks.0.attn.qkv.weight", "is no temporal stack: expected"),
    "embedding": ("emb_params", "is a textual inversion"),
    "unet": ("down_blocks.0.resnets.0.conv1.weight", "is the U-Net of an image model"),
    "prefixed unet": ("model.diffusion_model.input_blocks.0.0.weight", "is the U-Net of an image model"),
    "modelscope": ("input_blocks.1.0.temopral_conv.conv1.0.weight", "ModelScope's model in its original layout"),
    "something": ("weight", "is no temporal stack: expected .* found keys such as weight"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_files_are_refused_with_what_they_are(tmp_path: Path, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrapped by a trainer too, and in 8 bits; `info` gives the same reason, but for whole image models."""
    key, words = OTHERS[other]
    write({key: torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    write({key: torch.zeros(2, 2).to(torch.float8_e4m3fn)}, tmp_path / "8bit.safetensors")
    torch.save({key: torch.zeros(2, 2)}, tmp_path / "other.ckpt")
    torch.save({"epoch": 1, "state_dict": {f"module.{key}": torch.zeros(2, 2)}}, tmp_path / "wrapped.pt")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ValueError, match=words) as error:
            read_config(path)
        if "is a whole" not in words and path.name == "other.safetensors":
            assert main(["info", str(path)]) == 2
            assert capsys.readouterr().err == f"emu-video: {error.value}\n"


@pytest.mark.parametrize(
    ("name", "words"), [("v3_sd15_adapter.ckpt", r"is a LoRA \(a spatial adapter\)"), ("CameraCtrl.ckpt", "is CameraCtrl")]
)
def test_small_ones_with_the_very_keys_that_were_published(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_config(Path(__file__).parent / "fixtures" / "cases" / name)


OWN_AND_FOREIGN = [
    "text_encoder.text_model.final_layer_norm.weight",
    "image_proj.norm.weight",
    "body.0.in_conv.weight",
    "a.processor.to_q_lora.up.weight",
]


@pytest.mark.parametrize("foreign", OWN_AND_FOREIGN)
def test_one_foreign_weight_does_not_make_a_motion_module_another_thing(original: State, foreign: str, tmp_path: Path) -> None:
    path = write({**original, foreign: torch.zeros(2)}, tmp_path / "file.safetensors")
    with pytest.raises(ValueError, match="is a checkpoint of family animatediff with 1 weights that this family does not have"):
        read_config(path)


@pytest.mark.parametrize("wrapper", ["params_ema", "generator", "unet", "motion_module_state_dict"])
def test_what_stands_beside_the_weights_of_a_run_is_passed_over(original: State, wrapper: str, tmp_path: Path) -> None:
    state = {f"module.{name}": value for name, value in original.items()}
    torch.save({wrapper: state, "global_step": torch.tensor(3), "optimizer": {"state": {0: torch.zeros(5)}}}, tmp_path / "run.pt")
    assert read_config(tmp_path / "run.pt").origin.stage == "v2"


def test_parts_of_a_pickle_are_looked_into(tmp_path: Path) -> None:
    """As CameraCtrl's and SparseCtrl's authors publish them."""
    attention = FIRST + "transformer_blocks.0.attention_blocks.0.processor.qkv_merge.weight"
    parts = {
        "camera_encoder_state_dict": {"unshuffle_conv.weight": torch.zeros(2)},
        "attention_processor_state_dict": {attention: torch.zeros(2)},
    }
    torch.save({"epoch": 1, "global_step": 2, **parts}, tmp_path / "CameraCtrl.ckpt")
    with pytest.raises(ValueError, match="CameraCtrl.ckpt is CameraCtrl, a control of the camera"):
        read_config(tmp_path / "CameraCtrl.ckpt")
    sparse = {"controlnet_cond_embedding.conv_in.weight": torch.zeros(2), FIRST + "norm.weight": torch.zeros(2)}
    torch.save({"controlnet": sparse}, tmp_path / "sparse.ckpt")
    with pytest.raises(ValueError, match="is SparseCtrl, a ControlNet for AnimateDiff"):
        read_config(tmp_path / "sparse.ckpt")
    torch.save({"epoch": 1}, tmp_path / "empty.ckpt")
    with pytest.raises(ValueError, match="it holds no weights with names"):
        read_config(tmp_path / "empty.ckpt")


@pytest.mark.parametrize(
    "prefix",
    ["unet.", "_orig_mod.module.", "module._orig_mod.", "model.diffusion_model.", "model.unet.module.", "motion_adapter."],
)
def test_what_stands_in_front_of_names_is_taken_off(original: State, adapter_state: State, prefix: str, tmp_path: Path) -> None:
    for state in (original, adapter_state):
        found = load_stack(write({prefix + k: v for k, v in state.items()}, tmp_path / "with.safetensors")).state_dict()
        wanted = load_stack(write(state, tmp_path / "without.safetensors")).state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[k], wanted[k]) for k in wanted)
        torch.save({"state_dict": {prefix + k: v for k, v in state.items()}}, tmp_path / "with.ckpt")
        assert load_stack(tmp_path / "with.ckpt").state_dict().keys() == wanted.keys()


def test_what_compilers_put_inside_names_is_taken_out(original: State, tmp_path: Path) -> None:
    state = {k.replace("motion_modules.0.", "motion_modules.0._orig_mod."): v for k, v in original.items()}
    wanted = load_stack(write(original, tmp_path / "plain.safetensors")).state_dict()
    assert load_stack(write(state, tmp_path / "compiled.safetensors")).state_dict().keys() == wanted.keys()


HALVES = {
    "no way up": ("up_blocks.",),
    "no way down": ("down_blocks.",),
    "a level": ("down_blocks.1.",),
    "the last number of both ways": ("down_blocks.3.", "up_blocks.3."),
    "the deepest level of both ways": ("down_blocks.3.", "up_blocks.0."),
    "one module": ("up_blocks.2.motion_modules.2.",),
}


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("layout", ["original", "diffusers", "hotshot-xl", "modelscope"])
def test_half_a_file_is_refused(original: State, adapter_state: State, layout: str, half: str, tmp_path: Path) -> None:
    folder, state = "motion_modules", original if layout == "original" else adapter_state
    if layout == "hotshot-xl":
        folder, state = "temporal_attentions", reference.hotshot_state(reference.image_unet(**SMALL))
    elif layout == "modelscope":
        whole = reference.modelscope_unet(**reference.SMALL_MODELSCOPE).state_dict()
        folder, state = "temp_convs", {k: v for k, v in whole.items() if not is_spatial(k)}
    drops = tuple(name.replace("motion_modules", folder) for name in HALVES[half])
    state = {k: v for k, v in state.items() if not k.startswith(drops)}
    path = write(state, tmp_path / "half.safetensors")
    for action in (read_config, load_stack):
        with pytest.raises(ValueError, match="is half a checkpoint of family .*, without its modules at .*: copy it again"):
            action(path)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_pickle_does_not_run(original: State, tmp_path: Path, new: bool) -> None:
    content = {"state_dict": original, "callback": Bomb(tmp_path / "exploded")}
    torch.save(content, tmp_path / "bomb.ckpt", _use_new_zipfile_serialization=new)
    with pytest.raises(ValueError, match="was not opened, since it holds more than weights.*save_file"):
        read_config(tmp_path / "bomb.ckpt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_truncated_files(original: State, tmp_path: Path, share: float, suffix: str) -> None:
    path = tmp_path / f"whole{suffix}"
    (torch.save if suffix == ".ckpt" else write)(original, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match="cut short|copy it again"):
        load_stack(path)


# -- random keys

NAMES = """
    down_blocks mid_block up_blocks motion_modules temporal_transformer temporal_attentions temp_convs conv1 temp_attentions
    transformer_in transformer_blocks attention_blocks norms norm norm1 proj_in proj_out ff net attn1 pos_encoder pe pos_embed
    positional_encoding to_q to_out weight bias conv_in fps_embedding motion_embedding linear FancyVideo resnets attentions
    0 1 2 3 17 ctm_a layers
"""
KEYS = st.lists(st.sampled_from(NAMES.split()) | st.text(string.ascii_lowercase + "._", max_size=6), min_size=1, max_size=9).map(
    ".".join
)
SHAPES = st.lists(st.integers(0, 64), max_size=5).map(tuple)


@settings(max_examples=400, deadline=None)
@given(shapes=st.dictionaries(KEYS, SHAPES, max_size=12))
def test_any_keys_give_a_family_or_a_sentence(shapes: dict[str, tuple[int, ...]]) -> None:
    check_recognised(shapes)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_real_layout_with_changes_gives_a_plan_or_a_sentence(data: st.DataObject) -> None:
    _, keys, _ = fixture(data.draw(st.sampled_from(sorted(FAMILIES))))
    shapes = {name: tuple(shape) for name, shape in keys.items()}
    for name in data.draw(st.lists(st.sampled_from(sorted(shapes)), max_size=4)):
        action = data.draw(st.sampled_from(["drop", "shape", "rename"]))
        value = shapes.pop(name, None)
        if action == "shape":
            shapes[name] = data.draw(SHAPES)
        elif action == "rename" and value is not None:
            shapes[data.draw(KEYS)] = value
    check_recognised(shapes)


def check_recognised(shapes: dict[str, tuple[int, ...]]) -> None:
    recognise(shapes)
    try:
        plan = import_plan(WeightFile(Path("file.safetensors"), shapes))
    except ValueError as error:
        assert str(error).startswith("file.safetensors")  # noqa: PT017
    else:
        assert all(source in shapes or name.endswith("table") for name, source in plan.sources.items())


# -- the command line


@pytest.mark.parametrize("name", [*FAMILIES, "modelscope"])
def test_info_says_what_a_file_is(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "modelscope":
        path = write(reference.modelscope_unet(**reference.SMALL_MODELSCOPE).state_dict(), tmp_path / "any.safetensors")
    else:
        path = checkpoint(name, tmp_path)
    assert main(["info", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["family"], facts["kind"]) == (FAMILIES.get(name, name), "temporal stack")
    assert facts["temporal_parameters"] > 10_000
    assert main(["info", str(path)]) == 0
    assert FAMILIES.get(name, name) in capsys.readouterr().out


@pytest.mark.parametrize("name", [*FAMILIES, "diffusers"])
def test_convert_writes_the_same_stack(
    name: str, adapter_state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(adapter_state, tmp_path / "in.safetensors") if name == "diffusers" else checkpoint(name, tmp_path)
    out = tmp_path / "stack.safetensors"
    assert main(["convert", str(path), "--out", str(out)]) == 0
    before, after = load_stack(path), load_stack(out)
    assert (open_weights(out).metadata["format"], before.config) == ("emu-video-stack", after.config)
    assert all(torch.equal(v, after.state_dict()[k]) for k, v in before.state_dict().items())
    assert main(["info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n", 1)[1])["family"] == before.config.origin.family


def test_convert_takes_modelscopes_image_model_out(tmp_path: Path) -> None:
    whole = reference.modelscope_unet(**reference.SMALL_MODELSCOPE)
    path = write(whole.state_dict(), tmp_path / "in.safetensors")
    stack, unet = tmp_path / "stack.safetensors", tmp_path / "unet.safetensors"
    assert main(["convert", str(path), "--out", str(stack), "--image-model", str(unet), "--dtype", "float16"]) == 0
    assert load_stack(stack).conv_in is None
    assert next(load_stack(stack).parameters()).dtype == torch.float16
    wanted = reference.modelscope_image_unet(whole).state_dict()
    assert open_weights(unet).shapes == {k: tuple(v.shape) for k, v in wanted.items()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "stack.ckpt"], "a name that ends in .safetensors"),
        (["--out", "nowhere/stack.safetensors"], "make it first"),
        (["--out", "stack.safetensors", "--image-model", "unet.safetensors"], "holds no image model"),
    ],
)
def test_convert_refuses(
    original: State, arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write(original, tmp_path / "in.safetensors")
    assert main(["convert", "in.safetensors", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.safetensors"]


def test_a_stack_that_cannot_take_the_command_is_refused_before_it_is_loaded(
    original: State, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    path = str(write(original, tmp_path / "in.safetensors"))
    monkeypatch.setattr(TemporalStack, "__init__", None)
    common = ["--stack", path, "--out", str(tmp_path / "out.mp4")]
    monkeypatch.undo()
    for command, words in (
        (["generate", "a red circle", "--frames", "33", *common], "positions for 32 frames, found 33"),
        (["generate", "a red circle", "--motion", "small", *common], "motion is for stacks of family pia"),
    ):
        assert main(command) == 2
        assert words in capsys.readouterr().err

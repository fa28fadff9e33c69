"""Image models as they are found: folders of earlier versions, schedules, files of real size, tokenizers from elsewhere."""

from __future__ import annotations

import json
import shutil
import struct
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from emu_core.base import inspect_base, load_base, single_file
from emu_core.model.schedule import ScheduleConfig

from .helpers import DOUBLE
from .ldm_layout import Layout, checkpoint
from .small_bases import (
    SCALES,
    Model,
    assert_reads,
    edit,
    load,
    randomised,
    same_weights,
    text_config,
    word_tokenizer,
    write_folder,
    write_scheduler,
    write_vocabulary,
)

pytestmark = pytest.mark.usefixtures("no_network")


def rewrite(file: Path, rename: Any) -> None:
    save_file({rename(k): v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})


def test_weights_under_the_names_of_earlier_versions(small: dict[Layout, Model], folder: Path) -> None:
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        rewrite(folder / "vae/diffusion_pytorch_model.safetensors", methodcaller("replace", new, old))
    rewrite(folder / "text_encoder/model.safetensors", lambda k: "text_model." + k.removeprefix("text_model."))
    base, model = load_base(folder), small["sd1"]
    assert same_weights(base.vae, model.vae)
    assert_reads(base, model)


def test_fp16_variants_and_shards(small: dict[Layout, Model], folder: Path) -> None:
    model = small["sd1"]
    for part, stem in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16.safetensors")
    shutil.rmtree(folder / "unet")
    model.unet.save_pretrained(folder / "unet", max_shard_size="1MB")
    shards = sorted((folder / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    assert inspect_base(folder).parts["unet"] == 4 * sum(p.numel() for p in model.unet.parameters())
    base = load_base(folder)
    assert same_weights(base.unet, model.unet)
    assert_reads(base, model)
    shards[1].unlink()
    with pytest.raises(ValueError, match=rf"expected {shards[1].name}.*found none"):
        inspect_base(folder)


@pytest.mark.parametrize(("width", "family"), [(768, "sd15"), (1024, "sd21"), (128, "tiny"), (320, "other-320")])
def test_the_family_is_read_from_the_structure(folder: Path, width: int, family: str) -> None:
    edit(folder / "unet/config.json", cross_attention_dim=width)
    edit(folder / "text_encoder/config.json", hidden_size=width)
    assert inspect_base(folder).family == family


def test_sdxl_is_known_by_its_added_conditions(small: dict[Layout, Model], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small["sdxl"].folder, tmp_path / "sd15-by-name"))
    edit(folder / "unet/config.json", cross_attention_dim=2048)
    edit(folder / "text_encoder/config.json", hidden_size=768)
    edit(folder / "text_encoder_2/config.json", hidden_size=1280)
    info = inspect_base(folder)
    assert (info.family, info.kind) == ("sdxl", "folder")
    assert list(info.parts) == ["unet", "vae", "text_encoder", "tokenizer", "scheduler", "text_encoder_2", "tokenizer_2"]


def test_a_folder_may_name_an_unknown_family_but_not_a_wrong_one(folder: Path) -> None:
    (folder / "emu_video.json").write_text('{"family": "tiny"}')
    assert inspect_base(folder).family == "tiny"
    (folder / "emu_video.json").write_text('{"family": "sd15"}')
    with pytest.raises(ValueError, match=r"expected the family other-64, .* found sd15"):
        inspect_base(folder)


def test_the_tiny_family_and_its_words(small: dict[Layout, Model], tmp_path: Path) -> None:
    encoder = randomised(CLIPTextModel(CLIPTextConfig(**{**text_config(128, 2, "quick_gelu").to_dict(), "vocab_size": 7})), 6)
    unet = UNet2DConditionModel.from_config({**small["sd1"].unet.config, "cross_attention_dim": 128})
    write_folder(tmp_path / "tiny", unet, small["sd1"].vae, [encoder], [word_tokenizer()])
    (tmp_path / "tiny/emu_video.json").write_text('{"family": "tiny", "version": 1}')
    base = load_base(tmp_path / "tiny").to(dtype=DOUBLE)
    assert (base.family, base.source) == ("tiny", str(tmp_path / "tiny"))
    states = base.encode_text(["A Red  circle", "moves"])
    tokens = torch.tensor([[1, 3, 4, 5, 2, 0, 0, 0], [1, 6, 2, 0, 0, 0, 0, 0]])
    torch.testing.assert_close(states.hidden, encoder.to(DOUBLE)(tokens).last_hidden_state)
    assert base.known_words() == ["circle", "moves", "red"]
    long = "A Red  circle moves and THEN moves and A stops far away over there"
    assert base.unknown_words(long) == ["A", "and", "THEN", "stops", "far", "away", "over", "there"]
    assert base.unknown_words("red <unknown> circle") == ["<unknown>"]
    bpe = load(small["sd1"], "folder")
    assert bpe.known_words() is None
    assert bpe.unknown_words("qwxz <|endoftext|>") == []


# ---- the noise schedule


@pytest.mark.parametrize(
    ("scheduler", "option", "expected"),
    [
        ({}, None, ("epsilon", False)),
        ({"prediction_type": "v_prediction"}, None, ("v_prediction", False)),
        ({"prediction_type": "v_prediction"}, "epsilon", ("epsilon", False)),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, None, ("v_prediction", True)),
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, "v_prediction", ("v_prediction", True)),
    ],
)
def test_a_folder_names_its_schedule(folder: Path, scheduler: Any, option: str | None, expected: Any) -> None:
    write_scheduler(folder / "scheduler", beta_schedule="linear", beta_end=0.02, **scheduler)
    prediction, zero_snr = expected
    schedule = ScheduleConfig("linear", 0.00085, 0.02, zero_snr, prediction, 1000)
    assert load_base(folder, prediction_type=option).schedule == inspect_base(folder, prediction_type=option).schedule == schedule


@pytest.mark.parametrize(
    ("layout", "extra", "metadata", "option", "expected"),
    [
        ("sd1", {}, {}, None, "epsilon"),
        ("sdxl", {}, {}, None, "epsilon"),
        ("sdxl", {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, {}, None, "v_prediction"),
        ("sd1", {}, {"modelspec.prediction_type": "v"}, None, "v_prediction"),
        ("sd2", {}, {}, None, "v_prediction"),
        ("sd2", {}, {}, "epsilon", "epsilon"),
        ("sd2", {"global_step": torch.tensor(875000)}, {}, None, "epsilon"),
        ("sd2", {"global_step": torch.tensor(110000)}, {}, None, "v_prediction"),
        ("sd2", {}, {"modelspec.prediction_type": "epsilon"}, None, "epsilon"),
    ],
)
def test_what_a_file_predicts(
    small: dict[Layout, Model], tmp_path: Path, layout: Layout, extra: Any, metadata: Any, option: Any, expected: str
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({**load_file(small[layout].file), **extra}, file, metadata=metadata)
    info = inspect_base(file, prediction_type=option)
    assert info.schedule.prediction == expected
    assert info.schedule.zero_snr == ("ztsnr" in extra)
    size = {"sd1": 64, "sdxl": 128, "sd2": 96 if expected == "v_prediction" else 64}[layout]
    assert info.configs["unet"]["sample_size"] == size


# ---- real sizes, without their weights


def full_size(layout: Layout) -> dict[str, Any]:
    """The architectures of SD 1.5, SD 2.1 and SDXL on the meta device."""
    unets: dict[str, dict[str, Any]] = {
        "sd1": {"cross_attention_dim": 768, "attention_head_dim": 8},
        "sd2": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
        "sdxl": {"cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20], "use_linear_projection": True},
    }
    unets["sdxl"] |= {"block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10]}
    unets["sdxl"] |= {"down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2}
    unets["sdxl"] |= {"up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"]}
    unets["sdxl"] |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
    unets["sdxl"] |= {"projection_class_embeddings_input_dim": 2816}
    vae: dict[str, Any] = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
    vae |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}

    def text(width: int, layers: int, act: str, projection: int) -> dict[str, Any]:
        sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64, "hidden_act": act}
        common = {"vocab_size": 49408, "max_position_embeddings": 77}
        return {**sizes, **common, "num_hidden_layers": layers, "projection_dim": projection}

    clip, huge, giant = text(768, 12, "quick_gelu", 768), text(1024, 24, "gelu", 1024), text(1280, 32, "gelu", 1280)
    return {"unet": unets[layout], "vae": vae, "texts": {"sd1": [clip], "sd2": [huge], "sdxl": [clip, giant]}[layout]}


def write_hollow(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A safetensors file of float16 with a true header and a hole for its weights; takes no space on the disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": [end, end + 2 * value.numel()]}
        end += 2 * value.numel()
    text = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + end)


@pytest.mark.parametrize(
    ("layout", "family", "parameters"),
    [  # of the U-Net, the VAE and the text encoders, as published
        ("sd1", "sd15", (859_520_964, 83_653_863, 123_060_480)),
        ("sd2", "sd21", (865_910_724, 83_653_863, 354_032_640)),
        pytest.param("sdxl", "sdxl", (2_567_463_684, 83_653_863, 123_060_480, 694_659_840), marks=pytest.mark.slow),
    ],
)
def test_files_of_real_size_are_understood(tmp_path: Path, layout: Layout, family: str, parameters: Any) -> None:
    true = full_size(layout)
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**true["unet"]), AutoencoderKL(**true["vae"])
        kinds = [CLIPTextModel if c["hidden_act"] == "quick_gelu" else CLIPTextModelWithProjection for c in true["texts"]]
        encoders = [kind(CLIPTextConfig(**c)) for kind, c in zip(kinds, true["texts"], strict=True)]
    write_hollow(tmp_path / "any-name.safetensors", checkpoint(layout, unet, vae, encoders))
    info = inspect_base(tmp_path / "any-name.safetensors")
    assert (info.family, info.kind, tuple(size // 2 for size in info.parts.values())) == (family, "single", parameters)
    derived = info.configs
    assert {k: derived["unet"][k] for k in true["unet"]} == true["unet"]
    assert ({k: derived["vae"][k] for k in true["vae"]}, derived["vae"]["scaling_factor"]) == (true["vae"], SCALES[layout])
    if layout == "sd2":
        true["texts"][0]["num_hidden_layers"] = 23  # the last is not used
    for name, config in zip(("text_encoder", "text_encoder_2"), true["texts"], strict=False):
        assert ({k: derived[name][k] for k in config}, derived[name]["eos_token_id"]) == (config, 49407)
    # float16 as in the file: nothing but the VAE is copied, the rest stays a view of the hole
    loaded_unet, loaded_vae = single_file.load_unet(info, torch.float16), single_file.load_vae(info, torch.float16)
    assert (shapes(loaded_unet), shapes(loaded_vae)) == (shapes(unet), shapes(vae))
    loaded_encoders = single_file.load_text_encoders(info, torch.float16)
    assert [len(e.state_dict()) for e in loaded_encoders] == {"sd1": [196], "sd2": [372], "sdxl": [196, 517]}[layout]


def shapes(module: Any) -> dict[str, torch.Size]:
    return {k: v.shape for k, v in module.state_dict().items()}


# ---- tokenizers for single files


def test_a_file_finds_its_tokenizer(small: dict[Layout, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, comfy = small["sdxl"], small["sdxl"].vocabulary.parents[1]
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"sdxl.safetensors: .*comfy/ComfyUI: pass tokenizer= a folder with vocab.json"):
        load_base(model.file)
    for place in (model.vocabulary, comfy, model.folder, model.folder / "tokenizer_2"):
        assert_reads(load_base(model.file, tokenizer=place), model)
    monkeypatch.setenv("COMFYUI_PATH", str(comfy))
    assert load_base(model.file).tokenizers[0].name_or_path == str(model.vocabulary)
    monkeypatch.delenv("COMFYUI_PATH")
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy/ComfyUI").symlink_to(comfy)
    assert load_base(model.file).tokenizers[1].name_or_path.startswith(str(tmp_path / "comfy/ComfyUI"))


def test_a_tokenizer_that_does_not_fit_is_refused(small: dict[Layout, Model], tmp_path: Path) -> None:
    word_tokenizer().save_pretrained(tmp_path / "words")
    with pytest.raises(ValueError, match="expected CLIP's vocabulary of byte pairs, found one of kind WordLevel"):
        load_base(small["sd1"].file, tokenizer=tmp_path / "words")
    for change in (-1, 1):
        write_vocabulary(tmp_path / f"{change}", letters=256 + change)
        with pytest.raises(ValueError, match=rf"expected a tokenizer of 514 tokens, .* found {514 + 2 * change} in"):
            load_base(small["sd1"].file, tokenizer=tmp_path / f"{change}")
    large = shutil.copytree(small["sd1"].folder, tmp_path / "large")
    shutil.rmtree(large / "tokenizer")
    shutil.copytree(tmp_path / "1", large / "tokenizer")
    with pytest.raises(ValueError, match=r"expected a tokenizer of 514 tokens, .* found 516 in"):
        load_base(large)
    with pytest.raises(ValueError, match="expected no tokenizer="):
        load_base(small["sd1"].folder, tokenizer=small["sd1"].vocabulary)

"""Image models that are refused, in one sentence and before any weights are read."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from emu_core.base import inspect_base, load_base

from .ldm_layout import TEXT_PREFIXES, UNET_PREFIX, Layout
from .small_bases import (
    Model,
    assert_reads,
    edit,
    same_weights,
    write_scheduler,
)

pytestmark = pytest.mark.usefixtures("no_network")


# ---- what is refused, before any weights are read


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("emu_core.weights.safe_open", refuse)
    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", refuse)


def refused(path: Path, match: str, **options: Any) -> None:
    """One sentence that names the file, what was expected, what was found and what to do."""
    with pytest.raises(ValueError, match=match) as caught:
        load_base(path, **options)
    message = str(caught.value)
    assert str(path) in message, message
    assert "\n" not in message, message
    assert message.count(": ") >= 2, message  # file: expected ..., found ...: what to do
    with pytest.raises(ValueError, match=match):
        inspect_base(path, **options)


FOLDER_FAULTS: dict[str, tuple[Any, str]] = {
    "no index": (lambda f: (f / "model_index.json").unlink(), "expected a diffusers folder with model_index.json, found none"),
    "broken index": (lambda f: (f / "model_index.json").write_text("{"), "expected a JSON file"),
    "no unet": (lambda f: shutil.rmtree(f / "unet"), "expected the part unet/ .* found scheduler, text_encoder, tokenizer, vae"),
    "no vae": (lambda f: shutil.rmtree(f / "vae"), "expected the part vae/"),
    "no text encoder": (lambda f: shutil.rmtree(f / "text_encoder"), "expected the part text_encoder/"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "expected a tokenizer in tokenizer/"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "expected the part scheduler/"),
    "no second encoder": (lambda f: edit(f / "unet/config.json", addition_embed_type="text_time"), "the part text_encoder_2/"),
    "pickled part": (
        lambda f: (f / "vae/diffusion_pytorch_model.safetensors").rename(f / "vae/diffusion_pytorch_model.bin"),
        "found diffusion_pytorch_model.bin, a pickle.*: convert the folder",
    ),
    "no weights": (lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink(), "found no weights"),
    "truncated part": (lambda f: cut(f / "unet/diffusion_pytorch_model.safetensors"), "the file is truncated"),
    "inpainting": (lambda f: edit(f / "unet/config.json", in_channels=9), "4 input channels.*found 9 as an inpainting"),
    "other unet": (lambda f: edit(f / "unet/config.json", _class_name="FluxTransformer2DModel"), "found FluxTransformer2DModel"),
    "other vae": (lambda f: edit(f / "vae/config.json", _class_name="AutoencoderTiny"), "expected AutoencoderKL, found"),
    "other text": (lambda f: edit(f / "text_encoder/config.json", model_type="t5"), "expected a CLIP text encoder, found t5"),
    "class labels": (lambda f: edit(f / "unet/config.json", class_embed_type="projection"), "found one on projection"),
    "other added": (lambda f: edit(f / "unet/config.json", addition_embed_type="image"), "found one on image"),
    "per-channel latents": (lambda f: edit(f / "vae/config.json", latents_mean=[0, 0, 0, 0]), "one scaling factor"),
    "text width": (lambda f: edit(f / "unet/config.json", cross_attention_dim=768), "width 768, .* of width 64"),
    "no betas": (lambda f: (f / "scheduler/scheduler_config.json").write_text("{}"), "found no beta_schedule, beta_start"),
    "sample prediction": (lambda f: write_scheduler(f / "scheduler", prediction_type="sample"), "found 'sample'"),
    "epsilon at zero SNR": (lambda f: write_scheduler(f / "scheduler", rescale_betas_zero_snr=True), "zero terminal SNR"),
}


def cut(file: Path) -> None:
    with file.open("r+b") as out:
        out.truncate(file.stat().st_size - 100)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_folders_that_are_refused(folder: Path, fault: str) -> None:
    damage, match = FOLDER_FAULTS[fault]
    damage(folder)
    refused(folder, match)


@pytest.mark.usefixtures("no_weights")
def test_paths_and_formats_that_are_refused(small: dict[Layout, Model], tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "found nothing there")
    for suffix in (".ckpt", ".pt", ".bin", ".pth"):
        (tmp_path / f"model{suffix}").write_bytes(b"PK")
        refused(tmp_path / f"model{suffix}", "found a pickle.*: convert it")
    file = tmp_path / "model.safetensors"
    for content, match in (
        (b"", "found 0 bytes of something else"),
        (b"PK\x03\x04" * 10, "found 40 bytes of something else"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (struct.pack("<Q", 4) + b"oops", "expected the JSON header"),
        (struct.pack("<Q", 500) + b"{}", "expected a header of 500 bytes, found a file of 10, cut short"),
    ):
        file.write_bytes(content)
        refused(file, match)
    shutil.copy(small["sd1"].file, file)
    whole = file.stat().st_size
    cut(file)
    refused(file, f"expected {whole} bytes, found {whole - 100}, so the file is truncated")
    (tmp_path / "download").mkdir()
    shutil.copy(small["sd1"].file, tmp_path / "download" / "sd.safetensors")
    refused(tmp_path / "download", "found none: give .*sd.safetensors itself")
    refused(small["sd1"].file, "found 'noise'", prediction_type="noise")


def without(prefix: str) -> Any:
    return lambda tensors: {k: v for k, v in tensors.items() if not k.startswith(prefix)}


def with_tensor(name: str, *shape: int) -> Any:
    return lambda tensors: {**tensors, name: torch.zeros(shape)}


FIRST = UNET_PREFIX + "input_blocks.0.0.weight"
FILE_FAULTS: dict[str, tuple[Any, str]] = {
    "LoRA": (lambda t: {"lora_unet_down_blocks_0.lora_up.weight": torch.zeros(1)}, "a LoRA, 1 tensors such as lora_unet_down"),
    "ControlNet": (lambda t: {"control_model.input_blocks.0.0.weight": torch.zeros(1)}, "found a ControlNet"),
    "one part": (lambda t: {"down_blocks.0.resnets.0.conv1.weight": torch.zeros(1)}, "found one part of a model"),
    "unknown": (lambda t: {"a": torch.zeros(1), "b": torch.zeros(1)}, "found something else, 2 tensors such as a, b"),
    "empty": (lambda t: {}, "0 tensors such as nothing"),
    "no vae": (without("first_stage_model."), "expected the VAE"),
    "no text": (without("cond_stage_model."), "expected the text encoder .* found none"),
    "refiner": (
        lambda t: {k.replace("cond_stage_model.transformer", "conditioner.embedders.0.model"): v for k, v in t.items()},
        "found SDXL's refiner",
    ),
    "inpainting": (with_tensor(FIRST, 32, 9, 3, 3), "4 input channels.*found 9 as an inpainting"),
    "editing": (with_tensor(FIRST, 32, 8, 3, 3), "4 input channels.*found 8: use the plain"),
    "class labels": (with_tensor(UNET_PREFIX + "label_emb.0.0.weight", 128, 64), "found one on projection"),
    "no middle attention": (without(UNET_PREFIX + "middle_block.1."), "expected the structure of Stable Diffusion"),
    "uneven levels": (without(UNET_PREFIX + "input_blocks.5."), "expected the structure of .* residual blocks at every level"),
    "no conv": (without(UNET_PREFIX + "out.2."), "expected the structure of Stable Diffusion"),
}


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_files_that_are_refused(small: dict[Layout, Model], tmp_path: Path, fault: str) -> None:
    damage, match = FILE_FAULTS[fault]
    save_file(damage(load_file(small["sd1"].file)), tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", match)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (with_tensor(UNET_PREFIX + "input_blocks.1.2.weight", 4), "found 1 tensors more"),
        (without(UNET_PREFIX + "input_blocks.1.0.emb_layers.1.bias"), "U-Net: expected the .* found 1 missing"),
        (with_tensor("first_stage_model.decoder.conv_in.bias", 7), "VAE: .* 1 of another shape"),
        (without(TEXT_PREFIXES["sd1"][0] + "text_model.final_layer_norm.bias"), "text_encoder: .* 1 missing"),
    ],
)
def test_weights_that_do_not_fit_are_refused(small: dict[Layout, Model], tmp_path: Path, damage: Any, match: str) -> None:
    """What shows only in single tensors is noticed at the latest when they are used, never passed over."""
    file = tmp_path / "model.safetensors"
    save_file(damage(load_file(small["sd1"].file)), file)
    with pytest.raises(ValueError, match=match):
        load_base(file, tokenizer=small["sd1"].vocabulary)


def test_a_folder_that_lacks_a_weight_is_refused(folder: Path) -> None:
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    save_file(without("mid_block.resnets.0.conv1.bias")(load_file(file)), file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"found none for \['mid_block.resnets.0.conv1.bias'\]"):
        load_base(folder)


def test_what_a_file_carries_besides_is_passed_over(small: dict[Layout, Model], tmp_path: Path) -> None:
    """Training leftovers, and position numbers that older files keep."""
    model, file = small["sd1"], tmp_path / "model.safetensors"
    extra = {"model_ema.decay": torch.ones(1), "first_stage_model.loss.discriminator.main.0.weight": torch.ones(2)}
    positions = {TEXT_PREFIXES["sd1"][0] + "text_model.embeddings.position_ids": torch.arange(24)[None]}
    save_file({**load_file(model.file), **extra, **positions}, file)
    base = load_base(file, tokenizer=model.vocabulary)
    assert same_weights(base.vae, model.vae)
    assert same_weights(base.unet, model.unet)
    assert_reads(base, model)

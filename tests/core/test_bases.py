"""Loading the frozen text-to-image model, on real models of small width; nothing may reach for the network."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from emu_core.base import load_base

from .helpers import DOUBLE
from .ldm_layout import Layout
from .small_bases import (
    LAYOUTS,
    PROMPTS,
    SCALES,
    SIZE,
    Model,
    doubled,
    edit,
    expected_text,
    ids,
    load,
    load_anew,
    output_of_layer,
    same_weights,
)

pytestmark = pytest.mark.usefixtures("no_network")


# ---- the same numbers as the parts


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gives_what_its_parts_give(
    small: dict[Layout, Model], layout: Layout, kind: str, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    model, base = doubled(small[layout]), load_anew(small[layout], kind).to(dtype=DOUBLE)
    states = base.encode_text(PROMPTS)
    hidden, pooled = expected_text(model)
    torch.testing.assert_close(states.hidden, hidden)
    torch.testing.assert_close(states.pooled, pooled)

    added = base.added_conditions(states.pooled, 512, 768)
    x, t = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=DOUBLE), torch.tensor([1, 500, 999])
    with torch.no_grad():
        ours = base.unet(x, t, states.hidden, added_cond_kwargs=added).sample
        theirs = model.unet(x, t, hidden, added_cond_kwargs=added).sample
        images = torch.rand(3, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(1))
        mode = model.vae.encode((images.permute(0, 3, 1, 2) * 2 - 1).to(DOUBLE)).latent_dist.mode()
        latents, scale = base.encode_images(images), SCALES[layout]
        decoded = model.vae.decode((latents / scale).to(DOUBLE)).sample
    torch.testing.assert_close(ours, theirs)
    assert ours.std() > 0.1
    torch.testing.assert_close(latents, (mode * scale).float())  # latents and images are given in float32
    torch.testing.assert_close(base.decode_latents(latents), (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_file_and_folder_hold_the_same_weights_and_settings(small: dict[Layout, Model], layout: Layout) -> None:
    folder, file = load(small[layout], "folder"), load(small[layout], "file")
    for ours, theirs in zip((file.unet, file.vae), (folder.unet, folder.vae), strict=True):
        assert same_weights(ours, theirs)
        unlike = {k for k, v in theirs.config.items() if not k.startswith("_") and json.dumps(ours.config[k]) != json.dumps(v)}
        assert unlike <= {"sample_size", "latents_mean", "transformer_layers_per_block", "attention_head_dim"}
    assert (file.family, file.schedule.zero_snr, file.latent_channels) == (folder.family, False, 4)
    for base in (folder, file):
        parts = (base.unet, base.vae, *base.text_encoders)
        assert not any(p.requires_grad for m in parts for p in m.parameters())
        assert not any(m.training for part in parts for m in part.modules())
        assert not any(b.is_meta for m in parts for b in m.buffers())


def test_sd2_reads_the_penultimate_layer_of_the_original_encoder(small: dict[Layout, Model]) -> None:
    model = doubled(small["sd2"])
    with torch.no_grad():
        penultimate = output_of_layer(model.whole_encoder, -2, ids(model.tokenizers[0], PROMPTS))
        expected = model.whole_encoder.text_model.final_layer_norm(penultimate)
    torch.testing.assert_close(load_anew(model, "file").to(dtype=DOUBLE).encode_text(PROMPTS).hidden, expected)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_open_clip_pads_with_zeros_and_clip_with_its_end(small: dict[Layout, Model], kind: str) -> None:
    first, second = load(small["sdxl"], kind).tokenizers
    assert first(["a"], padding="max_length", max_length=5).input_ids == [[512, 320, 513, 513, 513]]
    assert second(["a"], padding="max_length", max_length=5).input_ids == [[512, 320, 513, 0, 0]]


def test_added_conditions_are_pixels_of_original_crop_and_target(small: dict[Layout, Model]) -> None:
    pooled = torch.randn(2, 96, dtype=torch.bfloat16)
    added = load(small["sdxl"], "file").added_conditions(pooled, 1016, 1544)
    assert added is not None
    assert added["text_embeds"] is pooled
    assert added["time_ids"].tolist() == [[1016, 1544, 0, 0, 1016, 1544]] * 2  # 1544 is no bfloat16
    assert load(small["sd1"], "file").added_conditions(None, 64, 64) is None


def test_a_long_prompt_is_cut_with_a_warning(small: dict[Layout, Model], caplog: pytest.LogCaptureFixture) -> None:
    base = load(small["sd1"], "folder")
    with caplog.at_level(logging.WARNING, "emu_core"):
        assert base.encode_text(["x" * 22]).hidden.shape == (1, 24, 64)
        assert not caplog.records
        base.encode_text(["x" * 23])
    assert "reads 24 tokens; of these 25" in caplog.text


# ---- images


def test_the_vae_works_in_small_batches(small: dict[Layout, Model]) -> None:
    base = load_anew(small["sd1"], "folder").to(dtype=DOUBLE)
    sizes: list[int] = []
    base.vae.encoder.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    base.vae.decoder.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    images = torch.rand(5, SIZE, 2 * SIZE, 3, generator=torch.Generator().manual_seed(0))
    latents = base.encode_images(images, batch=2)
    decoded = base.decode_latents(latents, batch=3)
    assert (sizes, latents.shape, decoded.shape) == ([2, 2, 1, 3, 2], (5, 4, SIZE // 2, SIZE), images.shape)
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    torch.testing.assert_close(base.encode_images(images[4:]), latents[4:])
    torch.testing.assert_close(base.decode_latents(latents[4:]), decoded[4:])


def test_shift_is_taken_off_before_the_scale_and_put_back(small: dict[Layout, Model], tmp_path: Path) -> None:
    images = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    plain = load_anew(small["sd1"], "folder").to(dtype=DOUBLE)
    shutil.copytree(small["sd1"].folder, tmp_path / "shifted")
    edit(tmp_path / "shifted/vae/config.json", shift_factor=0.5)
    shifted = load_base(tmp_path / "shifted").to(dtype=DOUBLE)
    latents = plain.encode_images(images)
    torch.testing.assert_close(shifted.encode_images(images), latents - 0.5 * plain.latent_scale)
    torch.testing.assert_close(shifted.decode_latents(shifted.encode_images(images)), plain.decode_latents(latents))


@pytest.mark.parametrize("shape", [(3, SIZE, SIZE), (1, 3, SIZE, SIZE), (1, SIZE + 1, SIZE, 3)])
def test_images_of_another_shape_are_refused(small: dict[Layout, Model], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        load(small["sd1"], "folder").encode_images(torch.zeros(shape))


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_float16_keeps_a_vae_that_would_overflow_in_float32(small: dict[Layout, Model], kind: str) -> None:
    base = load_anew(small["sdxl"], kind, dtype=torch.float16)
    assert {p.dtype for m in (base.unet, *base.text_encoders) for p in m.parameters()} == {torch.float16}
    assert {p.dtype for p in base.vae.parameters()} == {torch.float32}
    assert base.to(dtype=torch.bfloat16) is base
    assert base.vae.dtype == base.dtype == torch.bfloat16
    assert base.to(dtype=torch.float16).vae.dtype == torch.float32
    base.vae.register_to_config(force_upcast=False)
    assert base.to(dtype=torch.float16).vae.dtype == torch.float16
    assert base.to(dtype=torch.bfloat16).decode_latents(torch.randn(1, 4, 8, 8)).dtype == torch.float32

"""Loading the frozen text-to-image model, on real models of small width; nothing may reach for the network."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import socket
import struct
from dataclasses import dataclass, field, replace
from operator import methodcaller
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedTokenizerFast

from emu_core.base import Base, inspect_base, load_base, single_file
from emu_core.model.schedule import ScheduleConfig

from .helpers import DOUBLE
from .ldm_layout import TEXT_PREFIXES, UNET_PREFIX, Layout, checkpoint

LAYOUTS: tuple[Layout, ...] = ("sd1", "sd2", "sdxl")
SCALES: dict[Layout, float] = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}
PROMPTS = ["a red circle", "", "It moves to the right!"]
SIZE = 16  # pixels; the small VAEs halve it


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)


@dataclass
class Model:
    """The parts that a folder and a file were written from."""

    layout: Layout
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    encoders: list[Any]
    tokenizers: list[Any]
    folder: Path
    file: Path
    vocabulary: Path
    whole_encoder: Any  # sd2: with the last layer that Stable Diffusion does not use
    loaded: dict[str, Base] = field(default_factory=dict)  # shared by the tests that change nothing


def randomised(module: Any, seed: int) -> Any:
    """All weights moved, norms and biases too, so that one left out or mixed up shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return module.eval()


def write_vocabulary(folder: Path, letters: int = 256) -> None:
    """CLIP's byte-level vocabulary without merges: 256 letters, inside and at the end of a word, and two special tokens."""
    folder.mkdir(parents=True)
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(b) for b in shown] + [chr(256 + i) for i in range(letters - len(shown))]  # "!" is number 0
    words = [*characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 8192, "pad_token": "<|endoftext|>"}  # ComfyUI's limit
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def text_config(width: int, layers: int, act: str, projection: int = 64) -> CLIPTextConfig:
    sizes = {"hidden_size": width, "intermediate_size": 96, "num_hidden_layers": layers, "num_attention_heads": width // 64}
    words = {"vocab_size": 514, "max_position_embeddings": 24, "bos_token_id": 512, "eos_token_id": 513}
    return CLIPTextConfig(**sizes, **words, hidden_act=act, projection_dim=projection)


def small_encoders(layout: Layout) -> tuple[list[Any], Any]:
    if layout == "sd1":
        return [randomised(CLIPTextModel(text_config(64, 2, "quick_gelu")), 1)], None
    if layout == "sd2":
        whole = randomised(CLIPTextModelWithProjection(text_config(64, 3, "gelu")), 2)
        used = CLIPTextModel(text_config(64, 2, "gelu"))
        bare = {k.removeprefix("text_model."): v for k, v in whole.state_dict().items()}
        used.load_state_dict({k: bare[k.removeprefix("text_model.")] for k in used.state_dict()})
        return [used.eval()], whole
    first = randomised(CLIPTextModel(text_config(64, 2, "quick_gelu")), 1)
    return [first, randomised(CLIPTextModelWithProjection(text_config(128, 3, "gelu", projection=96)), 3)], None


def small_unet(layout: Layout) -> UNet2DConditionModel:
    """The two or three levels that tell the families apart: where attention is, how deep, and how many heads."""
    cross, plain = "CrossAttn{}Block2D", "{}Block2D"
    blocks, widths, text, heads, layers = {
        "sd1": ((cross, plain), (32, 64), 64, 8, 2),
        "sd2": ((cross, plain), (64, 128), 64, (1, 2), 1),
        "sdxl": ((plain, cross, cross), (32, 64, 128), 192, (1, 1, 2), 1),
    }[layout]
    shape: dict[str, Any] = {"block_out_channels": widths, "cross_attention_dim": text, "attention_head_dim": heads}
    shape |= {"use_linear_projection": layout != "sd1", "upcast_attention": layout == "sd2", "layers_per_block": layers}
    if layout == "sdxl":
        shape |= {"transformer_layers_per_block": (1, 1, 2), "addition_embed_type": "text_time"}
        shape |= {"addition_time_embed_dim": 16, "projection_class_embeddings_input_dim": 96 + 6 * 16}
    down, up = tuple(b.format("Down") for b in blocks), tuple(b.format("Up") for b in reversed(blocks))
    return randomised(UNet2DConditionModel(sample_size=8, down_block_types=down, up_block_types=up, **shape), 4)


def small_vae(layout: Layout) -> AutoencoderKL:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(**blocks, block_out_channels=(32, 64), layers_per_block=1, scaling_factor=SCALES[layout])
    return randomised(vae, 5)


def write_scheduler(folder: Path, **values: Any) -> None:
    folder.mkdir(exist_ok=True)
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, **values}
    (folder / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler", **config}))


def write_folder(folder: Path, unet: Any, vae: Any, encoders: list[Any], tokenizers: list[Any]) -> None:
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    for suffix, encoder, tokenizer in zip(("", "_2"), encoders, tokenizers, strict=False):
        encoder.save_pretrained(folder / f"text_encoder{suffix}")
        tokenizer.save_pretrained(folder / f"tokenizer{suffix}")
    write_scheduler(folder / "scheduler")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[Layout, Model]:
    root = tmp_path_factory.mktemp("bases")
    vocabulary = root / "ComfyUI" / "comfy" / "sd1_tokenizer"
    write_vocabulary(vocabulary)
    clip, open_clip = (CLIPTokenizer.from_pretrained(str(vocabulary), pad_token=p) for p in ("<|endoftext|>", "!"))
    result = {}
    for layout, tokenizers in (("sd1", [clip]), ("sd2", [open_clip]), ("sdxl", [clip, open_clip])):
        unet, vae, (encoders, whole) = small_unet(layout), small_vae(layout), small_encoders(layout)
        folder, file = root / layout, root / f"{layout}.safetensors"
        write_folder(folder, unet, vae, encoders, tokenizers)
        weights = {**checkpoint(layout, unet, vae, [whole] if whole else encoders), "alphas_cumprod": torch.ones(3)}
        save_file({k: v.contiguous() for k, v in weights.items()}, file)
        result[layout] = Model(layout, unet, vae, encoders, tokenizers, folder, file, vocabulary, whole)
    return result


def load_anew(model: Model, kind: str, **options: Any) -> Base:
    if kind == "folder":
        return load_base(model.folder, **options)
    return load_base(model.file, tokenizer=model.vocabulary, **options)


def load(model: Model, kind: str) -> Base:
    if kind not in model.loaded:
        model.loaded[kind] = load_anew(model, kind)
    return model.loaded[kind]


def doubled(model: Model) -> Model:
    """The same parts in float64, for numbers that no kernel changes (see helpers.DOUBLE)."""
    parts = [None if part is None else copy.deepcopy(part).to(DOUBLE) for part in (model.unet, model.vae, model.whole_encoder)]
    encoders = [copy.deepcopy(encoder).to(DOUBLE) for encoder in model.encoders]
    return replace(model, unet=parts[0], vae=parts[1], whole_encoder=parts[2], encoders=encoders, loaded={})


def assert_reads(base: Base, model: Model) -> None:
    """The base, which is left in float64, gives the text states of the model's parts."""
    torch.testing.assert_close(base.to(dtype=DOUBLE).encode_text(PROMPTS).hidden, expected_text(doubled(model))[0])


def same_weights(one: Any, other: Any) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())


def ids(tokenizer: Any, prompts: list[str]) -> torch.Tensor:
    return tokenizer(prompts, padding="max_length", max_length=24, truncation=True, return_tensors="pt").input_ids


def output_of_layer(encoder: Any, index: int, tokens: torch.Tensor) -> torch.Tensor:
    seen: list[Any] = []
    handle = (
        getattr(encoder, "text_model", encoder)
        .encoder.layers[index]
        .register_forward_hook(lambda module, args, output: seen.append(output))
    )
    encoder(tokens)
    handle.remove()
    return seen[0][0] if isinstance(seen[0], tuple) else seen[0]


@torch.no_grad()
def expected_text(model: Model) -> tuple[torch.Tensor, torch.Tensor | None]:
    if model.layout != "sdxl":
        return model.encoders[0](ids(model.tokenizers[0], PROMPTS)).last_hidden_state, None
    tokens = [ids(t, PROMPTS) for t in model.tokenizers]
    states = [output_of_layer(e, -2, t) for e, t in zip(model.encoders, tokens, strict=True)]
    return torch.cat(states, -1), model.encoders[1](tokens[1]).text_embeds


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


# ---- folders as they are found


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.fixture
def folder(small: dict[Layout, Model], tmp_path: Path) -> Path:
    return Path(shutil.copytree(small["sd1"].folder, tmp_path / "model"))


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


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<start>", "<end>", "<unknown>", "red", "circle", "moves"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("<start> $A <end>", None, [("<start>", 1), ("<end>", 2)])
    names = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>", "unk_token": "<unknown>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=8, **names)


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
        ("sdxl", "sdxl", (2_567_463_684, 83_653_863, 123_060_480, 694_659_840)),
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
    loaded_unet, loaded_vae = single_file.load_unet_and_vae(info, torch.float16)
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

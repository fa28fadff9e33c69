"""LoRAs of the image model and VAEs instead of its own: what they change, what is refused before weights are read, and the
command line. tests/nodes compares the pictures with ComfyUI's."""

from __future__ import annotations

import json
import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emu_core.base import Base, inspect_base, load_base
from emu_core.base.lora import open_lora, plan
from emu_core.cli.main import main
from emu_core.cli.making import parse_lora
from emu_core.low_rank import METADATA, added, difference, told_alpha
from emu_core.media import read_video
from emu_core.model_folder import BUNDLED
from emu_core.pipeline import EmuVideoPipeline

from .helpers import meta_unet
from .ldm_layout import Layout, unet_to_ldm, vae_to_ldm
from .small_bases import Model, edit, load, randomised, small_vae
from .test_cli import refused

pytestmark = pytest.mark.usefixtures("no_network")
State = dict[str, torch.Tensor]
PASTEL = BUNDLED.parent / "loras" / "emu_video_tiny_pastel.safetensors"
QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = f"lora_unet_{QUERY.replace('.', '_')}"
PLACE = "pytorch_lightning.callbacks.model_checkpoint"
PROMPT = "a big red circle moves right on a white background"
QUICK = ["--steps", "2", "--frames", "3", "--size", "64x64", "--no-interpolate"]


def pair(name: str, out: int = 32, width: int = 32, up: str = ".lora_up.weight", down: str = ".lora_down.weight") -> State:
    generator = torch.Generator().manual_seed(1)
    return {
        name + up: torch.randn(out, 2, generator=generator),
        name + down: torch.randn(2, width, generator=generator),
    }


def write(state: State, path: Path, **metadata: str) -> Path:
    save_file({k: v.contiguous() for k, v in state.items()}, path, metadata or None)
    return path


def merged(model: Model, *loras: tuple[Path, float], dtype: torch.dtype = torch.float32) -> Base:
    return load_base(model.folder, loras=loras, dtype=dtype)


def change(model: Model, *loras: tuple[Path, float], module: str = QUERY) -> torch.Tensor:
    """What LoRAs add to a weight of the U-Net."""
    weight = f"{module}.weight"
    return merged(model, *loras).unet.get_parameter(weight) - load(model, "folder").unet.get_parameter(weight)


# ---- what is added


@pytest.mark.parametrize(
    ("name", "up", "down"),
    [
        (KOHYA, ".lora_up.weight", ".lora_down.weight"),
        ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", ".lora_up.weight", ".lora_down.weight"),
        (f"lycoris_{QUERY.replace('.', '_')}", ".lora_up.weight", ".lora_down.weight"),
        (f"unet.{QUERY.replace('.to_', '.processor.to_')}", "_lora.up.weight", "_lora.down.weight"),
        (QUERY.replace(".to_", ".processor.to_"), "_lora.up.weight", "_lora.down.weight"),
        (f"unet.{QUERY}", ".lora_B.weight", ".lora_A.weight"),
        (f"unet.{QUERY}", ".lora.up.weight", ".lora.down.weight"),
        (f"base_model.model.{QUERY}", ".lora_B.default.weight", ".lora_A.default.weight"),
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q", ".lora_B.weight", ".lora_A.weight"),
    ],
)
def test_names(small: dict[Layout, Model], tmp_path: Path, name: str, up: str, down: str) -> None:
    state = pair(name, up=up, down=down)
    whole = 0.5 * state[name + up] @ state[name + down]
    torch.testing.assert_close(change(small["sd1"], (write(state, tmp_path / "a.safetensors"), 0.5)), whole, atol=1e-6, rtol=1e-5)
    torch.save({"state_dict": state | {f"{name}.alpha": torch.tensor([4.0])}}, tmp_path / "a.pt")
    torch.testing.assert_close(change(small["sd1"], (tmp_path / "a.pt", 0.5)), 2 * whole, atol=1e-6, rtol=1e-5)


def test_text_encoders(small: dict[Layout, Model], tmp_path: Path) -> None:
    """Both of SDXL, and the one of the others under the first's names."""
    inner = "text_model.encoder.layers.0.self_attn.q_proj"
    for layout, number, name, width in (
        ("sdxl", 0, f"lora_te1_{inner.replace('.', '_')}", 64),
        ("sdxl", 1, f"lora_te2_{inner.replace('.', '_')}", 128),
        ("sdxl", 1, f"text_encoder_2.{inner}", 128),
        ("sd1", 0, f"lora_te_{inner.replace('.', '_')}", 64),
        ("sd1", 0, f"lora_te1_{inner.replace('.', '_')}", 64),
        ("sd2", 0, f"text_encoder.{inner}", 64),
        ("sd2", 0, f"text_encoders.clip_h.transformer.{inner}", 64),
    ):
        state = pair(name, width, width)
        model = small[layout]  # type: ignore[index]
        base = merged(model, (write(state, tmp_path / "a.safetensors"), 1.0))
        for i, (ours, theirs) in enumerate(zip(base.text_encoders, load(model, "folder").text_encoders, strict=True)):
            before = dict(theirs.named_parameters())
            moved = [k for k, v in ours.named_parameters() if not torch.equal(v, before[k])]
            assert [k.removeprefix("text_model.") for k in moved] == (
                ["encoder.layers.0.self_attn.q_proj.weight"] if i == number else []
            )


def test_a_product_with_a_core_is_a_kronecker_product() -> None:
    """LoKr of a kernel: w1 (x) the sum over r, s of t[r, s] a[r, o] b[s, i], at every place of the kernel."""
    generator = torch.Generator().manual_seed(2)
    parts = {k: torch.randn(s, generator=generator) for k, s in {"lokr_w1": (2, 3), "lokr_t2": (2, 2, 3, 3)}.items()}
    parts |= {k: torch.randn(s, generator=generator) for k, s in {"lokr_w2_a": (2, 4), "lokr_w2_b": (2, 5)}.items()}
    found = difference(parts, torch.Size((8, 15, 3, 3)), 1.0)
    for k in range(3):
        for l in range(3):
            inner = parts["lokr_w2_a"].T @ parts["lokr_t2"][:, :, k, l] @ parts["lokr_w2_b"]
            torch.testing.assert_close(found[:, :, k, l], torch.kron(parts["lokr_w1"], inner) / 2)


def test_rows_of_dora_have_the_lengths_that_it_says() -> None:
    """Of a change that is none: each row, or column, of the weight is as long as said."""
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    rows, columns = torch.rand(4, 1) + 1, torch.rand(1, 6) + 1
    torch.testing.assert_close(added(weight, torch.zeros(4, 6), 1.0, rows).norm(dim=1), rows[:, 0])
    torch.testing.assert_close(added(weight, torch.zeros(4, 6), 1.0, columns).norm(dim=0), columns[0])
    half = added(weight, torch.zeros(4, 6), 0.5, rows)
    torch.testing.assert_close(half, (weight + added(weight, torch.zeros(4, 6), 1.0, rows)) / 2)


def test_several_are_summed_before_they_are_rounded(small: dict[Layout, Model], tmp_path: Path) -> None:
    """In bfloat16: a hundredth of a step each would be lost one by one."""
    model, state = small["sd1"], pair(KOHYA)
    state = {k: v / v.abs().max() for k, v in state.items()}
    file = write(state, tmp_path / "a.safetensors")
    plain = load_base(model.folder, dtype=torch.bfloat16).unet.get_parameter(f"{QUERY}.weight")
    product = state[f"{KOHYA}.lora_up.weight"] @ state[f"{KOHYA}.lora_down.weight"]
    found = merged(model, *[(file, 1e-3)] * 60, dtype=torch.bfloat16).unet.get_parameter(f"{QUERY}.weight")
    torch.testing.assert_close(found.float(), plain.float() + 0.06 * product, rtol=2**-8, atol=1e-6)  # rounded once
    assert not torch.equal(found, plain)
    assert torch.equal(merged(model, (file, 0.0), dtype=torch.bfloat16).unet.get_parameter(f"{QUERY}.weight"), plain)


def test_peft_tells_alpha_in_its_settings(small: dict[Layout, Model], tmp_path: Path) -> None:
    name = f"unet.{QUERY}"
    state = pair(name, up=".lora_B.weight", down=".lora_A.weight")
    product = state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
    for settings, scale in (
        ({"unet.lora_alpha": 6, "unet.r": 2}, 3.0),
        ({"unet.lora_alpha": 6, "unet.use_rslora": True}, 6 / 2**0.5),
        ({"text_encoder.lora_alpha": 6}, 1.0),
    ):
        file = write(state, tmp_path / "a.safetensors", **{METADATA: json.dumps(settings)})
        torch.testing.assert_close(change(small["sd1"], (file, 1.0)), scale * product, atol=1e-5, rtol=1e-5)


def test_a_pattern_that_never_ends_is_refused(tmp_path: Path) -> None:
    """Repetitions and choices that `re` would try for hours, on a short name or on a long one."""
    for pattern in (".*" * 40 + "(?=[xz])", "(.*)*[xz]", "d?" * 30 + "d" * 30 + "x", "(d|d)" * 30 + "x", ".*.*[xz]"):
        with pytest.raises(ValueError, match="repeats too much|a name of 1260 signs"):
            told_alpha(tmp_path, {METADATA: json.dumps({"unet.alpha_pattern": {pattern: 1.0}})}, "down_blocks.0.to_q" * 70, 2)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_are_read_as_float32(small: dict[Layout, Model], tmp_path: Path, kind: torch.dtype) -> None:
    """As ComfyUI does, from safetensors and from a pickle."""
    state = {k: v.to(kind) for k, v in pair(KOHYA).items()}
    product = state[f"{KOHYA}.lora_up.weight"].float() @ state[f"{KOHYA}.lora_down.weight"].float()
    torch.save(state, tmp_path / "a.pt")
    for file in (write(state, tmp_path / "a.safetensors"), tmp_path / "a.pt"):
        torch.testing.assert_close(change(small["sd1"], (file, 1.0)), product, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(find_spec("peft") is None, reason="diffusers loads LoRAs with peft, which is not here")
def test_as_diffusers_loads_them(small: dict[Layout, Model], tmp_path: Path) -> None:
    """What diffusers writes itself, of U-Net and text encoder with two scales, and kohya's form."""
    from diffusers import StableDiffusionPipeline
    from diffusers.schedulers import DDIMScheduler
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    model = small["sd1"]

    def whole() -> Any:
        base = load_base(model.folder)
        parts = {"vae": base.vae, "unet": base.unet, "text_encoder": base.text_encoders[0], "tokenizer": base.tokenizers[0]}
        return StableDiffusionPipeline(
            **parts, scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )

    theirs, given = whole(), {}
    for part, targets, alpha in (("unet", ["to_q", "to_out.0", "conv1"], 3), ("text_encoder", ["q_proj", "fc1"], 8)):
        config = LoraConfig(r=4, lora_alpha=alpha, target_modules=targets, init_lora_weights=False)
        getattr(theirs, part).add_adapter(config)
        given[f"{part}_lora_layers"] = get_peft_model_state_dict(getattr(theirs, part))
        given[f"{part}_lora_adapter_metadata"] = config.to_dict()
    StableDiffusionPipeline.save_lora_weights(tmp_path, **given)
    [file] = tmp_path.glob("*.safetensors")
    fused = whole()
    fused.load_lora_weights(file)
    fused.fuse_lora(lora_scale=0.7)
    fused.unload_lora_weights()
    ours, before = merged(model, (file, 0.7)), load(model, "folder")
    for part, own, old in (
        ("unet", ours.unet, before.unet),
        ("text_encoder", ours.text_encoders[0], before.text_encoders[0]),
    ):
        expected, old_state = getattr(fused, part).state_dict(), old.state_dict()
        moved = [k for k, v in own.state_dict().items() if not torch.equal(v, old_state[k])]
        assert len(moved) >= 4
        for name, value in own.state_dict().items():
            torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)


# ---- what is refused, before any weights are read


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("emu_core.weights.safe_open", refuse)


LORA_FAULTS: dict[str, tuple[State, str]] = {
    "another width": (pair(KOHYA, 32, 48), r"expected a change of down_blocks.* \(32, 32\) in this model .* down \(2, 48\)"),
    "other names": (pair("lora_unet_double_blocks_0_img_attn"), "a LoRA for a transformer, not for a U-Net"),
    "of a deeper model": (pair("lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q"), "found one for another model"),
    "another text encoder": (
        pair("text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1"),
        "found one for another model",
    ),
    "videos' transformer": (pair("diffusion_model.blocks.0.cross_attn.k"), "a LoRA for a transformer, not for a U-Net"),
    "rank 0": (
        {
            f"{KOHYA}.lora_up.weight": torch.zeros(32, 0),
            f"{KOHYA}.lora_down.weight": torch.zeros(0, 32),
            f"{KOHYA}.alpha": torch.ones(()),
        },
        "expected a change of down_blocks",
    ),
    "other blocks": (pair("lora_unet_down_blocks_7_x"), "found one for another model"),
    "no partner": ({f"{KOHYA}.lora_up.weight": torch.zeros(32, 2)}, "expected down beside lora_unet_down.*found none"),
    "another rank": ({**pair(KOHYA), f"{KOHYA}.lora_up.weight": torch.zeros(32, 3)}, "expected a change of down_blocks"),
    "OFT": ({f"{KOHYA}.oft_blocks": torch.zeros(2, 2)}, "found OFT in lora_unet_down.*only ComfyUI reads"),
    "GLoRA": ({f"{KOHYA}.a1.weight": torch.zeros(2, 2)}, "found GLoRA in .*only ComfyUI reads"),
    "peft's DoRA": ({f"unet.{QUERY}.lora_magnitude_vector": torch.zeros(2)}, "found DoRA under peft's names .*is not read: take"),
    "(IA)3": ({f"{KOHYA}.on_input": torch.zeros(1)}, r"found \(IA\)3 in .*which is not read: take"),
    "motion LoRA": (pair("down_blocks.0.motion_modules.0.to_q", up="_lora.up.weight", down="_lora.down.weight"), "--motion-lora"),
    "textual inversion": ({"emb_params": torch.zeros(2, 64)}, "found a textual inversion"),
    "diffusers' textual inversion": ({"<cat>": torch.zeros(64)}, "found a textual inversion"),
    "VAE": ({"decoder.conv_in.weight": torch.zeros(1)}, "found a VAE; name it with --vae"),
    "a model": ({"model.diffusion_model.out.0.weight": torch.zeros(1)}, "a whole model; name it with --model"),
    "anything": ({"a": torch.zeros(1)}, "found 1 tensors of something else; its names are such as a"),
    "two alphas": ({**pair(KOHYA), f"{KOHYA}.alpha": torch.zeros(2)}, "expected one number, found .*alpha of shape"),
    "integers": ({k: v.to(torch.int8) for k, v in pair(KOHYA).items()}, "found I8 in"),
    "no such bias": ({f"{KOHYA}.diff_b": torch.zeros(32)}, "for a bias that this model .* does not have"),
}


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("fault", LORA_FAULTS)
def test_loras_that_are_refused(small: dict[Layout, Model], tmp_path: Path, fault: str) -> None:
    state, match = LORA_FAULTS[fault]
    file = write(state, tmp_path / "lora.safetensors")
    for refuse in (inspect_base, load_base):
        with pytest.raises(ValueError, match=match) as caught:
            refuse(small["sd1"].folder, loras=[(file, 1.0)])
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_a_pickle_is_said_to_be(small: dict[Layout, Model], tmp_path: Path) -> None:
    torch.save({320: ({"linear.0.weight": torch.zeros(4, 4)},) * 2, "layer_structure": [1, 2, 1]}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="a hypernetwork, which only ComfyUI reads"):
        inspect_base(small["sd1"].folder, loras=[(tmp_path / "a.pt", 1.0)])


@pytest.mark.usefixtures("no_weights")
def test_paths_and_strengths_that_are_refused(small: dict[Layout, Model], tmp_path: Path) -> None:
    for path, strength, match in (
        (tmp_path / "none.safetensors", 1.0, "found nothing"),
        (tmp_path, 1.0, "found a folder"),
        (write(pair(KOHYA), tmp_path / "a.safetensors"), float("nan"), "must be a finite number"),
    ):
        with pytest.raises(ValueError, match=match):
            load_base(small["sd1"].folder, loras=[(path, strength)])


def test_damaged_numbers_are_refused(small: dict[Layout, Model], tmp_path: Path) -> None:
    state = pair(KOHYA)
    state[f"{KOHYA}.lora_up.weight"][0, 0] = torch.inf
    with pytest.raises(ValueError, match="holds NaN or infinite values"):
        merged(small["sd1"], (write(state, tmp_path / "a.safetensors"), 1.0))


def test_what_has_no_place_is_named(small: dict[Layout, Model], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SD 2.x reads no last layer of its text encoder, and a LoRA may change it."""
    state = pair(KOHYA) | pair("lora_te_text_model_encoder_layers_11_mlp_fc1")
    with caplog.at_level(logging.WARNING, "emu_core"):
        merged(small["sd1"], (write(state, tmp_path / "a.safetensors"), 1.0))
    [record] = caplog.records
    assert "2 of its weights have no place in this model: lora_te_text_model_encoder_layers_11_mlp_fc1" in record.message


# ---- VAEs


def with_channels(channels: int) -> State:
    vae = small_vae("sd1")
    config = {k: v for k, v in vae.config.items() if not k.startswith("_")}
    return dict(type(vae)(**config | {"latent_channels": channels}).state_dict())


VAE_FAULTS: dict[str, tuple[Any, str]] = {
    "channels": (lambda: with_channels(16), "latents of 4 channels, 2 pixels wide each, as the model's, found 16 channels"),
    "a decoder": (lambda: {k: v for k, v in with_channels(4).items() if "decoder" in k}, "half a VAE, a decoder alone"),
    "a LoRA": (lambda: pair(KOHYA), r"expected a VAE \(encoder.conv_in .* found a LoRA; name it with --lora"),
    "anything": (lambda: {"a": torch.zeros(1)}, "found 1 tensors such as a"),
    "TAESD's decoder": (lambda: {"1.weight": torch.zeros(64, 4, 3, 3), "3.conv.0.weight": torch.zeros(4)}, "found TAESD"),
    "TAESD of diffusers": (lambda: {"decoder.layers.0.weight": torch.zeros(64, 4, 3, 3)}, "found TAESD"),
    "of videos": (
        lambda: {k: v[:, :, None] if v.ndim == 4 else v for k, v in with_channels(4).items()},
        "a VAE of pictures, found one of videos",
    ),
    "another structure": (lambda: {k: v for k, v in with_channels(4).items() if "resnets" not in k}, "another structure"),
    "empty": (lambda: {}, "found 0 tensors such as nothing"),
}


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("fault", VAE_FAULTS)
def test_vaes_that_are_refused(small: dict[Layout, Model], tmp_path: Path, fault: str) -> None:
    state, match = VAE_FAULTS[fault]
    file = write(state(), tmp_path / "vae.safetensors")
    for refuse in (inspect_base, load_base):
        with pytest.raises(ValueError, match=match) as caught:
            refuse(small["sd1"].folder, vae=file)
        assert str(file) in str(caught.value)


def test_folders_of_vaes(small: dict[Layout, Model], folder: Path, tmp_path: Path) -> None:
    """One part, or a whole model; with another scale it is another family's."""
    latents, other = torch.randn(1, 4, 8, 8), randomised(small_vae("sd1"), 9)
    other.save_pretrained(tmp_path / "other")
    own = load(small["sd1"], "file").decode_latents(latents)
    found = load_base(small["sd1"].folder, vae=tmp_path / "other").decode_latents(latents)
    assert (found - own).abs().max() > 0.05
    torch.testing.assert_close(load_base(small["sd1"].folder, vae=folder).decode_latents(latents), own)
    edit(tmp_path / "other" / "config.json", scaling_factor=0.13025)
    with pytest.raises(ValueError, match=r"expected a VAE with latents scaled by 0.18215, as the model's, found 0.13025"):
        inspect_base(small["sd1"].folder, vae=tmp_path / "other")
    for path, match in ((tmp_path / "none", "found nothing there"), (tmp_path, "expected a VAE's folder")):
        with pytest.raises(ValueError, match=match):
            inspect_base(small["sd1"].folder, vae=path)


def test_what_training_leaves_in_a_pickle_is_passed_over(
    small: dict[Layout, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Lightning's checkpoints of VAEs have it: a class of its own as a key, NumPy's numbers, EMA, and the loss's weights."""
    module = ModuleType(PLACE)
    for name in (PLACE, PLACE.rpartition(".")[0], PLACE.partition(".")[0]):
        monkeypatch.setitem(sys.modules, name, module)
    kind = type("ModelCheckpoint", (), {"__module__": PLACE})
    module.ModelCheckpoint = kind  # type: ignore[attr-defined]
    other = randomised(small_vae("sd1"), 9)
    state = vae_to_ldm(other.state_dict(), other.config) | {"loss.logvar": torch.zeros(()), "model_ema.decay": torch.zeros(())}
    torch.save({"state_dict": state, "callbacks": {kind: {"best": np.float64(0.5)}}}, tmp_path / "vae.ckpt")
    monkeypatch.delitem(sys.modules, PLACE)
    latents = torch.randn(1, 4, 8, 8)
    wanted = other.decode(latents / 0.18215).sample.movedim(1, -1) / 2 + 0.5
    found = load_base(small["sd1"].folder, vae=tmp_path / "vae.ckpt").decode_latents(latents)
    torch.testing.assert_close(found, wanted.clamp(0, 1).detach(), atol=1e-5, rtol=0)


def test_a_file_has_the_scale_of_the_model(small: dict[Layout, Model], tmp_path: Path) -> None:
    vae = small["sdxl"].vae
    file = write(vae_to_ldm(vae.state_dict(), vae.config), tmp_path / "vae.safetensors")
    base = load_base(small["sdxl"].folder, vae=file, dtype=torch.float16)
    assert (base.latent_scale, base.vae.dtype) == (0.13025, torch.float32)


# ---- the command line


@pytest.mark.parametrize(
    ("text", "file", "strength"),
    [
        (r"C:\x.safetensors:0.5", r"C:\x.safetensors", 0.5),
        (r"C:\x.safetensors", r"C:\x.safetensors", 1.0),
        ("folder:a/x.safetensors:-1", "folder:a/x.safetensors", -1.0),
        ("folder:a/x.safetensors", "folder:a/x.safetensors", 1.0),
    ],
)
def test_names_with_colons(text: str, file: str, strength: float) -> None:
    assert parse_lora(text, "--lora") == (Path(file), strength)


def made(out: Path, *options: str, command: str = "generate") -> tuple[torch.Tensor, dict[str, str]]:
    assert main([command, PROMPT, "--out", str(out), *QUICK, *options]) == 0
    video = read_video(out)
    return video.frames, video.metadata


def test_a_video_says_how_it_was_made(tmp_path: Path) -> None:
    """And is what the pipeline makes; without the options nothing is told of them."""
    plain, told = made(tmp_path / "plain")
    assert not {"loras", "vae", "negative"} & told.keys()
    vae = write(load_file(BUNDLED / "vae" / "diffusion_pytorch_model.safetensors"), tmp_path / "vae.safetensors")
    named = ["--lora", f"{PASTEL}:0.5", "--lora", f"{PASTEL}:0.3", "--vae", str(vae), "--negative", "(green:1.2)"]
    found, told = made(tmp_path / "all", *named)
    assert told["loras"] == f"{PASTEL.name}:0.5, {PASTEL.name}:0.3"
    assert (told["vae"], told["negative"], told["prompt"]) == ("vae.safetensors", "(green:1.2)", PROMPT)
    once, _ = made(tmp_path / "once", "--lora", f"{PASTEL}:0.8", "--negative", "(green:1.2)")
    assert (found - once).abs().max() <= 1 / 255 + 1e-6
    assert (found - plain).abs().max() > 0.05


def test_what_the_command_line_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emu_core.pipeline.load_base", lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.setattr("emu_core.pipeline.load_stack", lambda *_, **__: pytest.fail("a stack was loaded"))
    other = write(pair(KOHYA), tmp_path / "other.safetensors")
    out = ["--out", str(tmp_path / "a.mp4"), *QUICK]
    for options, match in (
        (["--lora", str(other)], "expected a change of down_blocks"),
        (["--lora", f"{other}:x"], "expected a number as the strength"),
        (["--vae", str(other)], "expected a VAE"),
        (["--negative", "(a:nan)"], "has the weight nan"),
    ):
        assert match in refused(capsys, "generate", PROMPT, *out, *options)
    assert not (tmp_path / "a.mp4").exists()


def test_in_python(tmp_path: Path) -> None:
    """A stack that was made for the base goes on; files are refused before the stacks are read."""
    pipeline = EmuVideoPipeline.from_files(loras=[(PASTEL, 1.0)])
    assert set(pipeline.models) == {"F", "I"}
    with pytest.raises(ValueError, match="expected a VAE"):
        EmuVideoPipeline.from_files(vae=PASTEL)


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
def test_a_lora_of_true_size_finds_every_place(name: str, tmp_path: Path) -> None:
    """Of each matrix and kernel of the U-Net, under the original layout's names."""
    unet = meta_unet(name)
    names = list(unet.state_dict())
    marked = unet_to_ldm({k: torch.full((), float(i)) for i, k in enumerate(names)}, unet.config)
    original = {names[int(v)]: k.removesuffix(".weight") for k, v in marked.items()}
    state = {}
    for key, value in unet.state_dict().items():
        if key.endswith(".weight") and value.ndim > 1:
            state[f"lora_unet_{original[key].replace('.', '_')}.lora_up.weight"] = torch.zeros(len(value), 1).half()
            state[f"lora_unet_{original[key].replace('.', '_')}.lora_down.weight"] = torch.zeros(1, *value.shape[1:]).half()
    changes, strange = plan(open_lora(write(state, tmp_path / "a.safetensors")), {"unet": unet}, name)
    assert not strange
    assert {change.parameter for change in changes} == {k for k, v in unet.state_dict().items() if v.ndim > 1}

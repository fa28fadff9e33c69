"""One file, one stack: written whole or not at all, read back as it was, refused with a sentence that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from emu_core.checkpoint import FORMAT, load_stack, read_config, save_stack
from emu_core.model.schedule import ScheduleConfig
from emu_core.model.stack import TemporalStack
from emu_core.weights import read_header

from .helpers import DOUBLE, attached, inputs, new_stack, random_stack, randomise, small_unet, video
from .test_media import full_disk

Weights = dict[str, torch.Tensor]

SETTINGS: dict[str, Any] = {"role": "I", "frames": 37, "fps": 16.0, "size": (48, 64), "stage": "test"}
SETTINGS |= {"schedule": ScheduleConfig(zero_snr=False, prediction="epsilon"), "channel_order": ("mask", "image")}
SETTINGS |= {"attentions": ("self", "self"), "mlp_ratio": 2, "kernel": 5, "image_noise": 100, "steps": 20}
SETTINGS |= {"directed": True, "depthwise": True}
SETTINGS |= {"text_guidance": 3.5, "image_guidance": 1.25, "source": 'quotes " and ünïcode'}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stacks") / "stack.safetensors"
    save_stack(random_stack(small_unet()), path, torch.float32)
    return path


@pytest.fixture
def file(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copy(original, tmp_path / "damaged.safetensors"))


def contents(path: Path) -> tuple[Weights, dict[str, str]]:
    with safe_open(path, framework="pt") as opened:
        return load_file(path), opened.metadata()


def rewrite(path: Path, weights: Callable[[Weights], Any] | None = None, **metadata: str | None) -> None:
    """Change some weights in place, and some entries of the metadata (None removes one)."""
    values, entries = contents(path)
    if weights is not None:
        weights(values)
    merged = {**entries, **metadata}
    save_file(values, path, {key: value for key, value in merged.items() if value is not None})


def with_config(path: Path, **changes: Any) -> None:
    config = json.loads(contents(path)[1]["config"])
    rewrite(path, config=json.dumps({**config, **changes}))


# -- round trip


@pytest.mark.parametrize("settings", [{}, SETTINGS], ids=["defaults", "everything else"])
def test_a_stack_returns_as_it_was(tmp_path: Path, settings: dict[str, Any]) -> None:
    unet, x, path = small_unet(), inputs(), tmp_path / "stack.safetensors"
    stack = random_stack(unet, **settings)
    save_stack(stack, path, torch.float32)
    loaded = load_stack(path)
    assert loaded.config == stack.config == read_config(str(path))
    assert loaded.state_dict().keys() == stack.state_dict().keys()
    assert all(torch.equal(value, stack.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    with torch.no_grad(), attached(stack, unet) as before, attached(loaded, unet) as after:
        assert torch.equal(video(before, x, conditioned=True), video(after, x, conditioned=True))


def test_weights_keep_the_files_precision_unless_told(tmp_path: Path) -> None:
    stack, path = random_stack(small_unet()), tmp_path / "stack.safetensors"
    save_stack(stack, path)
    assert {p.dtype for p in load_stack(path).parameters()} == {torch.float16}
    wide = load_stack(path, dtype=torch.float32)
    for name, value in wide.state_dict().items():
        assert torch.equal(value, stack.state_dict()[name].half().float())
    assert load_stack(path, device="meta").conv_in.weight.device.type == "meta"


def test_file_is_safetensors_with_plain_metadata(original: Path) -> None:
    weights, metadata = contents(original)
    assert metadata["format"] == FORMAT == "emu-video-stack"
    assert (metadata["version"], json.loads(metadata["config"])["base"]) == ("1", "tiny")
    assert "conv_in.weight" in weights


# -- writing


@pytest.mark.parametrize("limit", [0, 5000])
def test_nothing_half_written_when_saving_fails(original: Path, tmp_path: Path, limit: int) -> None:
    path = Path(shutil.copy(original, tmp_path / "stack.safetensors"))
    with full_disk(limit), pytest.raises(ValueError, match=r"stack\.safetensors: expected to write .*free some space"):
        save_stack(random_stack(small_unet(), seed=9), path)
    assert (path.read_bytes(), [p.name for p in tmp_path.iterdir()]) == (original.read_bytes(), ["stack.safetensors"])


def test_equal_stacks_are_equal_files(tmp_path: Path) -> None:
    stack = random_stack(small_unet(), seed=9)
    for i in range(12):  # safetensors alone would write the metadata's three entries in six orders
        save_stack(stack, tmp_path / f"{i}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert load_stack(tmp_path / "0.safetensors").config == stack.config


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6], ids=["NaN", "infinity", "beyond float16"])
def test_weights_that_could_not_be_read_again_are_not_written(tmp_path: Path, value: float) -> None:
    stack, path = new_stack(small_unet()), tmp_path / "stack.safetensors"
    with torch.no_grad():
        stack.conv_in.weight[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"stack\.safetensors is not written: conv_in\.weight holds NaN or infinite"):
        save_stack(stack, path)
    assert not list(tmp_path.iterdir())


# -- what is refused


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def cut(length: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:length])


def put(name: str, value: torch.Tensor) -> Callable[[Weights], None]:
    return lambda weights: weights.update({name: value})


def one_value(value: float) -> Callable[[Weights], None]:
    return lambda weights: weights["conv_in.weight"].view(-1)[:1].fill_(value)


INTEGERS = torch.zeros(32, 5, 3, 3, dtype=torch.int32)
NOT_READABLE: list[tuple[Callable[[Path], None], str]] = [
    (Path.unlink, "found nothing: check the path"),
    (a_folder, "found a folder: check the path"),
    (cut(-100), "truncated"),
    (cut(50), "cut short|something else"),
    (cut(0), "found 0 bytes of something else"),
    (lambda path: path.write_text("this is no tensor\n" * 50), "something else"),
    (lambda path: torch.save({"weight": torch.zeros(3)}, path), "something else"),
    (lambda path: save_file(contents(path)[0], path), "is no temporal stack: it has the weights of one, but not its metadata"),
    (lambda path: rewrite(path, format="other"), "is no temporal stack"),
    (lambda path: rewrite(path, put("conv_in.weight", INTEGERS)), "found I32 in conv_in.weight"),
    (lambda path: rewrite(path, version="2"), "format version '2', and this program reads 1: update the program"),
    (lambda path: rewrite(path, version=None), "format version None"),
    (lambda path: rewrite(path, config=None), "damaged metadata"),
    (lambda path: rewrite(path, config='{"base": "tiny"'), "damaged metadata"),
    (lambda path: rewrite(path, config="null"), "damaged metadata"),
    (lambda path: rewrite(path, config="[1, 2]"), "damaged metadata"),
    (lambda path: rewrite(path, config="7"), "damaged metadata"),
    (lambda path: rewrite(path, config="{}"), "damaged metadata.*sites"),
    (lambda path: with_config(path, colour="red"), "damaged metadata.*unknown entries colour"),
    (lambda path: with_config(path, sites=[{"name": "mid"}]), "damaged metadata"),
    (lambda path: with_config(path, sites=7), "damaged metadata"),
    (lambda path: with_config(path, role="X"), "damaged metadata.*'X'"),
    (lambda path: with_config(path, frames="many"), "damaged metadata"),
    (lambda path: with_config(path, frames=0), "damaged metadata"),
    (lambda path: with_config(path, kernel=2), "damaged metadata.*odd"),
    (lambda path: with_config(path, attentions=["pixels"]), "damaged metadata"),
    (lambda path: with_config(path, channel_order=["mask"]), "damaged metadata"),
    (lambda path: with_config(path, schedule={"prediction": "epsilon"}), "damaged metadata.*zero terminal SNR"),
]
NOT_LOADABLE: list[tuple[Callable[[Path], None], str]] = [
    (lambda path: rewrite(path, lambda w: w.pop("conv_in.weight")), "lacks 1 weights.*such as conv_in.weight"),
    (lambda path: rewrite(path, put("further.weight", torch.zeros(2))), "has 1 weights.*such as further.weight"),
    (lambda path: rewrite(path, lambda w: w.update({"conv_out.weight": w.pop("conv_in.weight")})), "lacks 1 weights"),
    (lambda path: rewrite(path, put("conv_in.weight", torch.ones(32, 4, 3, 3))), r"\(32, 5, 3, 3\), found \(32, 4, 3, 3\)"),
    (lambda path: rewrite(path, one_value(float("nan"))), "conv_in.weight holds NaN or infinite"),
    (lambda path: rewrite(path, one_value(-float("inf"))), "conv_in.weight holds NaN or infinite"),
    (lambda path: rewrite(path, lambda w: w.clear()), "floating point"),
    (lambda path: with_config(path, head_dim=7), "metadata that no stack can be built of.*7"),
    (lambda path: with_config(path, head_dim=0), "metadata that no stack can be built of"),
    (lambda path: with_config(path, head_dim="wide"), "metadata that no stack can be built of"),
    (lambda path: with_config(path, input_width=-4), "metadata that no stack can be built of"),
    (lambda path: with_config(path, mlp_ratio=2), "expected .* of shape"),
    (lambda path: with_config(path, kernel=5), "expected .* of shape"),
]


@pytest.mark.parametrize(("damage", "words"), NOT_READABLE)
def test_damaged_files_are_refused_by_name(file: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(file)
    for read in (read_config, load_stack):
        with pytest.raises(ValueError, match=words) as error:
            read(file)
        assert str(file) in str(error.value)


def test_a_file_that_cannot_be_opened_is_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.safetensors"):
        with pytest.raises(ValueError, match="expected a safetensors file, found one that cannot be read") as error:
            read_header(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(("damage", "words"), NOT_LOADABLE)
def test_weights_that_are_not_the_configs_are_refused_by_name(file: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(file)
    read_config(file)
    with pytest.raises(ValueError, match=words) as error:
        load_stack(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".PTH", ".bin", ".pkl"])
def test_a_pickle_is_refused_unread(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"stack{suffix}"

    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "exploded",)  # type: ignore[return-value]

    torch.save({"weight": Bomb()}, path)
    with pytest.raises(ValueError, match="is a pickle that was not opened.*safetensors") as error:
        load_stack(path)
    assert str(path) in str(error.value)
    assert not (tmp_path / "exploded").exists()


def test_the_pristine_file_is_fine(file: Path) -> None:
    """So each refusal above is for the damage alone."""
    rewrite(file)
    with_config(file)
    assert isinstance(load_stack(file), TemporalStack)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role": "video"}, "F \\(video\\) or I"),
        ({"channel_order": ("image",)}, "image and mask"),
        ({"attentions": ("self", "space")}, "self or text"),
        ({"kernel": 4}, "odd, found 4"),
        ({"kernel": -1}, "odd, found -1"),
        ({"frames": 0}, "positive, found 0"),
        ({"fps": 0.0}, "positive"),
        ({"fps": float("nan")}, "positive"),
    ],
)
def test_impossible_configs_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        new_stack(small_unet(), **changes)


def test_trained_weights_survive_half_precision(tmp_path: Path) -> None:
    unet, x, path = small_unet(dtype=DOUBLE), inputs(dtype=DOUBLE), tmp_path / "stack.safetensors"
    stack = randomise(new_stack(unet), scale=0.03)
    save_stack(stack, path)
    with torch.no_grad(), attached(stack, unet) as before, attached(load_stack(path, dtype=DOUBLE), unet) as after:
        y = video(before, x, conditioned=True)
        # 2^-11 of each weight: of n layers, each this way or that, a sum like sqrt(n)
        error = 2**-11 * len(stack.config.sites) ** 0.5 * y.abs().max().item()
        torch.testing.assert_close(video(after, x, conditioned=True), y, rtol=0, atol=error)

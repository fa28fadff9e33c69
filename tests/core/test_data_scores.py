"""CLIP and aesthetic scores, with tiny random models made here, against the arithmetic done by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from emu_core.data.scores import Scorer, check_models, fingerprint, load_head

WIDTH = 12
CAPTION = "a red circle moves"


def save_clip(folder: Path) -> Path:
    """A CLIP of random weights, image side 32, embedding of WIDTH, with a byte-level vocabulary."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        text = {**layers, "vocab_size": 514, "max_position_embeddings": 24, "bos_token_id": 512, "eos_token_id": 513}
        config = CLIPConfig(text_config=text, vision_config={**layers, "image_size": 32, "patch_size": 8}, projection_dim=WIDTH)
        CLIPModel(config).save_pretrained(folder)
    # as GPT-2 writes bytes: printable ones as they are, the others from 256 on
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    letters = [chr(byte if byte in plain else next(others)) for byte in range(256)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_head(path: Path, sizes: tuple[int, ...] = (WIDTH, 8, 1), bias: bool = True) -> Path:
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for index, (before, after) in enumerate(zip(sizes, sizes[1:], strict=False)):
        # numbers with gaps, and beyond 9: as in the LAION head, whose layers 1, 3, ... are dropout
        tensors[f"layers.{9 * index}.weight"] = torch.randn(after, before, generator=generator)
        if bias:
            tensors[f"layers.{9 * index}.bias"] = torch.randn(after, generator=generator)
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def test_scores_are_those_of_a_direct_computation(clip: Path, tmp_path: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    head = save_head(tmp_path / "head.safetensors", (WIDTH, 8, 4, 1))
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)  # no resizing to imitate
    found, aesthetic = Scorer(str(clip), str(head)).score(CAPTION, frame)

    model = CLIPModel.from_pretrained(clip, local_files_only=True).eval()
    tokens = CLIPTokenizer.from_pretrained(clip)([CAPTION], return_tensors="pt")
    mean, deviation = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = ((torch.from_numpy(frame) / 255 - mean) / deviation).permute(2, 0, 1)[None]
    with torch.no_grad():
        out = model(pixel_values=pixels, **tokens)
        weights = load_head(str(head), WIDTH)
        value = out.image_embeds.double()
        for weight, bias in weights:
            value = torch.nn.functional.linear(value, weight.double(), bias.double())
    assert found == pytest.approx(float((out.image_embeds * out.text_embeds).sum()), abs=1e-5)
    assert aesthetic == pytest.approx(float(value), abs=1e-4)
    assert -1 <= found <= 1
    assert Scorer(str(clip)).score(CAPTION, frame) == (found, None)
    assert Scorer(str(clip)).score("something else", frame)[0] != found


def test_a_caption_longer_than_the_model_reads_is_cut(clip: Path) -> None:
    frame = np.zeros((40, 64, 3), np.uint8)
    scorer = Scorer(str(clip))
    assert scorer.score("x" * 500, frame) == scorer.score("x" * 900, frame)


@pytest.mark.parametrize("sizes", [(WIDTH, 1), (WIDTH, 4, 1)])
def test_heads_of_any_depth_with_and_without_bias(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    for bias in (True, False):
        layers = load_head(str(save_head(tmp_path / "h.safetensors", sizes, bias)), WIDTH)
        assert [tuple(weight.shape) for weight, _ in layers] == [(b, a) for a, b in zip(sizes, sizes[1:], strict=False)]
        assert all((b is not None) == bias for _, b in layers)


@pytest.mark.parametrize("sizes", [(WIDTH + 1, 1), (WIDTH, 2), (WIDTH, 4, 4)])
def test_a_head_of_another_model_is_refused_with_its_shapes(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"CLIP's 12 numbers to one score, found layers"):
        load_head(str(save_head(tmp_path / "h.safetensors", sizes)), WIDTH)


def test_heads_that_cannot_be_understood_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1, WIDTH), "odd": torch.zeros(3)}, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match="odd"):
        load_head(str(tmp_path / "odd.safetensors"), WIDTH)
    save_file({"w": torch.zeros(1, WIDTH)}, tmp_path / "relu.safetensors", {"activation": "relu"})
    with pytest.raises(ValueError, match="activation"):
        load_head(str(tmp_path / "relu.safetensors"), WIDTH)
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        load_head(str(tmp_path / "no.safetensors"), WIDTH)


def test_missing_models_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--clip FOLDER"):
        check_models(None, "head.safetensors")
    with pytest.raises(ValueError, match=r"config\.json"):
        check_models(str(tmp_path), None)


def test_the_fingerprint_is_of_the_contents(clip: Path, tmp_path: Path) -> None:
    one, other = save_head(tmp_path / "a.safetensors"), save_head(tmp_path / "b.safetensors", (WIDTH, 1))
    assert fingerprint(str(one)) == fingerprint(str(one))
    assert len({fingerprint(str(path)) for path in (one, other, clip)}) == 3

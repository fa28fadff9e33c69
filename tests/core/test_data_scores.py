"""CLIP and aesthetic scores, with tiny random models made here, against the arithmetic done by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emu_core.data.curate import Curation, curate
from emu_core.data.scores import Scorer
from emu_core.networks import AestheticHead, ClipNetwork, sha256

from .evaluation_tiny import ROUNDING

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
        value, layers = out.image_embeds.double(), load_file(head)
        for number in (0, 9, 18):
            weight, bias = layers[f"layers.{number}.weight"].double(), layers[f"layers.{number}.bias"].double()
            value = torch.nn.functional.linear(value, weight, bias)
    assert found == pytest.approx(float((out.image_embeds * out.text_embeds).sum()), abs=ROUNDING)
    assert aesthetic == pytest.approx(float(value), rel=ROUNDING)
    assert -1 <= found <= 1
    assert Scorer(str(clip)).score(CAPTION, frame) == (found, None)
    assert Scorer(str(clip)).score("something else", frame)[0] != found


def test_a_caption_longer_than_the_model_reads_is_cut(clip: Path) -> None:
    frame = np.zeros((40, 64, 3), np.uint8)
    scorer = Scorer(str(clip))
    assert scorer.score("x" * 500, frame) == scorer.score("x" * 900, frame)


@pytest.mark.parametrize("sizes", [(WIDTH, 1), (WIDTH, 4, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_heads_of_any_depth_with_and_without_bias(clip: Path, tmp_path: Path, sizes: tuple[int, ...], bias: bool) -> None:
    file = save_head(tmp_path / "h.safetensors", sizes, bias)
    expected, layers = torch.eye(WIDTH).double(), load_file(file)
    for number in range(len(sizes) - 1):
        given = layers[f"layers.{9 * number}.bias"].double() if bias else None
        expected = torch.nn.functional.linear(expected, layers[f"layers.{9 * number}.weight"].double(), given)
    assert AestheticHead(file, ClipNetwork(clip), WIDTH).scores(np.eye(WIDTH)) == pytest.approx(expected[:, 0].numpy())


def test_heads_that_cannot_be_used_are_refused(clip: Path, tmp_path: Path) -> None:
    network = ClipNetwork(clip)

    def refused(name: str, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            AestheticHead(tmp_path / f"{name}.safetensors", network, WIDTH)

    save_head(tmp_path / "wide.safetensors", (WIDTH + 1, 1))
    refused("wide", "expected vectors of 13, found 12 from .*; use the head that was made for this CLIP")
    for sizes in ((WIDTH, 2), (WIDTH, 4, 4)):
        save_head(tmp_path / "two.safetensors", sizes)
        refused("two", r"expected linear layers that end in one number, found layers\.0\.bias \(")
    save_file({"w": torch.zeros(1, WIDTH), "odd": torch.zeros(3)}, tmp_path / "odd.safetensors")
    refused("odd", r"found odd \(3,\), w \(1, 12\)")
    save_file({"a.weight": torch.zeros(3, WIDTH), "b.weight": torch.zeros(1, 4)}, tmp_path / "gap.safetensors")
    refused("gap", "expected linear layers")
    save_file({}, tmp_path / "empty.safetensors")
    refused("empty", "found nothing")
    save_file({"w": torch.zeros(1, WIDTH)}, tmp_path / "relu.safetensors", {"activation": "relu"})
    refused("relu", "found activation 'relu'")
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    refused("no", "expected a safetensors file")
    refused("nowhere", "found none")


def test_missing_models_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--clip FOLDER"):
        curate([str(tmp_path)], tmp_path / "out", Curation(aesthetic="head.safetensors"))
    with pytest.raises(ValueError, match=r"config\.json"):
        curate([str(tmp_path)], tmp_path / "out", Curation(clip=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_the_fingerprint_is_of_the_contents(clip: Path, tmp_path: Path) -> None:
    one, other = save_head(tmp_path / "a.safetensors"), save_head(tmp_path / "b.safetensors", (WIDTH, 1))
    assert (sha256(str(one)), len({sha256(str(path)) for path in (one, other, clip)})) == (sha256(str(one)), 3)

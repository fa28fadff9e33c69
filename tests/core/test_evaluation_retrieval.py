"""The retrieval baseline: by vectors and by words, against brute force, on stand-ins and on curated shards."""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from emu_core import media
from emu_core.cli import retrieve as command
from emu_core.data import table
from emu_core.data.files import TarWriter
from emu_core.evaluation import retrieval
from emu_core.evaluation.prompts import Prompt
from emu_core.evaluation.retrieval import caption_vectors, lexical_search, retrieve, search
from emu_core.networks import Provenance, Sentences, open_text_network
from emu_core.toy import shapes
from emu_core.toy.text import build_tokenizer

from .evaluation_tiny import ROUNDING, tiny_clip

CAPTIONS = ["a red fox runs in snow", "", "two cats sleep", "a fox", "rain on a window, slow motion", "cats and dogs"]


class Letters:
    """Counts of letters as a text's vector."""

    source = Provenance("letters", "ab" * 32, "counts")

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array([[text.count(chr(97 + i)) for i in range(26)] for text in texts], dtype=float)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True).clip(min=1e-9)


@dataclass
class Numbered:
    """Clips with these captions, whose bytes are their row."""

    told: Sequence[str]

    def captions(self) -> Iterator[Sequence[str]]:
        return iter(batches(self.told)())

    def caption_counts(self) -> np.ndarray:
        return np.ones(len(self.told), int)

    def all_captions(self, row: int) -> list[str]:
        return [self.told[row]]

    def read(self, row: int) -> bytes:
        return b"clip %d" % row


def batches(captions: Sequence[str], size: int = 4) -> retrieval.Captions:
    return lambda: (captions[start : start + size] for start in range(0, len(captions), size))


def test_search_is_brute_force_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    vectors, queries = generator.normal(size=(1000, 24)).astype("f2"), generator.normal(size=(7, 24))
    truth = (queries @ vectors.astype("f8").T).argmax(axis=1)
    for block in (1, 37, 1000, 5000):
        found, how = search(queries, vectors, block)
        assert [each.row for each in found] == truth.tolist()
    monkeypatch.setitem(sys.modules, "faiss", None)
    found, how = search(queries, vectors, 64)
    assert ([each.row for each in found], how) == (truth.tolist(), "matrix products, exact, in blocks")


def test_search_with_faiss_says_so_and_finds_the_same() -> None:
    pytest.importorskip("faiss")
    vectors = np.random.default_rng(0).normal(size=(500, 8)).astype("f2")
    found, how = search(vectors[[3, 400]].astype("f4"), vectors / np.linalg.norm(vectors, axis=1, keepdims=True).astype("f2"), 64)
    assert [each.row for each in found] == [3, 400]
    assert how.startswith("faiss")


def test_vectors_are_kept_and_those_of_another_network_refused(tmp_path: Path) -> None:
    letters, file = Letters(), tmp_path / "v.npy"
    captions = batches(CAPTIONS * 50)
    seen: list[int] = []
    caption_vectors(captions, letters, file, seen.append)
    assert sum(seen) == 300
    vectors = caption_vectors(captions, letters, file, lambda n: pytest.fail("made again"))
    assert isinstance(vectors, np.memmap)
    assert (vectors.shape, vectors.dtype) == ((300, 26), np.float16)
    assert np.allclose(vectors[300 - 6], letters.texts(CAPTIONS[:1])[0], atol=2**-11)  # kept in float16
    assert not vectors[1].any()  # nobody is near an empty caption
    other = Letters()
    other.source = Provenance("other", "cd" * 32, "")
    with pytest.raises(ValueError, match="expected the vectors of other, found those of letters"):
        caption_vectors(captions, other, file)
    with pytest.raises(ValueError, match="expected the vectors of these captions"):
        caption_vectors(batches(CAPTIONS[::-1] * 50), letters, file)


def test_words_are_compared_by_tf_idf() -> None:
    """Against the formula written out with dictionaries."""
    texts = ["the fox in the snow", "cats", "nothing of it"]
    tokens = [retrieval.words(caption) for caption in CAPTIONS]

    def weigh(text: str) -> dict[str, float]:
        found = retrieval.words(text)
        weights = {w: found.count(w) * (math.log(7 / (1 + sum(w in t for t in tokens))) + 1) for w in found}
        length = math.sqrt(sum(v * v for v in weights.values())) or 1
        return {w: v / length for w, v in weights.items()}

    truth = [[sum(v * weigh(c).get(w, 0) for w, v in weigh(text).items()) for c in CAPTIONS] for text in texts]
    found = lexical_search(texts, batches(CAPTIONS))
    assert [each.row for each in found[:2]] == [0, 2]
    assert [each.score for each in found] == pytest.approx([max(row) for row in truth])


def test_the_baseline_is_a_folder_of_videos_and_what_they_are(tmp_path: Path) -> None:
    prompts = [Prompt("x", "fox in the snow!"), Prompt("y", "sleeping cats")]
    said = retrieve(prompts, Numbered(CAPTIONS), tmp_path / "words")
    assert said["method"] == {"name": retrieval.LEXICAL}
    assert json.loads((tmp_path / "words" / "retrieval.json").read_text()) == said
    assert [entry["caption"] for entry in said["videos"]] == ["a red fox runs in snow", "two cats sleep"]
    assert (tmp_path / "words" / "000-fox-in-the-snow.mp4").read_bytes() == b"clip 0"
    said = retrieve(prompts, Numbered(CAPTIONS), tmp_path / "vectors", Letters(), tmp_path / "v.npy")
    assert said["method"]["sha256"] == "ab" * 32
    assert "exact" in said["method"]["search"]
    truth = (Letters().texts([p.text for p in prompts]) @ Letters().texts(CAPTIONS).T).argmax(axis=1)
    assert [entry["row"] for entry in said["videos"]] == truth.tolist()
    again = retrieve(prompts, Numbered(["other"]), tmp_path / "vectors", Letters(), tmp_path / "w.npy")
    assert {entry["row"] for entry in again["videos"]} == {0}
    assert sorted(path.name for path in (tmp_path / "vectors").iterdir()) == [
        ".emu-video-files.json", "000-fox-in-the-snow.mp4", "001-sleeping-cats.mp4", "retrieval.json",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="caption the clips first"):
        retrieve(prompts, Numbered([]), tmp_path / "none")


def test_a_sentence_network_is_the_mean_of_its_words(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=20, **shape)).eval()
    model.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    network = open_text_network(str(tmp_path / "bert"))
    assert isinstance(network, Sentences)
    texts = ["a big red circle", "a small blue square moves slowly left on a white background"]
    found = network.texts(texts)
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        assert np.allclose(vector, torch.nn.functional.normalize(states, dim=0).numpy(), atol=ROUNDING)
    assert not isinstance(open_text_network(str(tiny_clip(tmp_path / "clip"))), Sentences)
    with pytest.raises(ValueError, match=r"config\.json"):
        open_text_network(str(tmp_path))


def test_retrieve_from_curated_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = shapes.clips(5, range(6))
    videos = [((v + 1) / 2).permute(0, 2, 3, 1) for v in shapes.render(clips, torch.arange(4) / 4)]
    folder = tmp_path / "shards"
    (folder / table.PARTS).mkdir(parents=True)
    rows = []
    with open(folder / table.shard_name(0), "wb") as file:
        tar = TarWriter(file)
        for number, (clip, video) in enumerate(zip(clips, videos, strict=True)):
            media.write_video(tmp_path / "v.mp4", video, 4.0)
            about = {"caption": clip.caption} | ({"captions": [clip.caption, "zebras"]} if number == 2 else {})
            data, told = (tmp_path / "v.mp4").read_bytes(), json.dumps(about).encode()
            places = {}
            for kind, suffix, content in (("video", "mp4", data), ("json", "json", told)):
                places[f"{kind}_offset"] = tar.add(f"{number:06d}.{suffix}", io.BytesIO(content), len(content))
                places[f"{kind}_size"] = len(content)
            rows.append({"key": f"{number:06d}", "shard": 0, **about, **places})
        tar.close()
    table.write_table(table.part_path(folder, 0), rows)
    table.merge(folder)
    (tmp_path / "p.txt").write_text("\n".join([*(clip.caption for clip in reversed(clips)), "zebras"]))
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    given = ["--prompts", str(tmp_path / "p.txt"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    command.retrieve(parser.parse_args(["retrieve", str(folder), *given]))
    assert "by lexical" in capsys.readouterr().out
    said = json.loads((tmp_path / "out" / "retrieval.json").read_text())
    assert [entry["row"] for entry in said["videos"]] == [5, 4, 3, 2, 1, 0, 2]
    assert [entry["caption"] for entry in said["videos"]] == [clip.caption for clip in reversed(clips)] + ["zebras"]
    assert len(media.read_video(tmp_path / "out" / said["videos"][0]["file"]).frames) == 4
    network = ["--text-network", str(tiny_clip(tmp_path / "clip")), "--vectors", str(tmp_path / "v.npy")]
    command.retrieve(parser.parse_args(["retrieve", str(folder), *given, *network]))
    said = json.loads((tmp_path / "out" / "retrieval.json").read_text())
    assert said["videos"][0]["score"] == pytest.approx(1, abs=2**-10)  # the clip's vector is kept in float16
    (folder / table.TABLE).unlink()
    with pytest.raises(ValueError, match="emu-video curate made"):
        command.retrieve(parser.parse_args(["retrieve", str(folder), *given]))

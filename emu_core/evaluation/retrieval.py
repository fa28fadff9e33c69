"""The retrieval baseline: for each prompt the training clip whose caption is nearest to it.

Emu Video uses the CLIP similarity of texts. Captions come from the table beside the shards, a batch at a time; their vectors go
into a memory-mapped float16 file, and every prompt is compared with every one of them (exact, in blocks). Nothing that is held
grows with the number of captions, so that 10^7 of them need disk, not memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ..data.files import mapped
from ..data.shards import Shards
from ..errors import UserError, of_one_item
from ..limits import json_of
from ..media.files import whole_file, write_text
from ..networks import TextVectors
from .names import check_free, check_written, claim
from .prompts import Prompt, file_stems

logger = logging.getLogger(__name__)

TEXTS = 64  # that go through the network at once
BLOCK = 16_384  # vectors compared at a time
BUCKETS = 1 << 20  # of hashed words
REPORT = "retrieval.json"
LEXICAL = "lexical: cosine of TF-IDF words, since no text network was given"

Captions = Callable[[], Iterable[Sequence[str]]]
"""Gives all captions, those of a clip behind each other, in the order of their rows, in batches, each time it is called."""
Progress = Callable[[int], object]
"""Told how many captions were done."""


@dataclass(frozen=True)
class Nearest:
    """The row whose caption is nearest to a prompt (in a search, the place of the caption), and the cosine of the two."""

    row: int
    score: float


Block = tuple[NDArray[Any], NDArray[Any], int]
"""Each query's greatest product with the captions of a block, the place of that one in it, and how many captions it has."""


def _nearest(count: int, blocks: Iterable[Block]) -> list[Nearest]:
    """For each of `count` queries the best row of all blocks; -1 where there are none."""
    rows, scores, start = np.full(count, -1, dtype=np.int64), np.full(count, -np.inf), 0
    for values, places, size in blocks:
        better = values > scores
        rows[better], scores[better] = start + places[better], values[better]
        start += size
    return [Nearest(int(row), float(score)) for row, score in zip(rows, scores, strict=True)]


def _block(products: NDArray[Any]) -> Block:
    places = products.argmax(axis=1)
    return products[np.arange(len(products)), places], places, products.shape[1]


# -- by vectors


def caption_vectors(
    captions: Captions, network: TextVectors, file: Path, progress: Progress = lambda n: None
) -> NDArray[np.float16]:
    """Vectors of all captions, (n, d) float16, memory-mapped: those kept in `file`, a .npy, or made now and kept there, whole or
    not at all; `progress` is told how many captions were done. An empty caption has zeros.

    Beside it FILE.json says of which network they are. Raises ValueError for vectors of another network or other captions.
    """
    about = file.with_name(f"{file.name}.json")
    if not file.is_file():
        header: dict[str, Any] = {"descr": "<f2", "fortran_order": False}
        total, size = 0, network.texts(["a"]).shape[1]
        with whole_file(file) as part:
            with open(part, "wb") as out:
                np.lib.format.write_array_header_1_0(out, {**header, "shape": (total, size)})
                for batch in captions():
                    for first in range(0, len(batch), TEXTS):
                        texts = batch[first : first + TEXTS]
                        vectors = network.texts([text or " " for text in texts]).astype("<f2")
                        vectors[[not text.strip() for text in texts]] = 0
                        out.write(vectors.tobytes())
                    total += len(batch)
                    progress(len(batch))
                out.seek(0)
                np.lib.format.write_array_header_1_0(out, {**header, "shape": (total, size)})  # numpy leaves room for any count
            facts = {"captions": total, "captions_sha256": _digest(captions), **network.source.facts()}
            write_text(about, json.dumps(facts))
        return np.load(file, mmap_mode="r")
    try:
        facts, found = json_of(about.read_bytes()), mapped(file)
        if not isinstance(facts, dict) or found.ndim != 2 or found.dtype != np.float16:
            raise UserError(f"{found.dtype} of shape {found.shape}")
    except (OSError, ValueError) as problem:
        raise UserError(f"{file}: expected vectors of `emu-video retrieve`, found others ({problem}); delete it") from problem
    if facts.get("sha256") != network.source.sha256:
        wanted, other = network.source.name, facts.get("name")
        raise UserError(f"{file}: expected the vectors of {wanted}, found those of {other}; delete or rename it")
    if facts.get("captions") != len(found) or facts.get("captions_sha256") != _digest(captions):
        raise UserError(f"{file}: expected the vectors of these captions, found those of others; delete it or name another")
    return found


def _digest(captions: Captions) -> str:
    digest = hashlib.sha256()
    for batch in captions():
        digest.update("".join(f"{caption}\n" for caption in batch).encode())
    return digest.hexdigest()


def search(queries: NDArray[np.floating[Any]], vectors: NDArray[np.float16], block: int = BLOCK) -> tuple[list[Nearest], str]:
    """For each query (q, d) the vector (n, d) with the greatest inner product, and by what it was found.

    Exact. With faiss, its brute-force search of each block; else matrix products. One block is in memory at a time.
    """
    try:
        import faiss  # optional: faster
    except ImportError:
        faiss = None
    wanted = np.ascontiguousarray(queries, dtype=np.float32)

    def blocks() -> Iterator[Block]:
        for start in range(0, len(vectors), block):
            part = np.asarray(vectors[start : start + block], dtype=np.float32)
            if faiss is None:
                yield _block(wanted @ part.T)
            else:
                values, places = faiss.knn(wanted, part, 1, metric=faiss.METRIC_INNER_PRODUCT)
                yield values[:, 0], places[:, 0], len(part)

    return _nearest(len(wanted), blocks()), f"{'matrix products' if faiss is None else 'faiss'}, exact, in blocks"


# -- by words


def words(text: str) -> list[str]:
    """Letters and digits in a row, lower-case."""
    return re.findall(r"[^\W_]+", text.lower())


def _buckets(text: str) -> NDArray[np.int64]:
    return np.fromiter((zlib.crc32(word.encode()) % BUCKETS for word in words(text)), dtype=np.int64)


def lexical_search(texts: Sequence[str], captions: Captions, progress: Progress = lambda n: None) -> list[Nearest]:
    """By cosine of TF-IDF: counts of words times ln((1 + n) / (1 + captions with the word)) + 1. Reads all captions twice."""
    seen, total = np.zeros(BUCKETS, dtype=np.int64), 0
    for batch in captions():
        for caption in batch:
            seen[np.unique(_buckets(caption))] += 1
        total += len(batch)
        progress(len(batch))
    weights = np.log((1 + total) / (1 + seen)) + 1
    queries = _tf_idf(texts, weights)

    def blocks() -> Iterator[Block]:
        for batch in captions():
            yield _block((queries @ _tf_idf(batch, weights).T).toarray())
            progress(len(batch))

    return _nearest(len(texts), blocks())


def _tf_idf(texts: Sequence[str], weights: NDArray[np.float64]) -> Any:
    """(n, BUCKETS) sparse, rows of length 1 (0 for a text without words)."""
    columns = [_buckets(text) for text in texts]
    places = np.concatenate([np.zeros(0, dtype=np.int64), *columns])
    pointers = np.concatenate([[0], np.cumsum([len(each) for each in columns])])
    matrix = csr_matrix((weights[places], places, pointers), shape=(len(texts), BUCKETS))
    matrix.sum_duplicates()
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix.data /= np.repeat(np.where(lengths > 0, lengths, 1.0), np.diff(matrix.indptr))
    return matrix


# -- the baseline


def _nearest_captions(
    prompts: Sequence[Prompt], clips: Shards, out: Path, network: TextVectors | None, vectors: Path | None, progress: Progress
) -> tuple[list[Nearest], dict[str, Any]]:
    """The caption that is nearest to each prompt, and how it was found; vectors that are not to be kept are in OUT meanwhile."""
    texts = [prompt.text for prompt in prompts]
    if network is None:
        found = lexical_search(texts, clips.captions, progress)
        if alone := [prompt.id for prompt, each in zip(prompts, found, strict=True) if each.score <= 0]:
            logger.warning("%d prompts share no word with any caption (score 0), such as %s", len(alone), alone[0])
        return found, {"name": LEXICAL}
    queries = np.concatenate([network.texts(texts[i : i + TEXTS]) for i in range(0, len(texts), TEXTS)])
    with tempfile.TemporaryDirectory(dir=out, prefix=".vectors-") as folder:
        known = caption_vectors(clips.captions, network, vectors or Path(folder) / "captions.npy", progress)
        found, how = search(queries, known)
        del known  # closed before the file goes
    return found, {"name": f"cosine of text vectors of {network.source.name}", "search": how, **network.source.facts()}


def retrieve(
    prompts: Sequence[Prompt],
    clips: Shards,
    out: Path,
    network: TextVectors | None = None,
    vectors: Path | None = None,
    progress: Progress = lambda n: None,
) -> dict[str, Any]:
    """Write OUT/NNN-slug.mp4, the nearest clip of each prompt, and OUT/retrieval.json; returns what that says.

    network: None for the lexical way, which is named as such. vectors: .npy in which the captions' vectors are kept for the next
    time. Raises ValueError for an OUT that is a file, a file in it that an earlier run did not write, vectors of other data, or
    no captions at all.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder for the videos, found a file; choose another name")
    names = [f"{stem}.mp4" for stem in file_stems(prompts)]
    check_free(out, names, [REPORT])
    out.mkdir(parents=True, exist_ok=True)
    found, method = _nearest_captions(prompts, clips, out, network, vectors, progress)
    if any(each.row < 0 for each in found):
        raise UserError("expected clips with captions, found none; caption the clips first")
    ends = np.cumsum(clips.caption_counts())  # a clip may have several, each of which is compared
    entries: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    claim(out, names, [REPORT])
    for name, prompt, each in zip(names, prompts, found, strict=True):
        row = int(np.searchsorted(ends, each.row, side="right"))
        try:
            video, caption = clips.read(row), clips.all_captions(row)[each.row - ends[row]]
        except Exception as problem:
            left_out.append({"id": prompt.id, "prompt": prompt.text, "row": row, "why": of_one_item(problem)})
            continue
        with whole_file(out / name) as part:
            part.write_bytes(video)
        about = {"id": prompt.id, "prompt": prompt.text, "file": name, "caption": caption}
        entries.append({**about, **asdict(Nearest(row, each.score))})
    if left_out and not entries:
        raise UserError(f"expected clips that can be read, found none: {left_out[0]['why']}")
    check_written(out, [each["file"] for each in entries])
    result: dict[str, Any] = {"format": 1, "method": method, "videos": entries, "left_out": left_out}
    write_text(out / REPORT, json.dumps(result, indent=1, ensure_ascii=False))
    return result

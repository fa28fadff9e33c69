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
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..media.files import whole_file, write_text
from ..networks import TextVectors
from .prompts import Prompt, file_stem

logger = logging.getLogger(__name__)

BATCH = 4096  # captions read at a time
TEXTS = 64  # of which so many go through the network at once
BLOCK = 16_384  # vectors compared at a time
BUCKETS = 1 << 20  # of hashed words
TABLE = "clips.parquet"
REPORT = "retrieval.json"
LEXICAL = "lexical: cosine of TF-IDF words, since no text network was given"

Captions = Callable[[], Iterable[Sequence[str]]]
"""Gives all captions in the order of their rows, in batches, each time it is called."""
Progress = Callable[[int], object]
"""Told how many captions were done."""


class Clips(Protocol):
    """Where the clips' bytes come from: `data.shards.Shards`."""

    def read(self, row: int) -> bytes:
        """The video file of a row."""


@dataclass(frozen=True)
class Nearest:
    """The row whose caption is nearest to a prompt, and the cosine of the two."""

    row: int
    score: float


class _Best:
    """The nearest row of each query so far, as blocks of rows come in turn."""

    def __init__(self, queries: int) -> None:
        self._rows, self._scores, self._start = np.full(queries, -1), np.full(queries, -np.inf), 0

    def take(self, products: NDArray[Any]) -> None:
        """Of a whole block (queries, rows)."""
        places = products.argmax(axis=1)
        self.take_best(products[np.arange(len(products)), places], places, products.shape[1])

    def take_best(self, values: NDArray[Any], places: NDArray[Any], rows: int) -> None:
        """The best of a block of so many rows."""
        better = values > self._scores
        self._rows[better], self._scores[better] = self._start + places[better], values[better]
        self._start += rows

    def found(self) -> list[Nearest]:
        """Row -1 where there were none."""
        return [Nearest(int(row), float(score)) for row, score in zip(self._rows, self._scores, strict=True)]


# -- captions


def captions_of(address: str) -> Captions:
    """The captions of curated shards, from their table. Raises ValueError where there is none."""
    try:
        from pyarrow import parquet  # of the extra `data` alone
    except ImportError as problem:
        raise ValueError(f"{address}: expected the package pyarrow to read {TABLE}, found none; pip install pyarrow") from problem

    def batches() -> Iterator[Sequence[str]]:
        with _table(address) as file:
            for batch in parquet.ParquetFile(file).iter_batches(BATCH, columns=["caption"]):
                yield [text or "" for text in batch.column(0).to_pylist()]

    with _table(address) as file:
        names = parquet.read_schema(file).names
    if "caption" not in names:
        raise ValueError(f"{address}/{TABLE}: expected a column `caption`, found {', '.join(names)}; run curate again")
    return batches


def _table(address: str) -> Any:
    if "://" in address:
        from fsspec.core import open as open_remote  # of the extra `data` alone

        return open_remote(f"{address.rstrip('/')}/{TABLE}", "rb")
    path = Path(address) / TABLE
    if not path.is_file():
        raise ValueError(f"{address}: expected a folder that emu-video curate made, found no {TABLE} in it; check the address")
    return open(path, "rb")


# -- by vectors


def write_vectors(captions: Captions, network: TextVectors, file: Path, progress: Progress = lambda n: None) -> int:
    """Vectors of all captions, (n, d) float16, as .npy; returns n. An empty caption gets zeros. Whole or not at all.

    Beside it FILE.json says which network they are of.
    """
    size = network.texts(["a"]).shape[1]
    total, digest = 0, hashlib.sha256()
    with whole_file(file) as part:
        with open(part, "wb") as out:
            header = {"descr": "<f2", "fortran_order": False, "shape": (10**12, size)}  # room for the count, filled in below
            np.lib.format.write_array_header_1_0(out, header)
            start = out.tell()
            for batch in captions():
                for texts in _pieces(batch):
                    vectors = network.texts([text or " " for text in texts]).astype("<f2")
                    vectors[[not text.strip() for text in texts]] = 0
                    out.write(vectors.tobytes())
                _take(digest, batch)
                total += len(batch)
                progress(len(batch))
            out.seek(0)
            np.lib.format.write_array_header_1_0(out, {**header, "shape": (total, size)})
            assert out.tell() == start, "the header of a .npy file changed its length"
        facts = {"captions": total, "captions_sha256": digest.hexdigest(), **network.source.facts()}
        write_text(_facts_file(file), json.dumps(facts))
    return total


def _pieces(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS))


def _facts_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _take(digest: Any, batch: Sequence[str]) -> None:
    digest.update("".join(f"{caption}\n" for caption in batch).encode())


def read_vectors(file: Path, network: TextVectors, captions: Captions) -> NDArray[np.float16] | None:
    """Memory-mapped (n, d); None if there are none yet. Raises ValueError for vectors of another network or other captions."""
    if not file.is_file():
        return None
    try:
        facts = json.loads(_facts_file(file).read_text(encoding="utf-8"))
        vectors = np.load(file, mmap_mode="r")
    except (OSError, ValueError) as problem:
        raise ValueError(f"{file}: expected vectors of `emu-video retrieve`, found others ({problem}); delete it") from problem
    if facts.get("sha256") != network.source.sha256:
        wanted, found = network.source.name, facts.get("name")
        raise ValueError(f"{file}: expected the vectors of {wanted}, found those of {found}; delete or rename it")
    digest = hashlib.sha256()
    for batch in captions():
        _take(digest, batch)
    if facts.get("captions") != len(vectors) or facts.get("captions_sha256") != digest.hexdigest():
        raise ValueError(f"{file}: expected the vectors of these captions, found those of others; delete it or name another")
    return vectors


def search(queries: NDArray[np.floating[Any]], vectors: NDArray[np.float16], block: int = BLOCK) -> tuple[list[Nearest], str]:
    """For each query (q, d) the vector (n, d) with the greatest inner product, and by what it was found.

    Exact. With faiss, its brute-force search of each block; else matrix products. One block is in memory at a time.
    """
    try:
        import faiss  # optional: faster
    except ImportError:
        faiss = None
    wanted, best = np.ascontiguousarray(queries, dtype=np.float32), _Best(len(queries))
    for start in range(0, len(vectors), block):
        part = np.asarray(vectors[start : start + block], dtype=np.float32)
        if faiss is None:
            best.take(wanted @ part.T)
        else:
            values, places = faiss.knn(wanted, part, 1, metric=faiss.METRIC_INNER_PRODUCT)
            best.take_best(values[:, 0], places[:, 0], len(part))
    return best.found(), f"{'matrix products' if faiss is None else 'faiss'}, exact, in blocks"


# -- by words


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits."""
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
    queries, best = _tf_idf(texts, weights), _Best(len(texts))
    for batch in captions():
        best.take((queries @ _tf_idf(batch, weights).T).toarray())
        progress(len(batch))
    return best.found()


def _tf_idf(texts: Sequence[str], weights: NDArray[np.float64]) -> Any:
    """(n, BUCKETS) sparse, rows of length 1 (0 for a text without words)."""
    from scipy.sparse import csr_matrix  # a tenth of a second

    columns = [_buckets(text) for text in texts]
    pointers = np.concatenate([[0], np.cumsum([len(each) for each in columns])])
    places = np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)
    matrix = csr_matrix((weights[places], places, pointers), shape=(len(texts), BUCKETS))
    matrix.sum_duplicates()
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix.data /= np.repeat(np.where(lengths > 0, lengths, 1.0), np.diff(matrix.indptr))
    return matrix


# -- the baseline


def retrieve(
    prompts: Sequence[Prompt],
    captions: Captions,
    clips: Clips,
    out: Path,
    network: TextVectors | None = None,
    vectors: Path | None = None,
    progress: Progress = lambda n: None,
) -> dict[str, Any]:
    """Write OUT/NNN-slug.mp4, the nearest clip of each prompt, and OUT/retrieval.json; returns what that says.

    network: None for the lexical way, which is named as such. vectors: .npy in which the captions' vectors are kept for the next
    time. Raises ValueError for an OUT that is a file, vectors of other data, or no captions at all.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: expected a folder for the videos, found a file; choose another name")
    out.mkdir(parents=True, exist_ok=True)
    texts = [prompt.text for prompt in prompts]
    if network is None:
        found, method = lexical_search(texts, captions, progress), {"name": LEXICAL}
        if alone := [prompt.id for prompt, each in zip(prompts, found, strict=True) if each.score <= 0]:
            logger.warning("%d prompts share no word with any caption (score 0), such as %s", len(alone), alone[0])
    else:
        with tempfile.TemporaryDirectory(dir=out, prefix=".vectors-") as folder:
            file = vectors or Path(folder) / "captions.npy"
            found, how = _by_vectors(texts, captions, network, file, progress)
        method = {"name": f"cosine of text vectors of {network.source.name}", "search": how, **network.source.facts()}
    if any(each.row < 0 for each in found):
        raise ValueError("expected clips with captions, found none; caption the clips first")
    told = _captions_at({each.row for each in found}, captions)
    entries = []
    for number, (prompt, each) in enumerate(zip(prompts, found, strict=True)):
        name = f"{file_stem(number, prompt.text)}.mp4"
        with whole_file(out / name) as part:
            part.write_bytes(clips.read(each.row))
        entries.append({"id": prompt.id, "prompt": prompt.text, "file": name, "caption": told[each.row], **asdict(each)})
    result: dict[str, Any] = {"format": 1, "method": method, "videos": entries}
    write_text(out / REPORT, json.dumps(result, indent=1, ensure_ascii=False))
    return result


def _by_vectors(
    texts: Sequence[str], captions: Captions, network: TextVectors, file: Path, progress: Progress
) -> tuple[list[Nearest], str]:
    """The vectors in the file, made if there are none, are closed again before this returns, so that the file may go."""
    queries = np.concatenate([network.texts(piece) for piece in _pieces(texts)])
    vectors = read_vectors(file, network, captions)
    if vectors is None:
        write_vectors(captions, network, file, progress)
        vectors = np.load(file, mmap_mode="r")
    return search(queries, vectors)


def _captions_at(rows: set[int], captions: Captions) -> dict[int, str]:
    told: dict[int, str] = {}
    start = 0
    for batch in captions():
        told |= {row: batch[row - start] for row in rows if start <= row < start + len(batch)}
        start += len(batch)
        if len(told) == len(rows):
            break
    return told

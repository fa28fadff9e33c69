"""Tokenizers: finding one, loading it, numbering prompts."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..errors import UserError
from .checks import read_json

logger = logging.getLogger(__name__)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer in either form."""
    return (folder / "tokenizer.json").is_file() or ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file())


def find_clip_tokenizer(tokenizer: str | Path | None, needed_by: Path) -> Path:
    """The folder of CLIP's vocabulary for a model file, which brings none.

    `tokenizer` may be that folder, a diffusers folder or a ComfyUI installation. Without it: the installation named by
    the environment variable COMFYUI_PATH, else ~/comfy/ComfyUI.
    """
    usual = [place for place in (os.environ.get("COMFYUI_PATH"), "~/comfy/ComfyUI") if place]
    places = [Path(os.path.expanduser(place)) for place in (usual if tokenizer is None else [tokenizer])]
    for place in places:
        for folder in (place, place / "tokenizer", place / "comfy" / "sd1_tokenizer"):
            if has_tokenizer(folder):
                return folder
    raise UserError(
        f"{needed_by}: expected CLIP's tokenizer, which a model file lacks, found none in {' and '.join(map(str, places))}:"
        " pass tokenizer= a folder with vocab.json and merges.txt (or tokenizer.json), a diffusers folder, or a ComfyUI folder"
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder` with all its settings."""
    config_file = folder / "tokenizer_config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    is_clip = "CLIP" in str(config.get("tokenizer_class", "")) or not (folder / "tokenizer.json").is_file()
    cls = CLIPTokenizer if is_clip else PreTrainedTokenizerFast
    tokenizer = cls.from_pretrained(str(folder), local_files_only=True)
    if tokenizer.pad_token is None:
        raise UserError(f"{folder}: expected a tokenizer with a padding token, found none: name one in tokenizer_config.json")
    return tokenizer


def load_clip_vocabulary(folder: Path, open_clip: bool) -> CLIPTokenizer:
    """CLIP's tokenizer, or OpenCLIP's, which pads with zeros, from the vocabulary in `folder` alone.

    The settings beside it may be those of OpenCLIP, whose "!" is a special token, or of ComfyUI, which bounds nothing.
    """
    pad_token = "!" if open_clip else "<|endoftext|>"
    if (folder / "vocab.json").is_file():
        vocab, merges = str(folder / "vocab.json"), str(folder / "merges.txt")
        return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad_token, name_or_path=str(folder))
    model = read_json(folder / "tokenizer.json").get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind != "BPE":
        what = "CLIP's vocabulary of byte pairs"
        raise UserError(f"{folder}: expected {what}, found one of kind {kind}: pass CLIP's own folder as tokenizer=")
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]  # both ways are in use
    return CLIPTokenizer(vocab=model["vocab"], merges=pairs, pad_token=pad_token, name_or_path=str(folder))  # type: ignore[arg-type]


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, exact: bool, what: str) -> None:
    """The text encoder's table needs a row for every token; `exact`: and none more, for a tokenizer from elsewhere."""
    found = len(tokenizer)
    if found > rows or (exact and found != rows):
        raise UserError(
            f"{what}: expected a tokenizer of {rows} tokens, as the text encoder's table has rows, found {found} in"
            f" {tokenizer.name_or_path}: use the tokenizer that belongs to this model"
        )
    if (added := len(tokenizer("").input_ids)) != 2:
        wanted = "a tokenizer that puts a start and an end around a text"
        raise UserError(
            f"{what}: expected {wanted}, found {added} tokens around one: use the tokenizer that belongs to this model"
        )


@lru_cache(maxsize=4)
def reader(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    """What numbers a text, with its start and end. OpenCLIP pads with the number of "!"; for diffusers that makes every "!" of a
    text padding, where OpenCLIP itself and ComfyUI read it as the sign that it is, and so does this."""
    named = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    if tokenizer.pad_token in named or not isinstance(tokenizer.backend_tokenizer.model, BPE):
        return lambda text: tokenizer(text, verbose=False).input_ids
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings["added_tokens"] = [each for each in settings["added_tokens"] if each["content"] != tokenizer.pad_token]
    plain = Tokenizer.from_str(json.dumps(settings | {"padding": None, "truncation": None}))
    return lambda text: plain.encode(text).ids


def length(tokenizer: PreTrainedTokenizerBase, most: int) -> int:
    """How many tokens a text encoder of `most` positions reads at once: all, or fewer where the tokenizer says so."""
    return min(most, tokenizer.model_max_length)


def token_ids(tokenizer: PreTrainedTokenizerBase, prompts: list[str], length: int) -> Tensor:
    """(b, length) token numbers, padded and cut."""
    for prompt, ids in zip(prompts, tokenizer(prompts, verbose=False).input_ids, strict=True):
        if len(ids) > length:
            logger.warning("the model reads %d tokens; of these %d the end is cut off: %r", length, len(ids), prompt)
    return tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids

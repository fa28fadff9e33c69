"""The tiny model's vocabulary and text encoder, in CLIP's layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from . import shapes

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unknown>"
MAX_TOKENS, WIDTH = 20, 128


def build_tokenizer(vocabulary: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One token a word of the world; padded to MAX_TOKENS with start and end as CLIP has them."""
    words = [PAD, START, END, UNKNOWN, *(vocabulary or shapes.vocabulary())]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation("removed"), pre_tokenizers.WhitespaceSplit()])
    tokenizer.post_processor = processors.TemplateProcessing(f"{START} $A {END}", None, [(START, 1), (END, 2)])
    special: Any = {"pad_token": PAD, "bos_token": START, "eos_token": END, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, model_max_length=MAX_TOKENS)


def build_text_encoder(vocabulary_size: int) -> CLIPTextModel:
    """A small text encoder with fresh weights."""
    sizes: Any = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens: Any = {"max_position_embeddings": MAX_TOKENS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return CLIPTextModel(CLIPTextConfig(vocab_size=vocabulary_size, hidden_act="quick_gelu", **sizes, **tokens))


def token_ids(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> torch.Tensor:
    """(n, MAX_TOKENS) int64."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids

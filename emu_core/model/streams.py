"""Random streams: each use of a seed has numbers of its own.

What a user's seed itself starts is the noise that a video begins with, as everywhere in ComfyUI; whatever else is drawn takes a
seed that is derived from it.
"""

from __future__ import annotations

import hashlib

import torch


def derived(seed: int, *use: str | int) -> int:
    """The seed of one use of `seed`, such as ("augmentation", 2): 63 bits of a hash, so that no two uses share a stream."""
    words = " ".join(map(str, (seed % 2**64, *use)))
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little") >> 1


def stream(seed: int, *use: str | int) -> torch.Generator:
    """A generator on the CPU: of the seed itself, or of one use of it."""
    return torch.Generator().manual_seed(derived(seed, *use) if use else seed % 2**64)

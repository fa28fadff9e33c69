"""Small stand-ins for evaluation: networks of random weights in the real layouts, a network of given vectors, toy videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from emu_core import media
from emu_core.evaluation.prompts import Prompt, file_stem
from emu_core.networks import Provenance
from emu_core.toy import shapes

ROUNDING = 1e-5
"""Of a unit vector, or a mean of values within 1, that a float32 network of a few layers gives: some eighty roundings of 2^-23,
whatever the kernels and what else is in the batch."""


def tiny_clip(folder: Path, seed: int = 0, projection: int = 16) -> Path:
    """A transformers CLIP of a few thousand random weights, with the toy world's words."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    from emu_core.toy.text import build_tokenizer

    tokenizer = build_tokenizer()
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**shape, "vocab_size": len(tokenizer), "max_position_embeddings": 20, "pad_token_id": 0, "bos_token_id": 1}
    vision = {**shape, "image_size": 32, "patch_size": 8}
    torch.manual_seed(seed)
    config = CLIPConfig(text_config={**text, "eos_token_id": 2}, vision_config=vision, projection_dim=projection)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass
class Given:
    """An image-text network that answers with prescribed vectors: a frame's first pixel says which."""

    vectors: np.ndarray
    prompts: dict[str, np.ndarray] = field(default_factory=dict)
    source: Provenance = Provenance("given", "0" * 64, "none")

    def prepare(self, frame: np.ndarray) -> Tensor:
        return torch.tensor(int(frame[0, 0, 0]))

    def images(self, prepared: Sequence[Tensor]) -> np.ndarray:
        return self.vectors[[int(value) for value in prepared]]

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self.prompts[text] for text in texts])


class VideoNet(nn.Module):
    """(n, 3, t, h, w) -> (n, 6), with the flags that I3D's file has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(3 * 4 * 4 * 4, 6)

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        if rescale or resize:
            raise RuntimeError("the frames are ready as they are")
        return self.layer(nn.functional.adaptive_avg_pool3d(x, [4, 4, 4]).flatten(1))


class FrameNet(nn.Module):
    """(n, 3, h, w) -> features (n, 5) and logits (n, 7)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.features, self.classes = nn.Linear(3 * 4 * 4, 5), nn.Linear(5, 7)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(nn.functional.adaptive_avg_pool2d(x, [4, 4]).flatten(1))
        return features, self.classes(features)


def script(network: nn.Module, file: Path) -> Path:
    torch.jit.script(network.eval()).save(str(file))
    return file


def toy_video(prompt: Prompt, seed: int, frames: int = 8, fps: float = 4.0) -> Tensor:
    """What a prompt of the toy world shows: (frames, 64, 64, 3) 0..1."""
    clip = shapes.read_caption(prompt.text)
    assert clip is not None
    start = (22 + 20 * torch.rand(2, generator=torch.Generator().manual_seed(seed))).tolist()
    images = shapes.render([replace(clip, start=(start[0], start[1]))], torch.arange(frames) / fps)
    return (images[0].permute(0, 2, 3, 1) + 1) / 2


def toy_systems(folder: Path, prompts: Sequence[Prompt]) -> tuple[Path, list[str]]:
    """Three systems of which the order is known, and the conditioning images: real renders; their frames shuffled; noise."""
    names = ["real", "shuffled", "noise"]
    for name in (*names, "images"):
        (folder / name).mkdir(parents=True)
    for number, prompt in enumerate(prompts):
        stem, random = file_stem(number, prompt.text), torch.Generator().manual_seed(number)
        video = toy_video(prompt, number)
        order = torch.randperm(len(video), generator=random)
        media.write_image(folder / "images" / f"{stem}.png", video[0])
        versions = (video, video[order], torch.rand(video.shape, generator=random))
        for name, version in zip(names, versions, strict=True):
            media.write_video(folder / name / f"{stem}.mp4", version, 4.0, {"prompt": prompt.text})
    return folder / "images", [str(folder / name) for name in names]

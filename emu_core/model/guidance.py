"""Guidance by image and by text: X = X(none) + w_i (X(I) - X(none)) + w_p (X(I,p) - X(I)) (Emu Video, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Call:
    """One evaluation of the network: with or without image and text, and its weight in the sum."""

    image: bool
    text: bool
    weight: float


def calls(image_guidance: float, text_guidance: float, has_image: bool = True, has_text: bool = True) -> list[Call]:
    """The evaluations that a step needs: none whose weight is zero, none twice.

    Without an image X(I) is X(none), without text X(I,p) is X(I), and their weights are added up. The weights sum to 1.
    """
    # what is not there pulls nowhere; so weights that cancel do so exactly, and a call that stands alone has weight 1
    image_guidance = image_guidance if has_image else 0.0
    text_guidance = text_guidance if has_text else 0.0
    weights = {(False, False): 1.0 - image_guidance, (True, False): image_guidance - text_guidance, (True, True): text_guidance}
    merged: dict[tuple[bool, bool], float] = {}
    for (image, text), weight in weights.items():
        key = (image and has_image, text and has_text)
        merged[key] = merged.get(key, 0.0) + weight
    return [Call(*key, weight) for key, weight in merged.items() if weight != 0.0]


def combine(outputs: Sequence[torch.Tensor], weights: Sequence[float], rescale: float = 0.0) -> torch.Tensor:
    """Weighted sum of outputs (b, f, c, h, w), the fullest conditioned one last.

    `rescale` 0..1 draws the result's standard deviation towards that of the last (Lin et al., arXiv 2305.08891, section 3.4).
    """
    if len(outputs) == 1 and weights[0] == 1.0:
        return outputs[0]
    result = sum((w * x for w, x in zip(weights, outputs, strict=True)), torch.zeros_like(outputs[0]))
    if rescale:
        dims = tuple(range(1, result.dim()))
        same_size = result * (outputs[-1].std(dims, keepdim=True) / result.std(dims, keepdim=True))
        result = torch.lerp(result, same_size, rescale)
    return result


@dataclass(frozen=True)
class GuidedDenoiser:
    """What a sampler calls: (noisy latents, timestep ()) -> the guided output, of the same shape, in float32.

    `network(noisy, t, call)` is one evaluation of the network with the image and the text that `call` says. The evaluations run
    one after the other: a single one already fills the device with all its frames.
    """

    network: Callable[[torch.Tensor, torch.Tensor, Call], torch.Tensor]
    plan: Sequence[Call]
    rescale: float = 0.0

    def __call__(self, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        outputs = [self.network(noisy, t, call).float() for call in self.plan]
        return combine(outputs, [call.weight for call in self.plan], self.rescale)

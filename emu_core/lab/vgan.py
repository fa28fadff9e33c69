"""VGAN: "Generating Videos with Scene Dynamics", Vondrick, Pirsiavash and Torralba 2016, arXiv 1609.02612.

A moving foreground over one still background, made from the same noise by two streams, against a discriminator of 3-D
convolutions. Numbers that the paper leaves open are those of main.lua in its authors' code, github.com/cvondrick/videogan.

What differs from them:
* The original makes 32 frames: all four layers after the first double the time axis, from 2 frames. Here the last
  `time_doublings` of them do (2 by default, for 8 frames); along time the others have a kernel of 3, a stride of 1 and a padding
  of 1, which keeps it. The discriminator is the mirror image: its first `time_doublings` layers halve it. With 4 doublings all
  layers are the original's.
* The generator moves against the discriminator as it is after its own move, on the same videos. main.lua takes the outputs from
  before that move and the weights from after it.
* A laboratory's run has LAB_WIDTHS, a quarter of the paper's, and batches of 16 in place of 64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .adversarial import Adversaries, Turn, first_weights, normal

WIDTHS = (512, 256, 128, 64)
LAB_WIDTHS = (128, 64, 32, 16)
"""Of which a step of 16 clips takes 0.36 s of one core."""
NOISE = 100
SPARSITY = 0.1
REAL, FAKE = 0, 1  # the discriminator's two outputs


def _reach(doubles: bool) -> tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]:
    """Kernel, stride and padding (time, height, width) of a layer that halves or doubles the picture, and time with it or not."""
    return ((4, 4, 4), (2, 2, 2), (1, 1, 1)) if doubles else ((3, 4, 4), (1, 2, 2), (1, 1, 1))


class Generator(nn.Module):
    """Noise (n, 100) -> foreground (n, 3, f, 64, 64), mask (n, 1, f, 64, 64), background (n, 3, 64, 64): the paper's two
    streams (its figure 1). Foreground and mask share all layers but the last."""

    def __init__(self, widths: Sequence[int], time_doublings: int, noise: int) -> None:
        super().__init__()
        moving: list[nn.Module] = [nn.ConvTranspose3d(noise, widths[0], (2, 4, 4))]
        still: list[nn.Module] = [nn.ConvTranspose2d(noise, widths[0], 4)]
        doubles = [i >= 4 - time_doublings for i in range(4)]
        for i, (before, after) in enumerate(pairwise(widths)):
            moving += [nn.BatchNorm3d(before), nn.ReLU(), nn.ConvTranspose3d(before, after, *_reach(doubles[i]))]
            still += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1)]
        last = widths[-1]
        self.trunk = nn.Sequential(*moving, nn.BatchNorm3d(last), nn.ReLU())
        self.foreground = nn.Sequential(nn.ConvTranspose3d(last, 3, *_reach(doubles[3])), nn.Tanh())
        self.mask = nn.Sequential(nn.ConvTranspose3d(last, 1, *_reach(doubles[3])), nn.Sigmoid())
        self.background = nn.Sequential(*still, nn.BatchNorm2d(last), nn.ReLU(), nn.ConvTranspose2d(last, 3, 4, 2, 1), nn.Tanh())

    def forward(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        moving = self.trunk(noise[..., None, None, None])
        return self.foreground(moving), self.mask(moving), self.background(noise[..., None, None])


def combine(foreground: Tensor, mask: Tensor, background: Tensor) -> Tensor:
    """m f + (1 - m) b, the background the same in every frame -> videos (n, f, 3, 64, 64)."""
    return rearrange(mask * foreground + (1 - mask) * background[:, :, None], "n c f h w -> n f c h w")


def discriminator(widths: Sequence[int], time_doublings: int) -> nn.Sequential:
    """Videos (n, 3, f, 64, 64) -> logits of real and generated, (n, 2, 1, 1, 1): the foreground stream reversed."""
    rising = (3, *reversed(widths))
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(rising)):
        layers.append(nn.Conv3d(before, after, *_reach(i < time_doublings)))
        layers += [nn.BatchNorm3d(after, eps=1e-3)] if i else []
        layers.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*layers, nn.Conv3d(rising[-1], 2, (2, 4, 4)))


def _begin(module: nn.Module) -> None:
    """Filters begin as normal noise of 0.01, scales around 1, biases at 0 (`weights_init` of main.lua)."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.normal_(module.weight, 0.0, 0.01)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    else:
        return
    assert module.bias is not None
    nn.init.zeros_(module.bias)


class VGAN(Adversaries):
    """Generator and discriminator, without a condition, as the original: of labels only the number is heeded. Makes 2 frames,
    doubled `time_doublings` times (0 to 4). `widths`: channels of the generator's first four layers, from the noise on.
    `sparsity`: the weight of the mean of the mask, which asks for background wherever it will do."""

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        time_doublings: int = 2,
        noise: int = NOISE,
        sparsity: float = SPARSITY,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.frames, self.noise, self.sparsity = 2 ** (time_doublings + 1), noise, sparsity
        with first_weights(seed):
            self.generator = Generator(widths, time_doublings, noise)
            self.discriminator = discriminator(widths, time_doublings)
            self.apply(_begin)

    def codes(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Noise (n, 100)."""
        return normal(len(labels), self.noise, like=labels, generator=generator)

    def videos(self, codes: Tensor) -> Tensor:
        """See `Adversaries`."""
        return combine(*self.generator(codes))

    def turns(self, videos: Tensor, labels: Tensor, generator: torch.Generator) -> Iterator[Turn]:
        """The discriminator on real and generated videos, each a batch of its own; then the generator, which wants its videos to
        be taken for real, and its mask to be small (the paper's L1 norm times lambda; in main.lua the mean over all of it)."""
        foreground, mask, background = self.generator(self.codes(labels, generator))
        made = combine(foreground, mask, background)
        yield Turn("discriminator", self._judged(videos, REAL) + self._judged(made.detach(), FAKE))
        shown = mask.mean()
        yield Turn("generator", self._judged(made, REAL) + self.sparsity * shown, {"mask": shown})

    def _judged(self, videos: Tensor, verdict: int) -> Tensor:
        """Cross entropy of the discriminator's verdict on all of these videos."""
        logits = self.discriminator(rearrange(videos, "n f c h w -> n c f h w")).flatten(1)
        return F.cross_entropy(logits, torch.full((len(videos),), verdict, device=videos.device))

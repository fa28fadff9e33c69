"""MoCoGAN: "Decomposing Motion and Content for Video Generation", Tulyakov, Liu, Yang and Kautz 2018, arXiv 1707.04993.

A video is a path through the codes of an image generator: what is shown (content) and what happens (class) stay the same along
it, motion follows a recurrent network. One discriminator sees single frames, another whole videos and tells their class. Layers
and losses are those of models.py and trainers.py in the authors' code, github.com/sergeytulyakov/mocogan, with the options
--use_infogan and --use_categories, PatchImageDiscriminator and CategoricalVideoDiscriminator.

What differs from it:
* The original's videos have 16 frames, and each of the video discriminator's five layers has a kernel of 4 along time, without
  padding, so that one moment is left. For other lengths the kernels are as even as they can be so that one is left too: for 8
  frames 3, 3, 2, 2, 2.
* The frames for the image discriminator are one of each of as many videos, at a moment by chance; the original draws them from a
  larger heap of codes, where two may be of the same video.
* A laboratory's run has LAB_WIDTH, a quarter of the original's, and batches of 16 videos and 16 frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .adversarial import Adversaries, Turn, first_weights, normal

WIDTH = 64
LAB_WIDTH = 16
"""Of which a step of 16 clips takes 0.57 s of one core."""
CONTENT, MOTION = 50, 10
"""Numbers of the codes of content and of motion: the defaults of train.py."""
INSTANCE_NOISE = 0.1
"""Of what the discriminators' layers read, as in runs of that code with --use_noise --noise_sigma 0.1; its default is none."""


class Generator(nn.Module):
    """`motion` makes a path of codes, `images` a frame of each code (DCGAN's generator, without biases)."""

    def __init__(self, classes: int, content: int, motion: int, width: int) -> None:
        super().__init__()
        self.motion = nn.GRUCell(motion, motion)
        widths = [8 * width, 4 * width, 2 * width, width]
        layers: list[nn.Module] = [nn.ConvTranspose2d(content + classes + motion, widths[0], 4, bias=False)]
        for before, after in pairwise([*widths, 3]):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        self.images = nn.Sequential(*layers, nn.Tanh())


class Discriminator(nn.Module):
    """Layers that halve height and width, leaky and, but for the first, normalised, and one that tells. The first `noisy` of all
    read their input with normal noise of `sigma` on it."""

    def __init__(self, convolutions: Sequence[nn.Conv2d | nn.Conv3d], noisy: int, sigma: float) -> None:
        super().__init__()
        self.noisy, self.sigma = noisy, sigma
        self.layers = nn.ModuleList()
        for i, convolution in enumerate(convolutions):
            norm = nn.BatchNorm2d if isinstance(convolution, nn.Conv2d) else nn.BatchNorm3d
            between = [norm(convolution.out_channels)] if i else []
            last = i == len(convolutions) - 1
            self.layers.append(convolution if last else nn.Sequential(convolution, *between, nn.LeakyReLU(0.2)))

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Images (n, 3, 64, 64) or videos (n, 3, f, 64, 64) -> what is told of each place."""
        for i, layer in enumerate(self.layers):
            if self.sigma and i < self.noisy:
                x = x + self.sigma * normal(*x.shape, like=x, generator=generator)
            x = layer(x)
        return x


def image_discriminator(width: int, sigma: float) -> Discriminator:
    """Images (n, 3, 64, 64) -> logits of being real of 4 x 4 overlapping patches, (n, 1, 4, 4)."""
    widths = [3, width, 2 * width, 4 * width, 1]
    return Discriminator([nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths)], 4, sigma)


def video_discriminator(frames: int, classes: int, width: int, sigma: float) -> Discriminator:
    """Videos (n, 3, f, 64, 64) -> (n, 1 + classes, 1, 1, 1): the logit of being real, and those of the classes."""
    widths = [3, width, 2 * width, 4 * width, 8 * width]
    times = time_kernels(frames)
    steps = zip(pairwise(widths), times[:-1], strict=True)
    layers = [nn.Conv3d(a, b, (k, 4, 4), (1, 2, 2), (0, 1, 1), bias=False) for (a, b), k in steps]
    return Discriminator([*layers, nn.Conv3d(widths[-1], 1 + classes, (times[-1], 4, 4), bias=False)], 4, sigma)


def time_kernels(frames: int) -> list[int]:
    """Kernels along time of five layers without padding that leave one of so many frames; of 16, 4 each, as the original's."""
    return [1 + (frames - 1 + 4 - i) // 5 for i in range(5)]


class MoCoGAN(Adversaries):
    """Generator, image and video discriminator, conditioned on one of `classes`. `content`, `motion`: numbers in the codes;
    `width`: channels of the layers at 32 x 32 pixels; `sigma`: see INSTANCE_NOISE."""

    weight_decay = 1e-5

    def __init__(
        self,
        classes: int,
        frames: int = 8,
        width: int = WIDTH,
        content: int = CONTENT,
        motion: int = MOTION,
        sigma: float = INSTANCE_NOISE,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.classes, self.frames, self.content, self.motion = classes, frames, content, motion
        with first_weights(seed):
            self.generator = Generator(classes, content, motion, width)
            self.image_discriminator = image_discriminator(width, sigma)
            self.video_discriminator = video_discriminator(frames, classes, width, sigma)

    def codes(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Content, class and motion of every frame, (n, f, content + classes + motion): the first two the same in all, the third
        the states of a GRU that begins in noise and reads noise at every frame."""

        def noise(numbers: int) -> Tensor:
            return normal(len(labels), numbers, like=labels, generator=generator)

        same = torch.cat([noise(self.content), F.one_hot(labels, self.classes).float()], 1)
        state, states = noise(self.motion), []
        for _ in range(self.frames):
            state = self.generator.motion(noise(self.motion), state)
            states.append(state)
        return torch.cat([same[:, None].expand(-1, self.frames, -1), torch.stack(states, 1)], 2)

    def images(self, codes: Tensor) -> Tensor:
        """Frames (n, 3, 64, 64) of codes (n, d)."""
        return self.generator.images(codes[..., None, None])

    def videos(self, codes: Tensor) -> Tensor:
        """See `Adversaries`."""
        return rearrange(self.images(rearrange(codes, "n f d -> (n f) d")), "(n f) c h w -> n f c h w", f=self.frames)

    def turns(self, videos: Tensor, labels: Tensor, generator: torch.Generator) -> Iterator[Turn]:
        """The image discriminator on single frames; the video discriminator on videos, which learns the classes of the real ones
        with it; then the generator, against both, whose videos are to be told for the class that they were made for. Each turn
        draws generated frames and videos of its own."""

        def drawn() -> tuple[Tensor, Tensor]:
            wanted = torch.randint(self.classes, (len(videos),), generator=generator).to(labels.device)
            return wanted, self.codes(wanted, generator)

        def one_frame(of: Tensor) -> Tensor:
            moments = torch.randint(self.frames, (len(of),), generator=generator)
            return of[torch.arange(len(of)), moments.to(of.device)]

        with torch.no_grad():
            made = self.images(one_frame(drawn()[1]))
        real = one_frame(videos)
        told = [self.image_discriminator(x, generator) for x in (real, made)]
        yield Turn("image_discriminator", _taken_for(told[0], 1.0) + _taken_for(told[1], 0.0))

        with torch.no_grad():
            made = self.videos(drawn()[1])
        (told_real, classes), (told_made, _) = (self._told(x, generator) for x in (videos, made))
        loss = _taken_for(told_real, 1.0) + _taken_for(told_made, 0.0) + F.cross_entropy(classes, labels)
        yield Turn("video_discriminator", loss, {"class_right": (classes.argmax(1) == labels).float().mean()})

        told_image = self.image_discriminator(self.images(one_frame(drawn()[1])), generator)
        wanted, codes = drawn()
        told_video, classes = self._told(self.videos(codes), generator)
        of_class = F.cross_entropy(classes, wanted)
        loss = _taken_for(told_image, 1.0) + _taken_for(told_video, 1.0) + of_class
        yield Turn("generator", loss, {"class_loss": of_class})

    def _told(self, videos: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The logits of being real (n, 1) and of the classes (n, classes)."""
        told = self.video_discriminator(rearrange(videos, "n f c h w -> n c f h w"), generator).flatten(1)
        return told[:, :1], told[:, 1:]


def _taken_for(logits: Tensor, truth: float) -> Tensor:
    """Binary cross entropy of these logits, where all are to say `truth`."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth))

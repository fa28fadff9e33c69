"""Training of the tiny image autoencoder (AutoencoderKL, the layout of Stable Diffusion's)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from ..model.streams import stream
from ..training.folder import write_sheet
from ..training.loop import Task
from ..training.processes import Processes
from ..training.recipes import Recipe
from . import anything, nature, shapes, world

CROP = 32
CROP_SHARE = 0.65  # of the run: crops around the shape, four times cheaper than whole frames
PULL_SHARE = 0.3  # of the run: latents are drawn towards the leading principal components of 8 x 8 patches
LATENT_NOISE = 0.25  # most noise, in standard deviations, that the decoder learns to bear


def build_vae(latents: int = 4, widths: tuple[int, ...] = (64,) * 4) -> Any:
    """At least 64 channels at every level: at 32, a group norm of 32 groups would take each channel's mean, a flat colour,
    away."""
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    sizes = {"block_out_channels": widths, "layers_per_block": 1, "latent_channels": latents, "sample_size": shapes.SIZE}
    vae = AutoencoderKL(**kinds, **sizes, scaling_factor=1.0)
    # The residual blocks at the finest levels stay at zero: four fifths of the encoder's work for nothing that this world needs.
    for resnet in (*(b.resnets[0] for b in vae.encoder.down_blocks[:2]), vae.decoder.up_blocks[3].resnets[1]):
        resnet.requires_grad_(False)
        nn.init.zeros_(resnet.conv2.weight)
        nn.init.zeros_(resnet.conv2.bias)
    return vae


@contextmanager
def zero_residuals_skipped(vae: Any) -> Iterator[None]:
    """Same output, less work: residual blocks whose last convolution is zero are passed over meanwhile."""
    resnets = [r for block in (*vae.encoder.down_blocks, *vae.decoder.up_blocks) for r in block.resnets]
    idle = [r for r in resnets if r.conv_shortcut is None and not any(p.any() for p in r.conv2.parameters())]
    for resnet in idle:
        resnet.forward = lambda x, temb=None: x
    try:
        yield
    finally:
        for resnet in idle:
            del resnet.forward


def encode(vae: Any, images: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """Images (..., 3, H, W) in -1..1 -> latents (..., 4, H/8, W/8), the posterior's mean times the VAE's scale, where it is."""
    flat = images.reshape(-1, *images.shape[-3:]).to(vae.device, vae.dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), zero_residuals_skipped(vae):
        parts = [vae.encode(part).latent_dist.mean.to(images.dtype) for part in flat.split(batch)]
    latents = torch.cat(parts).contiguous() * vae.config.scaling_factor
    return latents.reshape(*images.shape[:-3], *latents.shape[1:])


def decode(vae: Any, latents: torch.Tensor, batch: int = 32) -> torch.Tensor:
    """The way back: latents (..., 4, h, w) -> images (..., 3, 8h, 8w), clamped to -1..1."""
    flat = latents.reshape(-1, *latents.shape[-3:]) / vae.config.scaling_factor
    with torch.no_grad(), zero_residuals_skipped(vae):
        parts = [vae.decode(part.to(vae.dtype)).sample.to(latents.dtype) for part in flat.split(batch)]
    images = torch.cat(parts).contiguous().clamp(-1, 1)
    return images.reshape(*latents.shape[:-3], *images.shape[1:])


def principal_components(images: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, 192) projections to unit variance and the mean (192, 1, 1) of 8 x 8 colour patches of images (n, 3, H, W)."""
    patches = F.pixel_unshuffle(images, 8).permute(0, 2, 3, 1).reshape(-1, 192)
    mean = patches.mean(0)
    _, values, vectors = torch.linalg.svd((patches - mean)[::7], full_matrices=False)
    scale = values[:count] / (len(patches[::7]) ** 0.5)
    return vectors[:count] / scale[:, None], mean[:, None, None]


class AutoencoderTask(Task):
    """See `training.loop.Task`. Running statistics of the latents say what size the noise on them has."""

    mean: torch.Tensor
    std: torch.Tensor
    components: torch.Tensor
    centre: torch.Tensor

    def __init__(self, recipe: Recipe, folder: Path, processes: Processes) -> None:
        super().__init__()
        torch.manual_seed(recipe.optimisation.seed)
        self.recipe = recipe
        self.vae: Any = self.build().to(memory_format=torch.channels_last)
        if recipe.start.init:
            self.vae.load_state_dict(AutoencoderKL.from_pretrained(Path(recipe.start.init) / "vae").state_dict())
        channels = self.vae.config.latent_channels
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))
        for name, value in zip(("components", "centre"), principal_components(self.typical(1000), channels), strict=True):
            self.register_buffer(name, value, persistent=False)  # where the weights are
        self.decoder_alone = False

    def build(self) -> Any:
        """A fresh autoencoder."""
        return build_vae()

    def typical(self, count: int, seconds: float = 1.0) -> torch.Tensor:
        """Whole pictures (n, 3, 64, 64) that training is to serve, of clips at a time."""
        return shapes.render(shapes.clips(self.recipe.world.seed, range(count)), torch.tensor([seconds]))[:, 0]

    def shown(self) -> torch.Tensor:
        """Two dozen pictures that training never sees."""
        return shapes.render(anything.mixed(10_000, range(24), self.recipe.world.anything), torch.tensor([0.5]))[:, 0]

    def forward(self, indices: range, generator: torch.Generator, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of the pictures of these clips."""
        images, counts = self.images(indices, generator, progress)
        images, counts = images.to(self.mean.device), None if counts is None else counts.to(self.mean.device)
        with zero_residuals_skipped(self.vae):
            posterior = self.vae.encode(images).latent_dist
            raw = posterior.mean.float()  # of its statistics, 16 bits would keep two digits
            with torch.no_grad():
                self.mean.lerp_(raw.mean((0, 2, 3), keepdim=True), 0.02)
                self.std.lerp_(raw.std((0, 2, 3), keepdim=True), 0.02)
            latents = (raw - self.mean) / self.std
            level = LATENT_NOISE * torch.rand(len(raw), 1, 1, 1, generator=generator).to(raw.device)
            noise = torch.randn(raw.shape, generator=generator).to(raw.device)
            output = self.vae.decode((latents + level * noise) * self.std + self.mean).sample
        if counts is None:
            mse, l1 = F.mse_loss(output, images), F.l1_loss(output, images)
        else:
            off = output.float() - images
            mse, l1 = (counts * off.square()).mean(), (counts * off.abs()).mean()
        loss = mse + l1 + 1e-4 * (raw.square().mean())
        if progress < PULL_SHARE and not self.recipe.start.init:
            patches = F.pixel_unshuffle(images, 8) - self.centre
            principal = torch.einsum("nchw,kc->nkhw", patches, self.components)
            loss = loss + (1 - progress / PULL_SHARE) * F.mse_loss(raw, principal)
        # every parameter takes part, or a distributed run waits for its gradient: the posterior's variance is unused
        loss = loss + 0.0 * posterior.logvar.sum()
        return loss, {"mse": mse.item()}

    def images(self, indices: range, generator: torch.Generator, progress: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pictures (n, 3, H, W) of the world at one time: crops around the shape early in the run, then whole ones, half as many;
        and how much each place counts (n, 1, H, W), if not alike."""
        crops = progress < CROP_SHARE
        wanted = indices if crops else indices[: max(1, len(indices) // 2)]
        batch = anything.mixed(self.recipe.world.seed, wanted, self.recipe.world.anything)
        times = 2.0 * torch.rand(1, generator=generator)
        images = shapes.render(batch, times)[:, 0]
        if crops:
            centre = shapes.positions(batch, times)[:, 0] + 16 * torch.rand(len(batch), 2, generator=generator) - 8
            left_top = (centre - CROP / 2).round().long().clamp(0, shapes.SIZE - CROP).tolist()
            images = torch.stack([im[:, y : y + CROP, x : x + CROP] for im, (x, y) in zip(images, left_top, strict=True)])
        return images.contiguous(memory_format=torch.channels_last), None

    def sheet(self, path: Path | None) -> dict[str, float]:
        """Originals above, reconstructions below, then decodings of latents with noise; whole-frame error."""
        images = self.shown().to(self.mean.device)
        latents = encode(self.vae, images)
        output = decode(self.vae, latents)
        noise = torch.randn(latents.shape, generator=stream(0, "sheet")).to(latents.device)
        noisy = decode(self.vae, latents + 0.25 * noise * latents.std((0, 2, 3), keepdim=True))
        write_sheet(torch.cat([images[:12], output[:12], noisy[:12]]), path, columns=12)
        return {"sheet_mse": F.mse_loss(output, images).item()}

    def export(self, folder: Path | None) -> None:
        """Write the VAE with latents of zero mean and unit variance per channel: z -> (z - mean) / std goes into `quant_conv` and
        its inverse into `post_quant_conv`."""
        if folder is None:
            return
        vae = self.build()
        vae.load_state_dict(self.vae.state_dict())
        latents, k = encode(vae, self.typical(2000, 0.5)), vae.config.latent_channels
        mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        if self.decoder_alone:  # what was trained on its latents reads them as they were
            vae.half().save_pretrained(folder / "vae")
            return
        with torch.no_grad():
            out, back = vae.quant_conv, vae.post_quant_conv
            out.weight[:k] /= std.view(-1, 1, 1, 1)
            out.bias[:k] = (out.bias[:k] - mean) / std
            back.bias += (back.weight[:, :, 0, 0] * mean).sum(1)
            back.weight *= std.view(1, -1, 1, 1)
            out.weight[k:] = 0  # a posterior so narrow that a sample is its mean
            out.bias[k:] = -20
        vae.save_pretrained(folder / "vae")


class LittleAutoencoderTask(AutoencoderTask):
    """The same for the little world and for nameless pictures, which it sees as often. What starts from an earlier one leaves its
    latents as they are, and trains how they are decoded."""

    def __init__(self, recipe: Recipe, folder: Path, processes: Processes) -> None:
        super().__init__(recipe, folder, processes)
        if recipe.start.init:
            self.decoder_alone = True
            for part in (self.vae.encoder, self.vae.quant_conv):
                part.requires_grad_(False)

    @cached_property
    def canvases(self) -> torch.Tensor:
        """Nameless pictures, larger than a frame."""
        return nature.canvases(self.recipe.world.seed, self.recipe.world.cache)

    def build(self) -> Any:
        """See `AutoencoderTask`."""
        return build_vae(self.recipe.network.latents, self.recipe.network.widths)

    def typical(self, count: int, seconds: float = 1.0) -> torch.Tensor:
        """See `AutoencoderTask`; a fifth is nameless. Any time shows the same."""
        return _beside(world.clips(self.recipe.world.seed, range(count * 4 // 5)), self.canvases[: count // 5])

    def shown(self) -> torch.Tensor:
        """See `AutoencoderTask`."""
        return _beside(world.clips(10_000, range(12)), nature.canvases(10_000, 12))

    def images(self, indices: range, generator: torch.Generator, progress: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `AutoencoderTask`. With `world.figures`, what lies within 2 pixels of a figure counts so much more."""
        crops = progress < CROP_SHARE
        side = CROP if crops else shapes.SIZE
        wanted = indices if crops else indices[: max(2, len(indices) // 4)]
        half, times = (len(wanted) + 1) // 2, 2.0 * torch.rand(1, generator=generator)  # of one picture there is one half
        clips = world.clips(self.recipe.world.seed, wanted[:half])
        images, more = world.render(clips, times)[:, 0], self.recipe.world.figures
        if more:  # taken along as a fourth channel
            covered = torch.stack([clip.coverage(times) for clip in clips])
            images = torch.cat([images, F.max_pool2d(covered, 5, 1, 2)], 1)
        roll = torch.rand(len(wanted), 3, generator=generator)
        if crops:
            centre = torch.stack([c.path(times).seen[0] for c in clips]) + 24 * roll[:half, :2] - 12
            left_top = (centre - CROP / 2).round().long().clamp(0, shapes.SIZE - CROP).tolist()
            images = torch.stack([im[:, y : y + CROP, x : x + CROP] for im, (x, y) in zip(images, left_top, strict=True)])
        room = self.canvases.shape[-1] - side + 1
        corners = (roll[half:, :2] * room).long().tolist()
        chosen = (roll[half:, 2] * len(self.canvases)).long().tolist()
        parts = [self.canvases[None, i, :, y : y + side, x : x + side] for i, (x, y) in zip(chosen, corners, strict=True)]
        counts = 1 + more * F.pad(images[:, 3:], (0, 0, 0, 0, 0, 0, 0, len(parts))) if more else None
        images = torch.cat([images[:, :3], *(part.float() / 127.5 - 1 for part in parts)])
        return images.contiguous(memory_format=torch.channels_last), counts


def _beside(clips: list[world.Clip], canvases: torch.Tensor) -> torch.Tensor:
    """Pictures (n, 3, 64, 64) of clips at 1 s, and of the middle of canvases."""
    cut = (canvases.shape[-1] - shapes.SIZE) // 2
    middle = canvases[:, :, cut : cut + shapes.SIZE, cut : cut + shapes.SIZE].float() / 127.5 - 1
    return torch.cat([world.render(clips, torch.ones(1))[:, 0], middle])

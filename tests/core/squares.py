"""A trivially small world of squares, and, run as a module, a training on it that is killed at a step."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor

from emu_core.lab.adversarial import Adversaries, Clips, Course, train
from emu_core.lab.mocogan import MoCoGAN
from emu_core.lab.vgan import VGAN

COLOURS = torch.tensor([[0.9, -0.8, -0.8], [-0.8, -0.8, 0.9]])  # red moves right, blue moves left
GROUND = 0.7
SIDE, SPEED = 20, 4  # pixels, and pixels a frame
NARROW = (16, 12, 8, 8)


def squares(count: int = 8, seed: int = 0) -> Clips:
    """For each step so many clips of a square somewhere, (n, 8, 3, 64, 64), with its class."""

    def clips(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1000 + step)
        labels = torch.arange(count) % 2
        top = torch.randint(64 - SIDE, (count,), generator=generator)
        left = torch.randint(64 - SIDE - 7 * SPEED, (count,), generator=generator)
        times = torch.arange(8)
        left = left[:, None] + SPEED * torch.where(labels[:, None] == 0, times, 7 - times)
        x, y = torch.arange(64), torch.arange(64)
        across = (x >= left[..., None]) & (x < left[..., None] + SIDE)  # (n, f, w)
        down = (y >= top[:, None]) & (y < top[:, None] + SIDE)
        inside = (across[:, :, None, :] & down[:, None, :, None])[:, :, None]
        return torch.where(inside, COLOURS[labels][:, None, :, None, None], torch.tensor(GROUND)), labels

    return clips


def small(system: str, seed: int = 0) -> Adversaries:
    """A system that trains in seconds."""
    return VGAN(NARROW, seed=seed) if system == "vgan" else MoCoGAN(2, width=4, seed=seed)


def main(system: str, folder: str, steps: str, killed_at: str) -> None:
    clips = squares(4)

    def deadly(step: int) -> tuple[Tensor, Tensor]:
        if step == int(killed_at):
            os.kill(os.getpid(), signal.SIGKILL)
        return clips(step)

    torch.set_num_threads(1)
    train(small(system), deadly, Path(folder), Course(int(steps), save_every=2))


if __name__ == "__main__":
    main(*sys.argv[1:])

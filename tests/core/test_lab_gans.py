"""VGAN and MoCoGAN: their layers against the papers, their losses by hand, and the training that they share."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from emu_core.errors import Stopped
from emu_core.lab import adversarial, mocogan, vgan
from emu_core.lab.adversarial import AdversarialTrainer, Course, Turn, train
from emu_core.lab.mocogan import MoCoGAN
from emu_core.lab.vgan import VGAN, combine
from emu_core.model.streams import stream
from emu_core.toy import world
from emu_core.toy.figures import FIGURES
from emu_core.training import checkpoints

from .saved import ROOT, surroundings
from .squares import small, squares

SYSTEMS = ("vgan", "mocogan")
Row = tuple[str, int, int, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@pytest.fixture(scope="module")
def paper_vgan() -> VGAN:
    """At the size of the paper: 32 frames, 512 to 64 channels."""
    return VGAN(time_doublings=4)


@pytest.fixture(scope="module")
def paper_mocogan() -> MoCoGAN:
    """At the size of its authors' code: 16 frames, 64 channels, 6 classes."""
    return MoCoGAN(6, frames=16)


def rows(network: nn.Module, *inputs: object) -> list[Row]:
    """Of each convolution that runs, in its order: kind, channels in and out, kernel, stride, padding, and the output's shape."""
    found: list[Row] = []

    def note(layer: nn.Module, _: object, output: Tensor) -> None:
        sizes = (tuple(map(int, getattr(layer, name))) for name in ("kernel_size", "stride", "padding"))
        found.append((type(layer).__name__, layer.in_channels, layer.out_channels, *sizes, tuple(output.shape[1:])))  # type: ignore[arg-type]

    layers = [m for m in network.modules() if isinstance(m, nn.modules.conv._ConvNd)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        network(*inputs)
    for handle in handles:
        handle.remove()
    return found


def after_each_convolution(network: nn.Sequential) -> list[list[str]]:
    """What follows each convolution of a sequence, up to the next."""
    found: list[list[str]] = []
    for layer in network:
        if isinstance(layer, nn.modules.conv._ConvNd):
            found.append([])
        else:
            found[-1].append(type(layer).__name__)
    return found


# -- VGAN's layers


def test_vgan_at_the_papers_size_has_the_papers_layers(paper_vgan: VGAN) -> None:
    """Figure 1 of the paper, and main.lua: 2 x 4 x 4, then kernels of 4 at a stride of 2; 512 channels to 64, then 3 and 1."""
    up, halves = "ConvTranspose3d", ((4, 4, 4), (2, 2, 2), (1, 1, 1))
    flat = ((4, 4), (2, 2), (1, 1))
    assert rows(paper_vgan.generator, torch.randn(1, 100)) == [
        (up, 100, 512, (2, 4, 4), (1, 1, 1), (0, 0, 0), (512, 2, 4, 4)),
        (up, 512, 256, *halves, (256, 4, 8, 8)),
        (up, 256, 128, *halves, (128, 8, 16, 16)),
        (up, 128, 64, *halves, (64, 16, 32, 32)),
        (up, 64, 3, *halves, (3, 32, 64, 64)),
        (up, 64, 1, *halves, (1, 32, 64, 64)),
        ("ConvTranspose2d", 100, 512, (4, 4), (1, 1), (0, 0), (512, 4, 4)),
        ("ConvTranspose2d", 512, 256, *flat, (256, 8, 8)),
        ("ConvTranspose2d", 256, 128, *flat, (128, 16, 16)),
        ("ConvTranspose2d", 128, 64, *flat, (64, 32, 32)),
        ("ConvTranspose2d", 64, 3, *flat, (3, 64, 64)),
    ]
    assert rows(paper_vgan.discriminator, torch.randn(1, 3, 32, 64, 64)) == [
        ("Conv3d", 3, 64, *halves, (64, 16, 32, 32)),
        ("Conv3d", 64, 128, *halves, (128, 8, 16, 16)),
        ("Conv3d", 128, 256, *halves, (256, 4, 8, 8)),
        ("Conv3d", 256, 512, *halves, (512, 2, 4, 4)),
        ("Conv3d", 512, 2, (2, 4, 4), (1, 1, 1), (0, 0, 0), (2, 1, 1, 1)),
    ]
    assert paper_vgan.frames == 32


def test_vgan_normalises_and_bends_where_the_paper_does(paper_vgan: VGAN) -> None:
    generator, judge = paper_vgan.generator, paper_vgan.discriminator
    assert after_each_convolution(generator.trunk) == [["BatchNorm3d", "ReLU"]] * 4
    assert after_each_convolution(generator.background) == [["BatchNorm2d", "ReLU"]] * 4 + [["Tanh"]]
    assert after_each_convolution(generator.foreground) == [["Tanh"]]
    assert after_each_convolution(generator.mask) == [["Sigmoid"]]
    assert after_each_convolution(judge) == [["LeakyReLU"], *[["BatchNorm3d", "LeakyReLU"]] * 3, []]
    assert {m.negative_slope for m in judge if isinstance(m, nn.LeakyReLU)} == {0.2}
    assert {m.eps for m in judge if isinstance(m, nn.BatchNorm3d)} == {1e-3}


def test_vgan_begins_with_small_filters_no_bias_and_scales_around_one(paper_vgan: VGAN) -> None:
    for name, p in paper_vgan.named_parameters():
        owner = paper_vgan.get_submodule(name.rpartition(".")[0])
        if name.endswith("bias"):
            assert not p.any(), name
        elif isinstance(owner, nn.modules.conv._ConvNd):
            assert abs(p.std() / 0.01 - 1) < 4 / math.sqrt(2 * p.numel()), name  # four standard errors
        else:
            assert abs(p.mean() - 1) < 4 * 0.02 / math.sqrt(p.numel()), name


@pytest.mark.parametrize(("doublings", "lengths"), [(2, [2, 2, 2, 4, 8]), (3, [2, 2, 4, 8, 16]), (0, [2, 2, 2, 2, 2])])
def test_vgan_with_fewer_frames_doubles_time_in_its_last_layers_and_its_judge_mirrors_it(
    doublings: int, lengths: list[int]
) -> None:
    game = VGAN((16, 8, 8, 4), doublings)
    up = [row for row in rows(game.generator, torch.randn(1, 100)) if row[0] == "ConvTranspose3d"]
    down = rows(game.discriminator, torch.randn(1, 3, lengths[-1], 64, 64))
    assert ([row[6][1] for row in up[:5]], [row[6][1] for row in down]) == (lengths, [*lengths[3::-1], 1])
    assert [row[6][2:] for row in up[:5]] == [(4, 4), (8, 8), (16, 16), (32, 32), (64, 64)]
    assert [row[3:6] for row in up[:5]] == [row[3:6] for row in down[::-1]]
    assert game.frames == lengths[-1]


def test_video_is_the_foreground_where_the_mask_is_and_the_still_background_elsewhere() -> None:
    """m f + (1 - m) b, frame by frame."""
    game = small("vgan")
    f, m, b = game.generator(torch.randn(3, 100))
    video = combine(f, m, b)
    assert video.shape == (3, 8, 3, 64, 64)
    for frame in range(8):
        expected = m[:, :, frame] * f[:, :, frame] + (1 - m[:, :, frame]) * b
        torch.testing.assert_close(video[:, frame], expected, rtol=0, atol=1e-6)
    assert torch.equal(combine(f, torch.zeros_like(m), b), b[:, None].expand(-1, 8, -1, -1, -1))
    assert torch.equal(combine(f, torch.ones_like(m), b), f.transpose(1, 2))


def test_losses_of_vgan_are_those_of_its_paper_with_the_penalty_on_the_mask() -> None:
    game = small("vgan")
    videos, labels = squares()(0)
    judge, penalty = game.turns(videos, labels, stream(3))
    f, m, b = game.generator(game.codes(labels, stream(3)))
    real, made = (game.discriminator(v.transpose(1, 2)).flatten(1) for v in (videos, combine(f, m, b)))

    def cost(logits: Tensor, verdict: int) -> Tensor:  # -log softmax of two
        return (logits[:, 1 - verdict] - logits[:, verdict]).exp().log1p().mean()

    torch.testing.assert_close(judge.loss, cost(real, vgan.REAL) + cost(made, vgan.FAKE))
    torch.testing.assert_close(penalty.loss, cost(made, vgan.REAL) + 0.1 * m.abs().sum() / m.numel())
    assert penalty.figures["mask"].item() == pytest.approx(m.mean().item())


# -- MoCoGAN's layers


def test_mocogan_at_its_authors_size_has_their_layers(paper_mocogan: MoCoGAN) -> None:
    up, halves, wide = "ConvTranspose2d", ((4, 4), (2, 2), (1, 1)), ((4, 4, 4), (1, 2, 2), (0, 1, 1))
    assert rows(paper_mocogan.generator.images, torch.randn(2, 66, 1, 1)) == [
        (up, 66, 512, (4, 4), (1, 1), (0, 0), (512, 4, 4)),
        (up, 512, 256, *halves, (256, 8, 8)),
        (up, 256, 128, *halves, (128, 16, 16)),
        (up, 128, 64, *halves, (64, 32, 32)),
        (up, 64, 3, *halves, (3, 64, 64)),
    ]
    assert rows(paper_mocogan.image_discriminator, torch.randn(2, 3, 64, 64), stream(0)) == [
        ("Conv2d", 3, 64, *halves, (64, 32, 32)),
        ("Conv2d", 64, 128, *halves, (128, 16, 16)),
        ("Conv2d", 128, 256, *halves, (256, 8, 8)),
        ("Conv2d", 256, 1, *halves, (1, 4, 4)),
    ]
    assert rows(paper_mocogan.video_discriminator, torch.randn(2, 3, 16, 64, 64), stream(0)) == [
        ("Conv3d", 3, 64, *wide, (64, 13, 32, 32)),
        ("Conv3d", 64, 128, *wide, (128, 10, 16, 16)),
        ("Conv3d", 128, 256, *wide, (256, 7, 8, 8)),
        ("Conv3d", 256, 512, *wide, (512, 4, 4, 4)),
        ("Conv3d", 512, 7, (4, 4, 4), (1, 1, 1), (0, 0, 0), (7, 1, 1, 1)),
    ]


def test_mocogan_has_as_many_weights_as_its_authors_code(paper_mocogan: MoCoGAN) -> None:
    """Counted in VideoGenerator(3, 50, 6, 10, 16), PatchImageDiscriminator(3) and CategoricalVideoDiscriminator(3, 6)."""
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in paper_mocogan.named_children()}
    assert counts == {"generator": 3_298_836, "image_discriminator": 663_296, "video_discriminator": 11_253_504}


def test_mocogan_normalises_and_bends_where_its_authors_do(paper_mocogan: MoCoGAN) -> None:
    assert after_each_convolution(paper_mocogan.generator.images) == [["BatchNorm2d", "ReLU"]] * 4 + [["Tanh"]]
    for judge, norm, count in (
        (paper_mocogan.image_discriminator, "BatchNorm2d", 2),
        (paper_mocogan.video_discriminator, "BatchNorm3d", 3),
    ):
        flat = nn.Sequential(*[m for m in judge.modules() if not list(m.children())])
        assert after_each_convolution(flat) == [["LeakyReLU"], *[[norm, "LeakyReLU"]] * count, []]
        assert {m.negative_slope for m in flat if isinstance(m, nn.LeakyReLU)} == {0.2}


def test_video_discriminator_of_any_length_ends_with_one_moment() -> None:
    assert {f: mocogan.time_kernels(f) for f in (16, 8, 6, 1)} == {16: [4] * 5, 8: [3, 3, 2, 2, 2], 6: [2] * 5, 1: [1] * 5}
    for frames in range(1, 33):
        assert sum(k - 1 for k in mocogan.time_kernels(frames)) == frames - 1
    told = MoCoGAN(3, frames=8, width=4).video_discriminator(torch.randn(2, 3, 8, 64, 64), stream(0))
    assert told.shape == (2, 4, 1, 1, 1)


def test_codes_are_one_content_one_class_and_a_gated_recurrent_path_of_motion() -> None:
    """The path by the formulas of the gated recurrent unit, from the same draws."""
    game = MoCoGAN(3, width=4)
    labels = torch.tensor([2, 0])
    codes = game.codes(labels, stream(5))
    assert codes.shape == (2, 8, 50 + 3 + 10)
    generator = stream(5)
    content, state = torch.randn(2, 50, generator=generator), torch.randn(2, 10, generator=generator)
    assert torch.equal(codes[:, :, :50], content[:, None].expand(-1, 8, -1))
    assert codes[:, :, 50:53].tolist() == [[[0, 0, 1]] * 8, [[1, 0, 0]] * 8]
    cell = game.generator.motion
    for frame in range(8):
        noise = torch.randn(2, 10, generator=generator)
        read = (noise @ cell.weight_ih.T + cell.bias_ih).split(10, 1)
        kept = (state @ cell.weight_hh.T + cell.bias_hh).split(10, 1)
        reset, update = torch.sigmoid(read[0] + kept[0]), torch.sigmoid(read[1] + kept[1])
        state = (1 - update) * torch.tanh(read[2] + reset * kept[2]) + update * state
        torch.testing.assert_close(codes[:, frame, 53:], state)


def test_frames_of_a_mocogan_are_images_of_single_codes() -> None:
    game = small("mocogan").eval()
    codes = game.codes(torch.tensor([0, 1]), stream(1))
    videos = game.videos(codes)
    assert videos.shape == (2, 8, 3, 64, 64)
    torch.testing.assert_close(videos[1, 3], game.images(codes[1, 3:4])[0])


def test_losses_of_mocogan_are_those_of_its_authors() -> None:
    """Real is 1, made is 0; the video's judge learns the classes of real clips, the generator is held to those it was given."""
    game = MoCoGAN(2, width=4, sigma=0.0)
    videos, labels = squares()(0)
    image, video, made = game.turns(videos, labels, stream(3))
    generator = stream(3)

    def drawn() -> tuple[Tensor, Tensor]:
        wanted = torch.randint(2, (8,), generator=generator)
        return wanted, game.codes(wanted, generator)

    def frame(of: Tensor) -> Tensor:
        return torch.stack([one[at] for one, at in zip(of, torch.randint(8, (8,), generator=generator), strict=True)])

    def judged(images: Tensor) -> Tensor:
        return game.image_discriminator(images, generator)

    def told(clips: Tensor) -> tuple[Tensor, Tensor]:
        logits = game.video_discriminator(clips.transpose(1, 2), generator).flatten(1)
        return logits[:, 0], logits[:, 1:]

    def cost(logits: Tensor, real: bool) -> Tensor:  # -log sigmoid
        return (-logits if real else logits).exp().log1p().mean()

    def cost_of_class(logits: Tensor, truth: Tensor) -> Tensor:
        return (logits.exp().sum(1).log() - logits[torch.arange(8), truth]).mean()

    fake = game.images(frame(drawn()[1]))
    torch.testing.assert_close(image.loss, cost(judged(frame(videos)), True) + cost(judged(fake), False))
    _, codes = drawn()
    (real, classes), (fake, _) = told(videos), told(game.videos(codes))
    torch.testing.assert_close(video.loss, cost(real, True) + cost(fake, False) + cost_of_class(classes, labels))
    fake_image = judged(game.images(frame(drawn()[1])))
    wanted, codes = drawn()
    fake, classes = told(game.videos(codes))
    torch.testing.assert_close(made.loss, cost(fake_image, True) + cost(fake, True) + cost_of_class(classes, wanted))


def test_noise_is_added_to_what_the_discriminators_read() -> None:
    """To all four layers of the one, and to all but the last of the other's five."""
    game = MoCoGAN(2, width=4)
    for judge, shape in ((game.image_discriminator, (2, 3, 64, 64)), (game.video_discriminator, (2, 3, 8, 64, 64))):
        x, generator = torch.zeros(shape), stream(7)
        told = judge(x, stream(7))
        for i, layer in enumerate(judge.layers):
            x = layer(x + 0.1 * torch.randn(x.shape, generator=generator) if i < 4 else x)
        torch.testing.assert_close(told, x)


# -- the training that they share


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_turn_moves_all_of_its_network_by_adams_first_step_and_no_other(system: str, tmp_path: Path) -> None:
    """Adam's first step is the rate, whatever the gradient. A bias before a normalisation has no say, and need not move."""
    game = small(system)
    moved: dict[str, dict[str, Tensor]] = {}
    original = game.turns

    def watched(videos: Tensor, labels: Tensor, generator: torch.Generator) -> Iterator[Turn]:
        for turn in original(videos, labels, generator):
            before = {name: p.detach().clone() for name, p in game.named_parameters()}
            yield turn
            moved[turn.network] = {name: (p.detach() - before[name]).abs() for name, p in game.named_parameters()}

    game.turns = watched  # type: ignore[method-assign]
    AdversarialTrainer(game, squares(), tmp_path, Course()).one_step()
    assert list(moved) == [*[name for name, _ in game.named_children() if name != "generator"], "generator"]
    for network, moves in moved.items():
        for name, move in moves.items():
            if name.split(".")[0] != network:
                assert not move.any(), (network, name)
            elif not name.endswith("bias"):
                assert move.median() == pytest.approx(2e-4, rel=0.01), (network, name)
                assert move.max() < 2.01e-4, (network, name)


def test_optimisers_are_the_authors(tmp_path: Path) -> None:
    for system, decay in (("vgan", 0.0), ("mocogan", 1e-5)):
        trainer = AdversarialTrainer(small(system), squares(), tmp_path, Course())
        for optimiser in trainer.optimisers.values():
            found = optimiser.defaults
            assert (found["lr"], found["betas"], found["weight_decay"]) == (2e-4, (0.5, 0.999), decay)
            assert not found["decoupled_weight_decay"]


def assert_same_run(a: Path, b: Path) -> None:
    """To the bit: weights, averages of normalisations, what the optimisers keep, and the figures of every step."""
    first, second = (dcp_state(folder) for folder in (a, b))
    assert first.keys() == second.keys()
    assert any("exp_avg_sq" in name for name in first)
    assert any("running_var" in name for name in first)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert (a / "log.jsonl").read_text() == (b / "log.jsonl").read_text()
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


def dcp_state(folder: Path) -> dict[str, Tensor]:
    """The newest checkpoint, by torch's own reader."""
    dcp_to_torch_save(checkpoints.newest(folder), folder / "all.pt")
    return torch.load(folder / "all.pt", weights_only=True)


@pytest.mark.parametrize("system", SYSTEMS)
def test_run_that_was_killed_and_resumed_equals_one_that_was_not_to_the_bit(system: str, tmp_path: Path) -> None:
    """kill -9 in the step after the one that follows a checkpoint; what goes on is another process with other first weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(small(system), squares(4), tmp_path / "whole", Course(5, save_every=2))
        command = [sys.executable, "-m", "tests.core.squares", system, str(tmp_path / "killed"), "5", "3"]
        status = subprocess.run(command, cwd=ROOT, env=surroundings(), capture_output=True, check=False).returncode
        assert status == -signal.SIGKILL
        assert [p.name for p in checkpoints.checkpoints(tmp_path / "killed")] == ["checkpoint-00000002"]
        assert len((tmp_path / "killed" / "log.jsonl").read_text().splitlines()) == 3
        train(small(system, seed=9), squares(4), tmp_path / "killed", Course(5, save_every=2), resume=True)
    finally:
        torch.set_num_threads(threads)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("system", SYSTEMS)
def test_same_seed_same_run_and_another_seed_another(system: str, tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(folder) + seed)  # of which nothing may depend
        train(small(system), squares(4), tmp_path / folder, Course(2, seed))
    assert_same_run(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "a", tmp_path / "c")
    assert not torch.equal(next(small(system).parameters()), next(small(system, seed=1).parameters()))


@pytest.mark.parametrize("system", SYSTEMS)
def test_few_dozens_of_steps_bring_a_simple_world_nearer(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares on light ground. At ten times the rate: networks this narrow hardly move in so few steps of 2e-4."""
    monkeypatch.setattr(adversarial, "RATE", 2e-3)
    game, clips = small(system), squares(8)
    real = torch.cat([clips(step)[0] for step in range(1000, 1008)])

    def off(made: Tensor) -> float:  # from the mean picture of the world
        return float((made.mean((0, 1)) - real.mean((0, 1))).square().mean().sqrt())

    def moving(made: Tensor) -> float:
        return float((made[:, 1:] - made[:, :-1]).abs().mean())

    trainer, before = AdversarialTrainer(game, clips, tmp_path, Course()), game.generate(32, 0)
    figures = [trainer.one_step() for _ in range(60)]
    after = game.generate(32, 0)
    assert off(after) < 0.85 * off(before)
    assert moving(before) < 0.001 < 0.01 < moving(after)
    judge = "discriminator_loss" if system == "vgan" else "video_discriminator_loss"
    guessed = 2 * math.log(2) + (math.log(2) if system == "mocogan" else 0)  # real or made, and which of two classes
    assert figures[0][judge] == pytest.approx(guessed, abs=0.4)
    assert min(row[judge] for row in figures) < 0.5 * figures[0][judge]
    assert system == "vgan" or {row["class_right"] for row in figures[-20:]} == {1.0}


@pytest.mark.parametrize("system", SYSTEMS)
def test_same_seed_same_video_however_many_are_made(system: str) -> None:
    game = small(system)
    for layer in game.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = 1.0  # one batch is enough for its averages
    labels = torch.tensor([0, 1, 1])
    game.train().videos(game.codes(labels, stream(0)))
    three = game.generate(labels, 4)
    assert three.shape == (3, 8, 3, 64, 64)
    assert three.dtype == torch.float32
    assert three.abs().max() <= 1
    assert torch.equal(three, game.generate(labels, 4))
    torch.testing.assert_close(game.generate(labels[:1], 4), three[:1])
    assert not torch.equal(three, game.generate(labels, 5))
    assert (three[1] - three[2]).abs().mean() > 0.1 * three.abs().mean()  # of one class, and yet two
    assert torch.equal(game.generate(3, 4), game.generate(3, 4))
    assert game.training


def test_class_changes_a_mocogan_and_not_a_vgan() -> None:
    a, b = torch.tensor([0, 0]), torch.tensor([1, 1])
    assert not torch.equal(small("mocogan").generate(a, 1), small("mocogan").generate(b, 1))
    assert torch.equal(small("vgan").generate(a, 1), small("vgan").generate(2, 1))


def test_networks_are_written_whole_and_read_into_the_same_system_only(tmp_path: Path) -> None:
    trained = small("mocogan")
    train(trained, squares(4), tmp_path, Course(1))
    read = small("mocogan", seed=8)
    read.load(tmp_path)
    assert torch.equal(read.generate(2, 0), trained.generate(2, 0))
    with pytest.raises(ValueError, match=r"expected MoCoGAN of these widths, found other networks: build it with"):
        MoCoGAN(3, width=4).load(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors should be"):
        read.load(tmp_path / "nothing")


def test_clips_of_the_little_world_train_it_and_every_step_is_logged(tmp_path: Path) -> None:
    """Classes of motion and figure, as the caller says."""
    times = torch.arange(8) / 4

    def clips(step: int) -> tuple[Tensor, Tensor]:
        batch = world.clips(0, range(4 * step, 4 * step + 4))
        labels = [world.MOTIONS.index(c.motion) * len(FIGURES) + FIGURES.index(c.figure) for c in batch]
        return world.render(batch, times), torch.tensor(labels)

    train(MoCoGAN(len(world.MOTIONS) * len(FIGURES), width=4), clips, tmp_path, Course(2))
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row.pop("step") for row in logged] == [1, 2]
    figures = {"image_discriminator_loss", "video_discriminator_loss", "generator_loss", "class_loss", "class_right"}
    assert all(row.keys() == figures for row in logged)
    assert logged[0]["class_loss"] == pytest.approx(math.log(len(world.MOTIONS) * len(FIGURES)), abs=1)  # of a guess


def test_what_cannot_be_trained_on_is_said(tmp_path: Path) -> None:
    videos, labels = squares()(0)
    for wrong, said in (
        ((videos[:, :7], labels), r"step 0: expected \(n, 8, 3, 64, 64\) and labels \(n,\), n > 1, found \(8, 7, 3, 64, 64\)"),
        ((videos, labels[:3]), r"found \(8, 8, 3, 64, 64\) and \(3,\)"),
        ((videos[:1], labels[:1]), r"found \(1, 8, 3, 64, 64\)"),
        ((videos * 128, labels), r"expected pixels in -1..1, found 115.2"),
        ((videos, labels + 1), r"labels of step 0: expected 0 to 1, found 1 to 2: build MoCoGAN for more classes"),
    ):
        with pytest.raises(ValueError, match=said):
            train(small("mocogan"), lambda step, wrong=wrong: wrong, tmp_path / "run", Course(1))
    with pytest.raises(Stopped, match=r"figures of step 0 are not finite .*try another seed"):
        train(small("vgan"), lambda step: (videos * math.nan, labels), tmp_path / "run", Course(1))
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_run_goes_on_only_on_purpose_and_with_the_same_seed_and_networks(tmp_path: Path) -> None:
    train(small("vgan"), squares(4), tmp_path, Course(1))
    with pytest.raises(ValueError, match="checkpoint-00000001 exists: continue with --resume"):
        train(small("vgan"), squares(4), tmp_path, Course(2))
    with pytest.raises(ValueError, match=r"is of the seed 0, not 1: go on with the same"):
        train(small("vgan"), squares(4), tmp_path, Course(2, seed=1), resume=True)
    with pytest.raises(ValueError, match="holds other parameters"):
        train(small("mocogan"), squares(4), tmp_path, Course(2), resume=True)
    with pytest.raises(ValueError, match="nothing to resume"):
        train(small("vgan"), squares(4), tmp_path / "new", Course(2), resume=True)
    before = (tmp_path / "model.safetensors").read_bytes()
    train(small("vgan", seed=3), squares(4), tmp_path, Course(1), resume=True)  # it has come to its end
    assert (tmp_path / "model.safetensors").read_bytes() == before

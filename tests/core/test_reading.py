"""The detectors of the little world: on real videos, on spoilt ones, and by closed forms."""

import math
from dataclasses import replace

import pytest
import torch

from emu_core.errors import UserError
from emu_core.toy import reading, shapes, world

TIMES = torch.arange(8) / 4
CAR = world.Clip("car", "red", "meadow", "small", "right", mirrored=True)
SHARES = ("figure", "colour", "ground", "size", "mirrored", "motion", "amount", "whole")


@pytest.mark.parametrize(("noise", "blur"), [(0.0, 0.0), (0.03, 0.3)])
def test_real_videos_are_read(noise: float, blur: float) -> None:
    figures = reading.check_reading(12, noise=noise, blur=blur)
    assert all(figures[name] == 1 for name in SHARES), figures
    if not noise:
        assert figures["edge_error"] <= 0.12
        assert figures["wobble"] <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "blur", "least"), [(0.0, 0.0, 0.99), (0.03, 0.3, 0.97)])
def test_many_real_videos_are_read(noise: float, blur: float, least: float) -> None:
    figures = reading.check_reading(400, noise=noise, blur=blur)
    assert all(figures[name] >= least for name in SHARES), figures
    if not noise:
        assert figures["edge_error"] <= 0.12
        assert figures["wobble"] <= 0.05


@pytest.mark.parametrize("motion", ["jumps", "zooms in", "pans up"])
def test_videos_of_many_frames_are_read(motion: str) -> None:
    times = torch.arange(37) / 16
    clip = replace(CAR, motion=motion)
    found = reading.read(clip.draw(times), times)
    assert all(reading.right(found, clip).values()), found.motion
    assert float((found.centre - clip.path(times).seen).norm(dim=1).max()) < 0.125


def test_what_is_known_is_not_looked_for() -> None:
    clip = replace(CAR, motion="turns")
    found = reading.read(clip.draw(TIMES), TIMES, known=clip)
    assert found.motion.kind == "turns"
    assert found.angle.tolist() == pytest.approx((world.TURN * TIMES).tolist(), abs=0.5)
    assert bool(found.whole.all())


def _two(clip: world.Clip) -> torch.Tensor:
    image = replace(clip, start=(18.0, 20.0)).draw(TIMES[:1])
    other = replace(clip, start=(46.0, 46.0))
    return other.figure_over(image, other.path(TIMES[:1]), other.path(TIMES[:1]).world(), world.PALETTE)


def _half(clip: world.Clip) -> torch.Tensor:
    image, empty = clip.draw(TIMES[:1]), _empty(clip)
    image[..., 32:] = empty[..., 32:]
    return image


def _empty(clip: world.Clip) -> torch.Tensor:
    return world.ground_at(clip.ground, clip.path(TIMES[:1]).world() + torch.tensor(clip.corner))


@pytest.mark.parametrize("figure", ["circle", "car", "fish", "unicorn"])
@pytest.mark.parametrize("ground", ["white", "meadow", "night"])
def test_what_is_spoilt_is_not_right(figure: str, ground: str) -> None:
    clip = world.Clip(figure, "red", ground, "small", "still")
    once = TIMES[:1]
    assert all(reading.right(reading.read(clip.draw(once), once), clip).values())
    for spoilt in (_two(clip), _half(clip), _empty(clip)):
        assert not reading.right(reading.read(spoilt, once), clip)["figure"]
    assert reading.read(_empty(clip), once).figure == reading.NOTHING
    assert not reading.right(reading.read(replace(clip, colour="blue").draw(once), once), clip)["colour"]
    assert not reading.right(reading.read(replace(clip, size="big").draw(once), once), clip)["size"]


def test_a_figure_of_another_colour_beside_it_is_not_right() -> None:
    clip = world.Clip("fish", "yellow", "sea", "big", "still", start=(24.0, 30.0))
    other = world.Clip("bird", "red", "sea", "small", "still", start=(54.0, 52.0))
    where = other.path(TIMES[:1])
    both = other.figure_over(clip.draw(TIMES[:1]), where, where.world(), world.PALETTE)
    assert not reading.right(reading.read(both, TIMES[:1]), clip)["figure"]


def _circles(radii: torch.Tensor, ground: str = "white") -> torch.Tensor:
    """A red circle in the middle of frames, its radius as given."""
    clip = world.Clip("circle", "red", ground, "small", "still")
    still, one = torch.zeros(len(radii), 2), torch.ones(len(radii))
    path = world.Path(still + 32, 0 * one, radii / world.RADIUS["small"], still, one)
    return clip.figure_over(world.ground_at(ground, path.world()), path, path.world(), world.PALETTE)


@pytest.mark.parametrize("amount", [0.0, 0.2, 0.6])
def test_the_wobble_of_a_circle_is_that_of_its_radius(amount: float) -> None:
    radii = 13 + amount * torch.tensor([1.0, -1, -1, 1, 1, -1, -1, 1])  # no slope that could be growth
    found = reading.read(_circles(radii), TIMES)
    assert found.wobble == pytest.approx(amount, abs=0.05)
    assert found.area == pytest.approx(2 * amount / 13, abs=0.01)
    assert found.roundness == pytest.approx(1, abs=0.005)


def test_an_ellipse_is_not_round() -> None:
    x, y = (shapes.pixel_grid() - 32).unbind(-1)
    share = (0.5 + 15 - (x.square() * (15 / 18) ** 2 + y.square() * (15 / 12.5) ** 2).sqrt()).clamp(0, 1)
    white, red = shapes.rgb((245, 245, 245)).view(3, 1, 1), shapes.rgb(world.PALETTE["red"]).view(3, 1, 1)
    known = world.Clip("circle", "red", "white", "small", "still")
    found = reading.read((white + share * (red - white))[None].repeat(2, 1, 1, 1), TIMES[:2], known)
    assert found.roundness == pytest.approx(12.5 / 18, abs=0.03)
    assert found.edge_error > 1


def test_flicker_is_what_was_added() -> None:
    levels = torch.tensor([0.0, 4, 0, 4, 0, 4, 0, 4]).view(8, 1, 1, 1) * 2 / 255
    clip = world.Clip("boat", "green", "sea", "big", "right")
    found = reading.read(clip.draw(TIMES) + levels, TIMES)
    assert found.ground_flicker == pytest.approx(2, abs=0.2)
    assert found.colour_flicker == pytest.approx(2, abs=0.7)
    assert reading.read(clip.draw(TIMES), TIMES).ground_flicker < 0.2


def test_nothing_moves_in_no_way() -> None:
    found = reading.read(_empty(CAR).repeat(8, 1, 1, 1), TIMES)
    assert (found.figure, found.ground, found.motion.kind) == (reading.NOTHING, "meadow", reading.NOTHING)
    assert not bool(found.whole.any())
    assert math.isnan(found.edge_error)


def test_videos_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match="found"):
        reading.read(torch.zeros(2, 3, 32, 32), TIMES[:2])

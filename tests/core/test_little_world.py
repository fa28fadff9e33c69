"""The little world against closed forms: places, areas, angles, captions, the split, and what one frame must not say."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emu_core.evaluation.prompts import read_prompts
from emu_core.toy import grounds, nature, shapes, world, worlds
from emu_core.toy.autoencoder import LittleAutoencoderTask
from emu_core.toy.figures import FIGURES, REACH, tables
from emu_core.toy.recipes import RECIPES
from emu_core.toy.source import LatentSource
from emu_core.toy.text import MAX_TOKENS, UNKNOWN, build_tokenizer
from emu_core.training.processes import Processes
from emu_core.training.recipes import World, override

START = torch.zeros(1)
DISC = world.Clip("circle", "red", "white", "big", "still")


def shown(clip: world.Moving, *times: float) -> torch.Tensor:
    """(f, 3, 64, 64) at these seconds."""
    return clip.draw(torch.tensor(times), world.PALETTE)


def test_a_part_of_the_world_shows_nothing_else_and_is_split_as_the_whole() -> None:
    for held_out in (False, True):
        clips = world.clips(5, range(300), held_out, worlds.LAB)
        assert {c.figure for c in clips} == set(worlds.LAB.figures)
        assert {c.motion for c in clips} == set(worlds.LAB.motions)
        assert {c.ground for c in clips} == set(worlds.LAB.grounds)
        assert {(c.figure, c.colour, c.motion) for c in clips} <= set(world.combinations(held_out))


def test_a_clip_is_a_function_of_its_number_and_the_held_out_fifth_is_never_trained_on() -> None:
    assert world.clip(3, 5) == world.clip(3, 5) != world.clip(3, 6)
    assert torch.equal(shown(nature.clip(1, 4), 0.0, 1.0), shown(nature.clip(1, 4), 0.0, 1.0))
    kept, trained = world.combinations(True), world.combinations(False)
    assert not set(kept) & set(trained)
    assert len(kept) + len(trained) == 12 * 8 * 15 - 8  # circles do not turn
    assert 0.19 < len(kept) / (len(kept) + len(trained)) < 0.21
    for place, options in enumerate((FIGURES, world.PALETTE, world.MOTIONS)):  # everything is seen, in other company
        assert {c[place] for c in trained} == set(options) == {c[place] for c in kept}
    found = {(c.figure, c.colour, c.motion) for c in world.clips(1, range(4000))}
    assert found <= set(trained)


def test_the_set_of_prompts_is_of_combinations_that_are_never_trained_on() -> None:
    held_out = set(world.combinations(True))
    for prompt in read_prompts("little"):
        clip = world.read_caption(prompt.text)
        assert clip is not None
        assert (clip.figure, clip.colour, clip.motion) in held_out, prompt.text


def test_one_frame_says_nothing_of_the_motion() -> None:
    for index in range(12):
        clip = world.clip(9, index)
        pictures = [shown(replace(clip, motion=motion, slowly=slow), 0.0) for motion in world.MOTIONS for slow in (False, True)]
        assert all(torch.equal(picture, pictures[0]) for picture in pictures)
    facing = Counter((c.motion, c.mirrored) for c in world.clips(2, range(12_000)) if c.figure not in FIGURES[:4])
    for motion in world.MOTIONS:  # 4 standard deviations of a fair coin
        left, right = facing[motion, True], facing[motion, False]
        assert abs(left - right) < 4 * math.sqrt(left + right), motion


@pytest.mark.parametrize(
    ("motion", "slowly", "dx", "dy"), [("right", False, 8, 0), ("up", True, 0, -4), ("jumps", False, 0, -14)]
)
def test_places_after_a_second(motion: str, slowly: bool, dx: float, dy: float) -> None:
    path = replace(DISC, motion=motion, slowly=slowly).path(torch.tensor([0.0, 1.0, 2.0]))
    assert (path.seen[1] - path.seen[0]).tolist() == pytest.approx([dx, dy], abs=1e-5)
    if motion == "jumps":  # half way up it is as high as a parabola: 3/4; on the ground again after 2 s
        quarter = replace(DISC, motion=motion).path(torch.tensor([0.5])).seen[0, 1]
        assert 32 - quarter == pytest.approx(0.75 * 14)
        assert path.seen[2].tolist() == pytest.approx([32, 32], abs=1e-5)


def test_areas_are_those_of_the_closed_forms() -> None:
    r = world.RADIUS["big"]
    expected = {"circle": math.pi * r**2, "square": (1.8 * r) ** 2, "cross": 4 * 0.72 * r * r - (0.72 * r) ** 2}
    expected["triangle"] = 0.5 * (2 * 1.0392 * r) * 1.8 * r
    for figure, area in expected.items():
        seen = replace(DISC, figure=figure).coverage(START).sum().item()
        assert seen == pytest.approx(area, rel=0.01), figure
    for motion, rate in (("grows", 1.2), ("shrinks", 1 / 1.2), ("zooms in", 1.16), ("zooms out", 1 / 1.16)):
        sizes = replace(DISC, size="small", motion=motion).coverage(torch.tensor([0.0, 1.0])).sum((1, 2))
        assert (sizes[1] / sizes[0]).item() == pytest.approx(rate**2, rel=0.01), motion


def test_what_turns_turns_clockwise_by_forty_degrees_a_second() -> None:
    cross = replace(DISC, figure="cross", motion="turns")
    quarter = cross.coverage(torch.tensor([0.0, 90 / 40]))
    assert torch.allclose(quarter[0], quarter[1], atol=1e-3)
    unicorn = replace(DISC, figure="unicorn", motion="turns").coverage(torch.tensor([0.0, 90 / 40]))
    assert torch.allclose(torch.rot90(unicorn[0], -1), unicorn[1], atol=1e-3)


def test_the_camera_shows_what_lay_beside() -> None:
    for ground in grounds.PLACES:
        clip = world.Clip("fish", "red", ground, "small", "pans right", corner=(40.0, 2.0))
        first, then = shown(clip, 0.0, 1.0)
        assert torch.allclose(first[:, :, 8:], then[:, :, :-8], atol=2e-3), ground
        down = shown(replace(clip, motion="pans down"), 0.0, 1.0)
        assert torch.allclose(down[0, :, 8:], down[1, :, :-8], atol=2e-3), ground
        wrapped = replace(clip, corner=(40.0 + grounds.TILE, 2.0))
        assert torch.allclose(shown(wrapped, 0.0), first, atol=2e-3), ground


def test_tables_hold_distances() -> None:
    """Next to an outline their slope is 1, and what is mirrored is the mirror image."""
    step = 2 * REACH / (tables().shape[-1] - 1)
    for name, table in zip(FIGURES, tables()[:, 0], strict=True):
        slope = torch.stack(torch.gradient(table, spacing=step)).norm(dim=0)
        near = table.abs() < 0.1
        assert 0.9 < slope[near].median() < 1.1, name
        edge = torch.cat([table[0], table[-1], table[:, 0], table[:, -1]])
        assert (edge > 0.1).all(), name
    bird = replace(DISC, figure="bird")
    assert torch.allclose(bird.coverage(START).flip(-1), replace(bird, mirrored=True).coverage(START), atol=1e-4)


def test_captions_say_what_is_shown_and_can_be_read_back() -> None:
    tokenizer, words = build_tokenizer(world.vocabulary()), set(world.vocabulary())
    for clip in world.clips(4, range(3000)):
        read = world.read_caption(clip.caption)
        assert read is not None, clip.caption
        parts = ("figure", "colour", "ground", "size", "motion", "slowly")
        assert [getattr(read, p) for p in parts] == [getattr(clip, p) for p in parts], clip.caption
        assert set(clip.caption.replace(",", "").split()) <= words, clip.caption
        assert len(clip.caption.replace(",", "").split()) + 2 <= MAX_TOKENS
    generator = torch.Generator().manual_seed(0)
    said = [c.said(generator, 0.1, keep_motion=bool(i % 2)) for i, c in enumerate(world.clips(4, range(3000)))]
    assert 0.08 < sum(not text for text in said) / len(said) < 0.12
    assert not any("  " in text or text != text.strip() or " ," in text for text in said)
    assert 0.6 < sum(text == c.caption for text, c in zip(said, world.clips(4, range(3000)), strict=True)) / len(said) < 0.75
    for text in (
        "a dolphin jumps in the ocean",
        "a unicorn runs along a beach",
        "a big red circle moves right on a white background",
    ):
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids, text
    assert tokenizer.convert_tokens_to_ids("zebra") == tokenizer.convert_tokens_to_ids(UNKNOWN)


@pytest.mark.parametrize(
    "text",
    ["", "a photo of a cat", "a red circle moves right on a white background", "a big red circle on a white background",
     "a big red circle and a blue square move right on a white background"],
)  # fmt: skip
def test_other_texts_are_not_of_this_world(text: str) -> None:
    assert world.read_caption(text) is None


def test_prompts_of_the_world_of_shapes_are_prompts_of_this_one() -> None:
    for clip in shapes.clips(5, range(300)):
        read = world.read_caption(clip.caption)
        assert read is not None
        assert (read.figure, read.colour, read.ground, read.size) == (clip.shape, clip.colour, clip.background, clip.size)
        assert (read.motion, read.slowly) == (clip.direction, clip.speed == "slowly")


def test_nameless_pictures_have_the_spectrum_of_natural_ones() -> None:
    """Power falls as 1 / f^a, a between 1.6 and 3 in natural images (Tolhurst, Tadmor & Chao 1992: amplitude 0.8 to 1.5)."""
    pictures = nature.canvases(1, 40)[:, :, 24:88, 24:88].float().mean(1)
    window = torch.hann_window(64, periodic=False)
    power = torch.fft.fft2((pictures - pictures.mean((1, 2), keepdim=True)) * window * window[:, None]).abs().square().mean(0)
    frequency = (torch.fft.fftfreq(64)[:, None].square() + torch.fft.fftfreq(64).square()).sqrt()
    bands = [(frequency >= low) & (frequency < low * 1.5) for low in (0.04, 0.06, 0.09, 0.135, 0.2)]
    x = torch.tensor([frequency[b].mean().log() for b in bands])
    y = torch.tensor([power[b].mean().log() for b in bands])
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert -3.0 < slope < -1.6


def test_now_and_then_something_else_happened_before() -> None:
    turned = [world.turning(c, i) for i, c in enumerate(nature.mixed(1, range(240), 0.5))]
    assert sum(c.before is not None for c in turned) == 20
    one = replace(DISC, motion="up", before=world.Before("right", False, 0.5))
    seen = one.path(torch.tensor([0.0, 0.5, 1.0])).seen
    assert seen.tolist() == [[32, 32], [36, 32], [36, 28]]
    assert one.caption == replace(one, before=None).caption


def test_a_posed_figure_is_near_the_middle_and_looks_to_the_right_and_all_else_is_as_it_was() -> None:
    for clip in world.clips(6, range(200)):
        near = world.posed(clip)
        assert max(abs(place - 32) for place in near.start) <= world.POSED
        assert not near.mirrored
        assert replace(near, start=clip.start, mirrored=clip.mirrored) == clip
    assert world.posed(nature.clip(1, 2)) == nature.clip(1, 2)


def test_what_lies_on_or_near_a_figure_counts_more_where_a_decoder_is_told_so(tmp_path: Path) -> None:
    """Crops early in the run and whole pictures late; each is half of named clips, and half of nameless pictures."""
    recipe = override(RECIPES["little-vae-sharp"], {"start.init": "", "world.cache": "8"})
    weighed = LittleAutoencoderTask(recipe, tmp_path, Processes())
    plain = LittleAutoencoderTask(override(recipe, {"world.figures": "0"}), tmp_path, Processes())
    for progress, asked, shape in ((0.1, 8, (8, 3, 32, 32)), (0.9, 16, (4, 3, 64, 64))):
        (images, counts), (same, none) = (
            task.images(range(asked), torch.Generator().manual_seed(0), progress) for task in (weighed, plain)
        )
        assert images.shape == shape
        assert torch.equal(images, same)
        assert none is None
        assert counts is not None
        assert counts.shape == (shape[0], 1, *shape[2:])
        assert counts.min() == 1
        assert counts.flatten(1).amax(1).tolist() == [4.0] * (shape[0] // 2) + [1.0] * (shape[0] // 2)


def test_one_picture_alone_is_a_named_one(tmp_path: Path) -> None:
    """As in each of two processes that share a batch of two."""
    recipe = override(RECIPES["little-vae-sharp"], {"start.init": "", "world.cache": "8"})
    task = LittleAutoencoderTask(recipe, tmp_path, Processes())
    for progress, side in ((0.1, 32), (0.9, 64)):
        images, counts = task.images(range(1), torch.Generator().manual_seed(0), progress)
        assert images.shape == (1, 3, side, side)
        assert counts is not None
        assert counts.max() == 4


def test_what_a_figure_passes_over_counts_more_and_all_where_the_camera_moves(tmp_path: Path) -> None:
    """A square that goes 8 px to the right, over latents of 8 px a side."""
    square, times = world.Clip("square", "red", "white", "small", "right"), torch.tensor([0.0, 0.5, 1.0])
    pan, nameless = replace(square, motion="pans left", ground="sea"), nature.Leaves(1, "right", False, (32.0, 32.0))
    clips = [square, pan, nameless, replace(nameless, motion="zooms in")]

    def counted(**told: float) -> torch.Tensor | None:
        return LatentSource(None, World(kind="little", **told), tmp_path, Processes(), times).counts(clips, 8)

    assert counted() is None
    counts = counted(figures=4.0, camera=2.0)
    assert counts is not None
    assert counts.shape == (4, 1, 8, 8)
    assert counts[1:].flatten(1).tolist() == [[3.0] * 64, [1.0] * 64, [3.0] * 64]
    green = shown(square, *times.tolist())[:, 1]  # how much of white is hidden, from the colour alone
    hidden = ((green.max() - green) / (green.max() - green.min())).amax(0)
    share = hidden.view(8, 8, 8, 8).mean((1, 3))
    torch.testing.assert_close(counts[0, 0], 1 + 4 * (2 * share).clamp(max=1))
    assert share[4].gt(0.5).sum() == share[:, 4].gt(0.5).sum() + 1  # 8 px further to the right
    of_figures = counted(figures=4.0)
    assert of_figures is not None
    assert of_figures[1].max() == 5
    assert of_figures[1].min() == 1
    shape = shapes.clips(1, range(1))  # the first world has neither
    assert LatentSource(None, World(camera=2.0), tmp_path, Processes(), times).counts(shape, 8).tolist() == [[[[1.0] * 8] * 8]]

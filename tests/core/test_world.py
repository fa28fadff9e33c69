"""The procedural world and the detectors that read it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emu_core.media import write_video
from emu_core.toy import shapes
from emu_core.toy.detect import NOTHING, direction_of, read_frames
from emu_core.toy.judge import evaluate_folder


def test_clips_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    assert shapes.clips(3, range(20)) == shapes.clips(3, range(20))
    assert shapes.clips(3, range(20)) != shapes.clips(4, range(20))


def test_a_fifth_is_held_out_evenly_and_never_drawn_for_training() -> None:
    held = set(shapes.combinations(held_out=True))
    assert len(held) * 4 == len(shapes.combinations(held_out=False))
    assert {(s, c) for s, c, _ in held} == {(s, c) for s in shapes.SHAPES for c in shapes.PALETTE}
    drawn = {(c.shape, c.colour, c.direction) for c in shapes.clips(1, range(3000))}
    assert not drawn & held
    assert drawn == set(shapes.combinations(held_out=False))
    assert {(c.shape, c.colour, c.direction) for c in shapes.clips(1, range(300), held_out=True)} <= held


def test_the_first_frame_gives_no_hint_of_the_motion() -> None:
    clips = shapes.clips(0, range(4000))
    for direction in shapes.DIRECTIONS:
        starts = torch.tensor([c.start for c in clips if c.direction == direction])
        error = 4 * starts.std(0) / len(starts) ** 0.5  # four standard errors of the mean
        assert ((starts.mean(0) - 32).abs() < error).all(), direction


def test_captions_say_everything_in_known_words() -> None:
    words = set(shapes.vocabulary())
    for clip in shapes.clips(0, range(200)):
        said = clip.caption.split()
        assert set(said) <= words
        assert {clip.size, clip.colour, clip.shape, clip.background, clip.direction} <= set(said)
        assert clip.speed in ("", *said)


def test_speed_and_direction_are_what_is_drawn() -> None:
    clip = shapes.Clip("circle", "red", "white", "small", "left", "slowly", (40.0, 30.0))
    path = shapes.positions([clip], torch.tensor([0.0, 1.0, 1.75]))[0]
    torch.testing.assert_close(path, torch.tensor([[40.0, 30.0], [36.0, 30.0], [33.0, 30.0]]))


def test_coverage_of_a_circle_and_a_square_is_their_area() -> None:
    grid = shapes.pixel_grid() - 31.3
    assert abs(float(shapes.coverage("circle", grid, 15.0).sum()) - torch.pi * 225) < 2
    assert abs(float(shapes.coverage("square", grid, 10.0).sum()) - 18.0**2) < 2


def test_detectors_agree_with_the_renderer() -> None:
    clips, times = shapes.clips(77, range(60)), torch.tensor([0.0, 1.0])
    readings = read_frames(shapes.render(clips, times).flatten(0, 1))
    doubled = [c for c in clips for _ in times]
    for reading, clip in zip(readings, doubled, strict=True):
        assert (reading.colour, reading.background) == (clip.colour, clip.background)
        assert (reading.shape, reading.size) == (clip.shape, clip.size)
    places = torch.tensor([r.centre for r in readings])
    assert (places - shapes.positions(clips, times).flatten(0, 1)).norm(dim=1).max() < 0.15


def test_detectors_see_nothing_in_an_empty_frame() -> None:
    reading = read_frames(torch.full((1, 3, 64, 64), -0.9))[0]
    assert (reading.shape, reading.colour, reading.background) == (NOTHING, NOTHING, "black")


def test_detectors_notice_a_wrong_shape() -> None:
    clip = shapes.clips(5, range(1))[0]
    other = next(s for s in shapes.SHAPES if s != clip.shape)
    drawn = shapes.Clip(other, clip.colour, clip.background, clip.size, clip.direction, clip.speed, clip.start)
    assert read_frames(shapes.render([drawn], torch.zeros(1))[:, 0])[0].shape == other


def test_direction_words() -> None:
    assert (direction_of(10, 2), direction_of(-10, 2), direction_of(1, 9)) == ("right", "left", "down")
    assert (direction_of(1, -9), direction_of(1, 1), direction_of(float("nan"), 0)) == ("up", "still", "still")


def test_captions_are_read_back() -> None:
    for clip in shapes.clips(5, range(100)):
        found = shapes.read_caption(clip.caption)
        assert found is not None
        assert replace(found, start=clip.start) == clip
    for text in ("", "a dog", "a big red circle on a white background", "a big red blue circle moves up on a white background"):
        assert shapes.read_caption(text) is None


def test_a_folder_of_videos_is_measured_by_the_same_detectors(tmp_path: Path) -> None:
    """Real clips, some with their motion reversed: the figures are what is known; prompts of three kinds are found."""
    clips = [c for c in shapes.clips(6, range(40)) if c.direction != "still"][:10]
    times = torch.arange(8) / 4
    for i, clip in enumerate(clips):
        frames = shapes.render([clip], times)[0].movedim(1, -1) / 2 + 0.5
        graph = json.dumps({"1": {"inputs": {"seed": 3, "other": "no caption"}}, "2": {"inputs": {"text": clip.caption}}})
        metadata = {} if i == 0 else {"prompt": graph if i % 2 else clip.caption}
        write_video(tmp_path / f"{i}.webp", frames if i else frames.flip(0), 4, metadata)
    (tmp_path / "0.txt").write_text(clips[0].caption)
    figures = evaluate_folder(tmp_path, tmp_path / "out")
    assert (figures["videos"], figures["direction"]) == (10, pytest.approx(0.9))
    assert figures["travel_ratio"] == pytest.approx(1, abs=0.05)
    assert all(figures[part] == 1 for part in ("colour", "background", "shape", "size", "speed"))
    assert "frame0_psnr_db" not in figures
    assert (tmp_path / "out" / "videos.png").is_file()


def test_a_folder_without_videos_or_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found none"):
        evaluate_folder(tmp_path)
    with pytest.raises(ValueError, match="found none"):
        evaluate_folder(tmp_path / "nowhere")
    write_video(tmp_path / "a.mp4", torch.zeros(3, 64, 64, 3), 4)
    with pytest.raises(ValueError, match=r"a\.mp4 has no prompt.*a\.txt"):
        evaluate_folder(tmp_path)

"""What saves time or memory and changes no result: texts read once, calls as one batch, torch.compile, encoding meanwhile."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from emu_core.base import load_base
from emu_core.checkpoint import load_stack
from emu_core.cli.main import main
from emu_core.media import read_video, write_parts, write_video
from emu_core.media.beside import AHEAD, GivenUp, beside
from emu_core.model.compiled import CompiledUNet
from emu_core.model.guidance import Batching, Call, GuidedDenoiser, calls
from emu_core.model.stack import TemporalStack
from emu_core.model_folder import BUNDLED
from emu_core.pipeline import TEXTS, EmuVideoPipeline
from emu_core.settings import Settings
from tests.core import reference
from tests.core.helpers import inputs, plain, random_stack, randomise, small_unet

from .saved import ROOT, surroundings
from .small_bases import Model

PROMPT = "a big red circle moves right on a white background"
LONG = " ".join([PROMPT] * 9)  # two parts of the bundled text encoder
QUICK = Settings(steps=1, seed=5, size=(16, 16))


@pytest.fixture(scope="module")
def pipeline() -> EmuVideoPipeline:
    return EmuVideoPipeline.from_files()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Watched:
    """The batches that a module was called with, as long as it is watched."""

    def __init__(self, module: Any) -> None:
        self.batches: list[int] = []
        self.module = module

    def __enter__(self) -> list[int]:
        def note(module: Any, args: Any, kwargs: Any) -> None:
            self.batches.append(len(args[0] if args else kwargs["input_ids"]))

        self.handle = self.module.register_forward_pre_hook(note, with_kwargs=True)
        return self.batches

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


# -- texts


def test_each_text_is_read_once(pipeline: EmuVideoPipeline) -> None:
    """A starting frame, a video, two windows of interpolation, and then all of it once more with other words to avoid."""
    pipeline.states.cache_clear()
    with Watched(pipeline.base.text_encoders[0]) as read:
        first = pipeline(PROMPT, QUICK)
        assert len(read) == 2  # the prompt and the empty one
        pipeline.interpolate(noise(9, 16, 16, 3), PROMPT, QUICK)
        again = pipeline(PROMPT, QUICK, interpolate=False)
        assert len(read) == 2
        pipeline(PROMPT, replace(QUICK, negative="blue"), interpolate=False)
        assert len(read) == 3
    assert torch.equal(first.video, again.video)


def test_few_texts_are_kept_and_none_of_another_precision() -> None:
    pipeline = EmuVideoPipeline(load_base(BUNDLED))
    settings = replace(QUICK, size=(8, 8))
    words = ("red", "blue", "circle", "square", "cross", "big", "small", "moves")
    with Watched(pipeline.base.text_encoders[0]) as read:
        for pair in itertools.islice(itertools.permutations(words, 2), TEXTS + 3):
            pipeline.starting_frame(" ".join(pair), settings)
        assert pipeline.states.cache_info().currsize == TEXTS
        assert len(read) == TEXTS + 4
        pipeline.base.to(dtype=torch.bfloat16)
        pipeline.starting_frame("moves big", settings)
    assert len(read) == TEXTS + 6


# -- calls as one batch


def both(pipeline: EmuVideoPipeline, make: Any) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """What is made call by call, and with the calls of a step as one batch; the U-Net's batches in the latter."""
    found = []
    for choice in ("off", "on"):
        pipeline.batching = Batching(choice)  # type: ignore[arg-type]
        with Watched(pipeline.base.unet) as batches:
            found.append(make())
    pipeline.batching = Batching()
    return found[0], found[1], batches


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    assert not torch.equal(one, torch.zeros_like(one))
    assert float((one - other).abs().max() / one.abs().max()) <= 1e-5


def latents(pipeline: EmuVideoPipeline, image: torch.Tensor | None, prompt: str, settings: Settings) -> torch.Tensor:
    known = torch.zeros(0, *pipeline.latent_shape(settings)) if image is None else pipeline.encode(image, settings)
    return pipeline.video_latents(known, () if image is None else (0,), prompt, settings)


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize(("w_i", "w_p"), [(2.0, 7.5), (1.0, 7.5), (0.0, 3.0), (7.5, 7.5), (1.0, 1.0), (2.0, 0.0), (0.5, 0.2)])
def test_one_batch_gives_the_same_numbers(pipeline: EmuVideoPipeline, w_i: float, w_p: float, image: bool) -> None:
    settings = replace(QUICK, image_guidance=w_i, text_guidance=w_p, rescale=0.3)
    given = noise(1, 64, 64, 3) if image else None
    one, other, batches = both(pipeline, lambda: latents(pipeline, given, PROMPT, settings))
    close(one, other)
    assert batches == [8 * len(calls(w_i, w_p, image))]


def test_texts_of_different_lengths_are_not_joined(pipeline: EmuVideoPipeline) -> None:
    settings = replace(QUICK, image_guidance=2.0, text_guidance=7.5)
    one, other, batches = both(pipeline, lambda: latents(pipeline, noise(1, 64, 64, 3), LONG, settings))
    close(one, other)
    assert batches == [16, 8]  # none and image have the empty text
    alike = replace(settings, negative=LONG.replace("red", "blue"))
    assert both(pipeline, lambda: latents(pipeline, noise(1, 64, 64, 3), LONG, alike))[2] == [24]


def test_windows_and_starting_frames_as_one_batch(pipeline: EmuVideoPipeline) -> None:
    settings = replace(QUICK, frames=14, window=8, overlap=3, image_guidance=2.0)
    one, other, batches = both(pipeline, lambda: latents(pipeline, noise(1, 64, 64, 3), PROMPT, settings))
    close(one, other)
    assert batches == [24, 24, 24]
    one, other, batches = both(pipeline, lambda: pipeline.starting_frame(PROMPT, QUICK))
    close(one, other)
    assert batches == [2]


@pytest.mark.parametrize("family", ["animatediff", "pia", "fancyvideo"])
def test_public_families_as_one_batch(family: str, tmp_path: Path) -> None:
    base = load_base(BUNDLED)
    states = {
        "animatediff": lambda: reference.motion_adapter(base.unet, mid=True),
        "pia": lambda: reference.motion_adapter(base.unet, mid=False, conv_in=True),
        "fancyvideo": lambda: reference.fancyvideo_state(base.unet),
    }
    stack = load_stack(reference.save(states[family](), tmp_path / "checkpoint.safetensors"))
    pipeline = EmuVideoPipeline(base, stack)
    settings = Settings(frames=4, steps=1, size=(16, 16), image_guidance=2.0, text_guidance=5.0)
    given = None if family == "animatediff" else noise(1, 64, 64, 3)
    one, other, batches = both(pipeline, lambda: latents(pipeline, given, PROMPT, settings))
    close(one, other)
    assert batches == [8 if family == "animatediff" else 12]


def test_sdxl_s_further_conditions_as_one_batch(small: dict[Any, Model]) -> None:
    base = load_base(small["sdxl"].folder)
    pipeline = EmuVideoPipeline(base, random_stack(base.unet, "sdxl"))
    settings = Settings(frames=3, steps=1, size=(16, 16), image_guidance=2.0, text_guidance=5.0)
    one, other, batches = both(pipeline, lambda: latents(pipeline, noise(1, 16, 16, 3), "red", settings))
    close(one, other)
    assert batches == [9]


class Memory:
    """A device that tells of its memory as torch.cuda does, of which a call takes 10 bytes."""

    def __init__(self, free: int) -> None:
        self.free = free

    def mem_get_info(self) -> tuple[int, int]:
        return self.free, 1000

    def memory_reserved(self) -> int:
        return 105

    def memory_allocated(self) -> int:
        return 100

    def max_memory_allocated(self) -> int:
        return 110

    def reset_peak_memory_stats(self) -> None:
        pass


@pytest.mark.parametrize(("free", "expected"), [(31, [1, 1, 1, 3, 3]), (30, [1] * 9), (0, [1] * 9)])
def test_auto_measures_one_call_and_compares_with_the_free_memory(free: int, expected: list[int]) -> None:
    """Three calls of 10 bytes, a fifth more for gaps: 36, of which 5 are reserved and unused."""
    batching = Batching("auto")
    batching.memory = Memory(free)
    seen = steps(batching)
    assert seen == expected


def test_auto_goes_on_call_by_call_where_memory_runs_out_after_all() -> None:
    batching = Batching("auto")
    batching.memory = Memory(1000)
    assert steps(batching, most=1) == [1, 1, 1, 3, 1, 1, 1, 1, 1, 1]
    with pytest.raises(torch.OutOfMemoryError):
        steps(Batching("on"), most=1)


def test_auto_is_off_on_a_cpu() -> None:
    assert steps(Batching("auto", "cpu")) == [1] * 9


def steps(batching: Batching, most: int = 3) -> list[int]:
    """How many calls ran at once in three steps; more than `most` do not fit."""
    seen: list[int] = []

    def network(x: torch.Tensor, t: torch.Tensor, part: Any) -> torch.Tensor:
        seen.append(len(part))
        if len(part) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.cat([x * (1 + call.image + call.text) for call in part])

    plan = [Call(False, False, -1.0), Call(True, False, -5.5), Call(True, True, 7.5)]
    denoise = GuidedDenoiser(network, plan, batching=batching)
    for _ in range(3):
        assert torch.equal(denoise(torch.ones(1, 2), torch.tensor(1)), torch.full((1, 2), -1.0 - 11.0 + 22.5))
    return seen


def test_a_choice_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="auto, on, off, found 'maybe'"):
        Batching("maybe")  # type: ignore[arg-type]


# -- torch.compile


@pytest.mark.slow
def test_compiled_it_gives_the_same_video_in_one_graph(caplog: pytest.LogCaptureFixture) -> None:
    """Steps, seeds and guidance bring no further graph; whether the calls of a step are one batch does."""
    torch._dynamo.reset()
    base = load_base(BUNDLED)
    whole = load_stack(BUNDLED / "stack_F.safetensors").config
    some = tuple(site for site in whole.sites if site.name.startswith(("conv_in", "mid")))  # each further one takes a second
    stack = randomise(TemporalStack(replace(whole, sites=some)))
    usual = EmuVideoPipeline(base, stack)
    image, settings = noise(1, 64, 64, 3), replace(QUICK, size=(64, 64), steps=3, image_guidance=2.0)
    other = replace(settings, seed=6, text_guidance=3.0)
    expected = [latents(usual, image, PROMPT, each) for each in (settings, other, other)]
    usual.models["F"].attachment.detach()
    pipeline = EmuVideoPipeline(base, stack, compiled=True)
    assert pipeline.compiled is not None
    found, graphs = [], []
    with caplog.at_level("INFO"):
        for each, choice in ((settings, "off"), (other, "off"), (other, "on")):
            pipeline.batching = Batching(choice)  # type: ignore[arg-type]
            found.append(latents(pipeline, image, PROMPT, each))
            graphs.append(pipeline.compiled.graphs)
    assert graphs == [1, 1, 2]
    assert pipeline.compiled.seconds > 1
    assert caplog.text.count("torch.compile took") == 2
    for one, two in zip(found, expected, strict=True):
        assert float((one - two).abs().max() / two.abs().max()) <= 1e-4
    torch._dynamo.reset()


@pytest.mark.slow
def test_without_a_compiler_it_says_so_and_goes_on() -> None:
    """In a process of its own: torch remembers that it found none."""
    code = """
import torch
from emu_core.model.compiled import CompiledUNet
from tests.core.helpers import inputs, plain, small_unet
unet, x = small_unet("shallow"), inputs(b=1, f=2)
covered = CompiledUNet(unet)
assert all(torch.equal(plain(covered, x), plain(unet, x)) for _ in range(2))
print(covered.seconds)
"""
    none = {"CXX": "/nowhere/g++", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=surroundings() | none, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "0.0"), done.stderr
    assert done.stderr.count("torch.compile does not work here (InvalidCxxCompiler") == 1


def test_where_torch_cannot_compile_at_all_it_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As torch does on a Python that is too new for it."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("torch.compile is not supported on Python 3.99+")

    monkeypatch.setattr(torch, "compile", refuse)
    unet, x = small_unet("shallow"), inputs(b=1, f=2)
    assert torch.equal(plain(CompiledUNet(unet), x), plain(unet, x))
    assert "not supported on Python 3.99+" in caplog.text


# -- decoding and encoding at once


def test_what_is_coming_is_what_a_call_gives(pipeline: EmuVideoPipeline) -> None:
    image = noise(1, 40, 56, 3)
    for given, finer in ((None, True), (image, False)):
        whole, coming = pipeline(PROMPT, QUICK, given, finer), pipeline.coming(PROMPT, QUICK, given, finer)
        parts = [*coming.parts]
        frames, fps = whole.final
        assert torch.equal(torch.cat(parts), frames)
        assert (coming.count, coming.fps) == (len(frames), fps)
        assert torch.equal(coming.starting_frame, whole.starting_frame)
        assert max(map(len, parts)) <= 4
        assert len(parts) > 1


def test_a_stack_without_image_has_its_first_frame_as_starting_frame(tmp_path: Path) -> None:
    base = load_base(BUNDLED)
    stack = load_stack(reference.save(reference.motion_adapter(base.unet, mid=True), tmp_path / "mm.safetensors"))
    pipeline, settings = EmuVideoPipeline(base, stack), Settings(frames=6, steps=1, size=(16, 16))
    coming, whole = pipeline.coming(PROMPT, settings, interpolate=False), pipeline(PROMPT, settings, interpolate=False)
    assert torch.equal(torch.cat([*coming.parts]), whole.video)
    assert torch.equal(coming.starting_frame, whole.video[:1])


def test_items_are_consumed_while_later_ones_are_made_and_few_wait() -> None:
    begun, let_go = threading.Event(), threading.Event()
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number
            if number == 0:
                assert begun.wait(20)  # it is, before the next is made
            if number == AHEAD:
                assert len(made) == AHEAD + 1
                let_go.set()

    def consume(coming: Iterator[int]) -> list[int]:
        first = next(coming)
        begun.set()
        assert threading.current_thread() is not threading.main_thread()
        assert let_go.wait(20)
        return [first, *coming]

    assert beside(consume, items()) == list(range(10))

    def slow(coming: Iterator[int]) -> None:
        for number in coming:
            time.sleep(0.01)
            assert len(made) <= number + AHEAD + 2

    begun.set()
    made.clear()
    beside(slow, items())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_of_what_is_made_ends_the_consumer(error: type[BaseException]) -> None:
    told: list[type[BaseException]] = []

    def items() -> Iterator[int]:
        yield from range(5)
        raise error("stop")

    def consume(coming: Iterator[int]) -> None:
        try:
            list(coming)
        except BaseException as problem:
            told.append(type(problem))
            raise

    before = threading.active_count()
    with pytest.raises(error, match="stop"):
        beside(consume, items())
    assert told == [GivenUp]
    assert threading.active_count() == before


@pytest.mark.parametrize("after", [0, 1, 7])
def test_an_error_of_the_consumer_ends_what_is_made(after: int) -> None:
    made = 0

    def items() -> Iterator[int]:
        nonlocal made
        for number in range(1000):
            made = number
            yield number

    def consume(coming: Iterator[int]) -> None:
        for number in coming:
            if number == after:
                raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        beside(consume, items())
    assert made <= after + AHEAD + 2


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_half_written_is_left_and_what_was_there_stays(tmp_path: Path, name: str, error: type[BaseException]) -> None:
    write_video(tmp_path / name, noise(3, 16, 16, 3), 5.0)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def parts() -> Iterator[torch.Tensor]:
        yield from noise(8, 16, 16, 3, seed=1).split(2)
        raise error

    with pytest.raises(error):
        write_parts(tmp_path / name, parts(), 9, 5.0)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_what_the_encoder_refuses_is_said_as_before(tmp_path: Path) -> None:
    broken = torch.full((2, 16, 16, 3), float("nan"))
    with pytest.raises(ValueError, match="found NaN or infinity"):
        write_parts(tmp_path / "a.mp4", iter([noise(2, 16, 16, 3), broken, *[noise(2, 16, 16, 3)] * 9]), 22, 5.0)
    assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="NOT CHECKED: one core, or none to choose"
)
@pytest.mark.parametrize("name", ["x.mp4", pytest.param("x.mkv", marks=pytest.mark.slow)])
def test_the_number_of_cores_is_not_seen_in_a_video(tmp_path: Path, name: str) -> None:
    """x264 takes as many threads as there are cores, and makes other pictures of 512 pixels with one than with two."""
    pictures = noise(1, 64, 64, 3).repeat_interleave(8, 1).repeat_interleave(8, 2)
    moving = torch.cat([pictures.roll(number, 2) for number in range(12)]) * 0.9 + 0.1 * noise(12, 512, 512, 3)
    cores, found = os.sched_getaffinity(0), []
    for some in ({min(cores)}, cores):
        os.sched_setaffinity(0, some)
        try:
            write_video(tmp_path / name, moving, 8.0)
        finally:
            os.sched_setaffinity(0, cores)
        found.append(read_video(tmp_path / name).frames)
    assert torch.equal(*found)


def test_the_same_frames_make_the_same_file_first_and_later(tmp_path: Path) -> None:
    """In a process of its own, since only the first files of one were others."""
    code = """
import sys
from pathlib import Path
import torch
from emu_core.media import write_video
pictures = torch.rand(17, 6, 6, 3, generator=torch.Generator().manual_seed(0)).repeat_interleave(16, 1).repeat_interleave(16, 2)
moving = 0.05 * pictures + 0.9 * torch.stack([pictures[0].roll(number, 1) for number in range(17)])
made = set()
for _ in range(4):
    write_video(Path(sys.argv[1]) / "x.mp4", moving, 8.0)
    made.add((Path(sys.argv[1]) / "x.mp4").read_bytes())
print(len(made))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=surroundings(), capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


# -- all of it from the command line


@pytest.mark.slow
def test_the_command_line_says_how_long_compiling_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.reset()
    made = {}
    for name, options in {"usual": [], "fast": ["--batch-calls", "on", "--compile"]}.items():
        out = ["--out", str(tmp_path / name), "--no-interpolate", "--steps", "2", "--json"]
        assert main(["generate", PROMPT, *out, *options]) == 0
        made[name] = json.loads(capsys.readouterr().out)
    assert made["fast"]["compiled_seconds"] > 1
    assert "compiled_seconds" not in made["usual"]
    one, other = (read_video(tmp_path / name) for name in made)
    assert float((one.frames - other.frames).abs().max()) <= 1 / 255 + 1e-6
    assert one.metadata == other.metadata
    torch._dynamo.reset()


def test_tiles_alter_large_pictures_alone() -> None:
    usual, tiled = EmuVideoPipeline.from_files(), EmuVideoPipeline.from_files(vae_tiling=True)
    small, large = torch.randn(2, 1, usual.base.latent_channels, 24, 24, generator=torch.Generator().manual_seed(0)).split(1)
    small = small[0, :, :, :8, :8]
    assert torch.equal(usual.base.decode_latents(small), tiled.base.decode_latents(small))
    one, other = usual.base.decode_latents(large[0]), tiled.base.decode_latents(large[0])
    assert one.shape == other.shape
    assert 0 < float((one - other).abs().mean()) < 0.1

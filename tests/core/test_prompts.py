"""Prompts with weights and of any length: brackets, tokens and states in closed form. tests/nodes compares all of it with
ComfyUI."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emu_core.base.prompts import MOST_NESTED, chunks, plain, weighted
from emu_core.model_folder import BUNDLED
from emu_core.pipeline import EmuVideoPipeline
from emu_core.settings import Settings, check_prompt

from .helpers import DOUBLE
from .ldm_layout import Layout
from .small_bases import LAYOUTS, Model, load, load_anew

pytestmark = pytest.mark.usefixtures("no_network")
LENGTH = 24  # tokens that the small text encoders read at once; each letter is one


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a red circle", [("a red circle", 1.0)]),
        ("a (red) circle", [("a ", 1.0), ("red", 1.1), (" circle", 1.0)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("(a (red:0.5) circle)", [("a ", 1.1), ("red", 0.5), (" circle", 1.1)]),
        ("((red:1.5))", [("red", 1.5)]),
        ("(at 10:30)", [("at 10", 30.0)]),
        ("(red:blue)", [("red:blue", 1.1)]),
        (r"a dog \(brown\)", [("a dog (brown)", 1.0)]),
        (r"(a \(b\):1.5)", [("a (b)", 1.5)]),
        ("a (red circle", [("a ", 1.0), ("(red circle", 1.0)]),
        ("red) circle (blue)", [("red) circle (blue)", 1.0)]),
        ("", []),
        ("()", []),
        ("a BREAK b AND c, [d:e:0.5]", [("a BREAK b AND c, [d:e:0.5]", 1.0)]),
        ("{f|g} <lora:h:1> （i：1.3）", [("{f|g} <lora:h:1> （i：1.3）", 1.0)]),
        ("(a:1e3)(b:-1)(c:0)", [("a", 1000.0), ("b", -1.0), ("c", 0.0)]),
        ("(red\\", [("(red\\", 1.0)]),
    ],
)
def test_brackets(prompt: str, pieces: list[tuple[str, float]]) -> None:
    found = weighted(prompt)
    assert [text for text, _ in found] == [text for text, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


@given(st.text().filter(lambda text: "embedding:" not in text and "\0" not in text and not text.endswith("\\")))
def test_escaped_brackets_are_read_as_they_are(text: str) -> None:
    text = text.replace("\\", "")
    escaped = text.replace("(", "\\(").replace(")", "\\)")
    assert weighted(escaped) == ([(text, 1.0)] if text else [])
    assert weighted(f"({escaped}\\(:2)") == [(f"{text}(", 2.0)]
    assert plain(f"(({escaped}))") == " ".join(text.split())


@pytest.mark.parametrize(
    ("prompt", "match"),
    [
        ("(red:nan) circle", r"has the weight nan in a bracket: write a number, or \\\( and \\\)"),
        ("(red:-inf)", "has the weight -inf"),
        ("a embedding:EasyNegative", r"names 'embedding:EasyNegative', a textual inversion, which only ComfyUI reads"),
        ("(embedding:x:1.2)", "textual inversion"),
        ("a red \udcff circle", "bytes that are no text at sign 7: write it in UTF-8"),
        ("(" * 250 + "a" + ")" * 250, "brackets in more than 200 others"),
    ],
)
def test_what_is_refused(prompt: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        check_prompt(prompt)
    with pytest.raises(ValueError, match=match):
        Settings(negative=prompt).check()
    assert "embedding:x" in check_prompt("an embedding :x, noembedding:x")


@pytest.mark.parametrize("prompt", ["", "  ", "()", "(( ))"])
def test_a_prompt_that_says_nothing(prompt: str) -> None:
    with pytest.raises(ValueError, match="the prompt is empty"):
        check_prompt(prompt)


def test_many_brackets_take_no_time() -> None:
    assert weighted("(" * MOST_NESTED + "a" + ")" * MOST_NESTED)[0][1] == pytest.approx(1.1**MOST_NESTED)
    assert len(weighted("(a)" * 30_000)) == 30_000
    assert weighted("(" * 30_000) == [("(" * 30_000, 1.0)]
    assert weighted(")" * 30_000 + "(") == [(")" * 30_000 + "(", 1.0)]


def numbers(model: Model, prompt: str, encoder: int = 0) -> list[list[tuple[int, float]]]:
    return chunks(load(model, "file").tokenizers[encoder], prompt, LENGTH)


def test_parts(small: dict[Layout, Model]) -> None:
    """Letters are tokens: 512 starts, 513 ends and, but for OpenCLIP, fills; "a" at the end of a word is 320."""
    model = small["sdxl"]
    assert numbers(model, "a (a:2)") == [[(512, 1), (320, 1), (320, 2), *[(513, 1.0)] * 21]]
    assert numbers(model, "a (a:2)", 1) == [[(512, 1), (320, 1), (320, 2), (513, 1.0), *[(0, 1.0)] * 20]]
    assert numbers(model, "") == [[(512, 1), *[(513, 1.0)] * 23]]
    first, second = numbers(model, "a " * 30)  # one piece of 30: cut where the part ends
    assert (sum(t == 320 for t, _ in first), sum(t == 320 for t, _ in second)) == (22, 8)
    assert second[0] == (512, 1.0)
    first, second = numbers(model, f"{'a ' * 20}({'b ' * 5}:3)")  # five stay together
    assert [sum(w == 3 for _, w in part) for part in (first, second)] == [0, 5]
    first, second = numbers(model, f"{'a ' * 20}({'b ' * 8}:3)")  # eight do not
    assert [sum(w == 3 for _, w in part) for part in (first, second)] == [2, 6]
    assert len(chunks(load(model, "file").tokenizers[0], "(a b c d e f g:2)", 6)) == 2  # not even seven, where there is no room


def test_a_sign_that_openclip_pads_with_is_read(small: dict[Layout, Model]) -> None:
    for kind in ("file", "folder"):
        tokenizers = load(small["sdxl"], kind).tokenizers
        assert [chunks(t, "a!", LENGTH)[0][1:3] for t in tokenizers] == [[(320, 1.0), (256, 1.0)]] * 2
        assert tokenizers[1]("a!").input_ids == [512, 320, 0, 513]  # as diffusers has it, and captions of training


@pytest.mark.parametrize("layout", LAYOUTS)
def test_states(small: dict[Layout, Model], layout: Layout) -> None:
    base = load_anew(small[layout], "file").to(dtype=DOUBLE)
    plain_states, empty = base.encode_text(["ab cd"]), base.encode_text([""]).hidden
    same = base.encode_prompt("ab cd")
    assert torch.equal(same.hidden, plain_states.hidden)
    found = base.encode_prompt("ab (cd:1.5)")
    expected = plain_states.hidden.clone()
    expected[:, 3:5] = empty[:, 3:5] + 1.5 * (expected[:, 3:5] - empty[:, 3:5])
    torch.testing.assert_close(found.hidden, expected, atol=1e-6, rtol=1e-6)  # float32 in between
    long = base.encode_prompt("a " * 30)
    both = base.encode_text(["a " * 22, "a " * 8])
    torch.testing.assert_close(long.hidden, both.hidden.reshape(1, 48, -1))
    if layout == "sdxl":
        assert found.pooled is not None and both.pooled is not None  # noqa: PT018
        torch.testing.assert_close(found.pooled, plain_states.pooled)
        torch.testing.assert_close(long.pooled, both.pooled[:1])


def test_captions_are_no_prompts(small: dict[Layout, Model]) -> None:
    base = load(small["sd1"], "file")
    caption = base.encode_text(["a (b:2)"]).hidden
    assert torch.equal(caption, base.encode_prompt(r"a \(b:2\)").hidden)
    assert not torch.equal(caption, base.encode_prompt("a (b:2)").hidden)


@pytest.fixture(scope="module")
def tiny() -> EmuVideoPipeline:
    return EmuVideoPipeline.from_files(BUNDLED)


QUICK = Settings((64, 64), frames=3, steps=2)


def test_a_negative_prompt_takes_the_place_of_the_empty_one(tiny: EmuVideoPipeline) -> None:
    """Guided by w: n + w (p - n) is n at w = 0."""
    prompt, other = "a big red circle", "(a small blue square:1.2)"
    negative = Settings((64, 64), steps=2, t2i_guidance=0.0, negative=other)
    alone = Settings((64, 64), steps=2, t2i_guidance=1.0)
    torch.testing.assert_close(tiny.starting_frame(prompt, negative), tiny.starting_frame(other, alone))
    frames = tiny.video(None, prompt, Settings(**vars(QUICK) | {"text_guidance": 4.0, "negative": other}))
    assert (frames - tiny.video(None, prompt, Settings(**vars(QUICK) | {"text_guidance": 4.0}))).abs().max() > 0.02


def test_words_are_sought_without_their_brackets(tiny: EmuVideoPipeline, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "emu_core"):
        tiny.starting_frame("(a big:1.3) red circle", Settings((64, 64), steps=1, negative="(small:1.2)"))
        assert not caplog.records
        tiny.starting_frame("(a big:1.3) red circle", Settings((64, 64), steps=1, negative="(blurry:1.2)"))
    assert 'does not know "blurry"' in caplog.text

"""50 raters at once, 5,000 votes, five kills. Slow; tests/study/load.py is the same as a script."""

from __future__ import annotations

import json

import pytest

from . import load


def test_no_vote_is_lost_doubled_or_one_too_many_small() -> None:
    found = load.run(raters=12, pairs=30, kills=2)
    assert found["votes"] == 150


@pytest.mark.slow
def test_no_vote_is_lost_doubled_or_one_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    found = load.run(raters=50, pairs=1000, kills=5)
    with capsys.disabled():
        print("\n" + json.dumps(found))  # noqa: T201 - the figures are what this test is run for
    assert found["votes"] == 5000
    assert found["median_ms"]["vote"] < 2000

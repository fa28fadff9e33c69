"""Seats, leases and votes: what must never happen, tried through the store and against the tables themselves."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu_core.study.lock import ServerLock
from emu_core.study.rules import Refused, new_token, token_hash
from emu_core.study.store import Rater, Showing, Study

from ..study import worlds


class Clock:
    now = 1_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def study(tmp_path: Path, clock: Clock) -> Iterator[Study]:
    """Three pairs, five raters, leases of 10 s."""
    made = Study.create(tmp_path / "study", lease_seconds=10, seed=1)
    worlds.empty_pairs(made, 3)
    made.close()
    with Study(tmp_path / "study", clock) as opened:
        yield opened


def new_rater(study: Study, name: str) -> Rater:
    return study.join(name)[0]


def next_pair(study: Study, rater: Rater) -> Showing:
    task = study.next_pair(rater)
    assert task is not None
    return task


def vote(study: Study, rater: Rater, task: Showing, uid: str = "", side: str = "left") -> bool:
    uid = uid or f"{rater.id:08d}{task.key}"
    return study.vote(rater, uid, task.key, worlds.answer("quality", side), worlds.answer("faithfulness", side))


def test_each_pair_gets_five_votes_of_five_raters(study: Study) -> None:
    for number in range(7):
        rater = new_rater(study, f"r{number}")
        while task := study.next_pair(rater):
            vote(study, rater, task)
    assert [len({vote.rater for vote in pair.votes}) for pair in study.results().pairs] == [5, 5, 5]
    assert (study.counts()["done"], study.progress(rater)["left"]) == (3, 0)


def test_a_lease_is_a_seat_and_gives_way_only_when_it_ended(study: Study, clock: Clock) -> None:
    raters = [new_rater(study, f"r{number}") for number in range(16)]
    held = [next_pair(study, rater) for rater in raters[:15]]
    assert study.next_pair(raters[15]) is None  # 15 leases take all seats of three pairs
    assert study.progress(raters[15])["left"] == 3
    clock.now += 9_000
    study.keep(raters[0], held[0].key)
    clock.now += 2_000  # 14 leases have ended, one was renewed
    late = next_pair(study, raters[15])
    vote(study, raters[15], late)
    refused = []
    for rater, task in zip(raters[:15], held, strict=True):
        try:
            vote(study, rater, task)  # late, but only one of them has lost the seat
        except Refused as refusal:
            refused.append(refusal.status)
    assert (refused, [len(pair.votes) for pair in study.results().pairs]) == ([409], [5, 5, 5])


def test_the_same_pair_comes_back_with_its_draft(study: Study) -> None:
    rater = new_rater(study, "r")
    task = next_pair(study, rater)
    study.save_draft(rater, task.key, worlds.answer("quality", "right", "sharpness"))
    again = next_pair(study, rater)
    assert (again.key, again.left, again.right) == (task.key, task.left, task.right)
    assert again.draft == {"choice": "right", "reasons": ["sharpness"], "ms": 1500}
    vote(study, rater, task)
    assert next_pair(study, rater).key != task.key


def test_a_repeated_vote_counts_once_and_another_one_is_refused(study: Study) -> None:
    rater, other = new_rater(study, "r"), new_rater(study, "s")
    task = next_pair(study, rater)
    assert not vote(study, rater, task, "a" * 32)
    assert vote(study, rater, task, "a" * 32)
    for who, uid, side in ((rater, "a" * 32, "right"), (rater, "b" * 32, "left"), (other, "a" * 32, "left")):
        with pytest.raises(Refused) as refused:
            vote(study, who, task, uid, side)
        assert refused.value.status == 409 if who is rater else refused.value.status in (404, 409)
    assert study.counts()["votes"] == 1


GOOD = {"choice": "left", "reasons": ["sharpness"], "ms": 1}
WRONG: list[object] = [{**GOOD, "choice": choice} for choice in ("middle", "first", ["left"])]
WRONG += [{**GOOD, "reasons": reasons} for reasons in ([], ["spatial"], ["sharpness", "sharpness"], [["sharpness"]])]
WRONG += [{**GOOD, "ms": ms} for ms in (-1, float("nan"))]
WRONG += [{"choice": "left", "reasons": ["sharpness"]}, {**GOOD, "rater": "s"}, "left", None]


@pytest.mark.parametrize("answer", WRONG)
def test_answers_that_cannot_be_are_refused(study: Study, answer: object) -> None:
    rater = new_rater(study, "r")
    task = next_pair(study, rater)
    with pytest.raises(Refused) as refused:
        study.vote(rater, "a" * 32, task.key, answer, worlds.answer("faithfulness", "left"))
    assert (refused.value.status, study.counts()["votes"]) == (422, 0)


def test_the_tables_refuse_what_a_program_might_do_wrong(study: Study) -> None:
    raters = [new_rater(study, f"r{number}") for number in range(7)]
    columns = "uid, pair_id, seat, rater_id, shown_left, quality, quality_reasons, quality_ms, faithfulness, \
        faithfulness_reasons, faithfulness_ms, time_ms"

    def seat(number: int, rater: Rater) -> None:
        with study.transaction() as db:
            db.execute("INSERT INTO seats (pair_id, seat, rater_id) VALUES (1, ?, ?)", (number, rater.id))

    def cast(uid: str, number: int, rater: Rater, side: str = "first") -> None:
        values = (uid, 1, number, rater.id, "first", side, "sharpness", 1, "first", "spatial", 1, 1)
        with study.transaction() as db:
            db.execute(f"INSERT INTO votes ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", values)

    for number, rater in enumerate(raters[:5], 1):
        seat(number, rater)
        cast(f"v{number}", number, rater)
    wrong = [
        lambda: seat(6, raters[5]),  # a sixth seat
        lambda: seat(0, raters[5]),
        lambda: seat(5, raters[5]),  # a seat that is taken
        lambda: cast("v6", 6, raters[5]),  # a vote without a seat
        lambda: cast("v7", 1, raters[0]),  # a second vote on a seat
        lambda: cast("v8", 1, raters[5]),  # on the seat of another rater
        lambda: cast("v9", 1, raters[0], "third"),
        lambda: study._db.execute("UPDATE votes SET quality = 'second'"),
        lambda: study._db.execute("DELETE FROM votes"),
        lambda: study._db.execute("DELETE FROM seats"),
        lambda: study._db.execute("UPDATE study SET raters = 7"),
        lambda: study._db.execute("INSERT INTO pairs (prompt_id, first_id, second_id) VALUES (1, 2, 1)"),  # the pair turned
        lambda: study._db.execute("INSERT INTO pairs (prompt_id, first_id, second_id) VALUES (1, 1, 4)"),  # another prompt's
    ]
    for attempt in wrong:
        with pytest.raises(sqlite3.IntegrityError):
            attempt()
    assert len(study.results().pairs[0].votes) == 5


def test_many_threads_and_two_connections_give_no_sixth_vote(tmp_path: Path) -> None:
    first = Study.create(tmp_path / "study", lease_seconds=0.05, seed=2)  # leases end all the time: seats change hands
    worlds.empty_pairs(first, 8)
    second = Study(tmp_path / "study")
    acknowledged: list[str] = []

    def work(study: Study, name: str) -> None:
        rater = new_rater(study, name)
        for attempt in range(60):
            task = study.next_pair(rater)
            if task is None:
                return
            uid = f"{rater.id:08d}{attempt:08d}"
            try:
                vote(study, rater, task, uid)
                acknowledged.append(uid)
            except Refused:
                pass

    threads = [threading.Thread(target=work, args=((first, second)[n % 2], f"r{n}")) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [vote for pair in first.results().pairs for vote in pair.votes]
    assert Counter(vote.uid for vote in found) == Counter(acknowledged)
    assert max(len(pair.votes) for pair in first.results().pairs) == 5
    first.close()
    second.close()
    assert sorted(file.name for file in (tmp_path / "study").iterdir()) == ["study.sqlite", "videos"]  # one file, to be copied


def test_nothing_that_a_rater_sees_tells_the_systems_apart(study: Study) -> None:
    raters = [new_rater(study, f"r{number}") for number in range(40)]
    sides: Counter[str] = Counter()
    orders, names = set(), set()
    for rater in raters:
        sides.update(study.sides(rater.id, pair)["left"] for pair in (1, 2, 3))
        orders.add(tuple(sorted((1, 2, 3), key=lambda pair, who=rater.id: study._rank(who, pair))))
        names.update(study._name("video", rater.id, pair, side) for pair in (1, 2, 3) for side in ("first", "second"))
    assert 40 <= sides["first"] <= 80  # of 120
    assert (len(orders), len(names)) == (6, 240)


def test_videos_are_those_of_the_pair_of_the_moment(study: Study) -> None:
    rater, other = new_rater(study, "r"), new_rater(study, "s")
    task = next_pair(study, rater)
    next_pair(study, other)
    assert {study.video_file(rater, key).parent.name for key in (task.left, task.right)} == {"videos"}
    vote(study, rater, task)
    for who, key in ((other, task.left), (rater, task.left), (rater, "../study"), (rater, ""), (rater, "ü")):
        with pytest.raises(Refused) as refused:
            study.video_file(who, key)
        assert refused.value.status == 404


def test_tokens_are_hashed_and_needed(study: Study) -> None:
    made = study.require_tokens(2)
    assert [name[:8] for name, _ in made] == ["rater-01", "rater-02"]
    assert study.join(token=made[1][1].lower().replace("-", " "))[0].name == made[1][0]
    for name, token in (("me", ""), ("", new_token()), ("", made[0][1][:-1]), ("", "ü" * 16), ("", "\ud800")):
        with pytest.raises(Refused) as refused:
            study.join(name, token)
        assert refused.value.status == 401
    stored = (study.folder / "study.sqlite").read_bytes() + (study.folder / "study.sqlite-wal").read_bytes()
    for _, token in made:
        assert token.encode() not in stored
        assert token_hash(token).encode() in stored


@pytest.mark.parametrize("name", ["", "  ", "x" * 41, "a\x00b", "a\u202eb", "\ud800"])
def test_names_that_are_none(study: Study, name: str) -> None:
    with pytest.raises(Refused):
        study.join(name)


def test_a_name_stands_for_one_rater_and_a_code_brings_them_back(study: Study) -> None:
    rater, session, code = study.join(" Ann  <b> ")
    assert rater.name == "Ann <b>"
    with pytest.raises(Refused):
        study.join("ann <B>")
    assert (study.join(token=code)[0], study.rater_of(session)) == (rater, rater)
    for wrong in ("", session[:-1], session + "x", f"99{session}", "1.", "x.y", "-1.x", "9" * 40 + ".x"):
        with pytest.raises(Refused):
            study.rater_of(wrong)
    study.leave(session)
    with pytest.raises(Refused):
        study.rater_of(session)


def test_one_server_a_study(tmp_path: Path) -> None:
    first, second = ServerLock(tmp_path), ServerLock(tmp_path)
    first.take("http://127.0.0.1:1/")
    with pytest.raises(ValueError, match=r"served by process \d+ on .* at http://127.0.0.1:1/; stop"):
        second.take("http://127.0.0.1:2/")
    first.release()
    second.take("http://127.0.0.1:2/")
    second.release()


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a study's folder"):
        Study(tmp_path)
    (tmp_path / "study.sqlite").write_bytes(b"no database, but long enough to look like one" * 100)
    with pytest.raises(ValueError, match="expected a study's store"):
        Study(tmp_path)
    (tmp_path / "study.sqlite").unlink()
    sqlite3.connect(tmp_path / "study.sqlite").execute("CREATE TABLE other (x)").connection.close()
    with pytest.raises(ValueError, match="expected a study of version 1"):
        Study(tmp_path)
    for raters in (0, 4, 101):
        with pytest.raises(ValueError, match="odd number"):
            Study.create(tmp_path / "new", raters=raters)


def test_events_are_kept_but_not_without_end(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu_core.study.store.MAX_EVENTS", 5)
    for number in range(9):
        study.record(403, f"POST /api/vote {number} \ud800", "no", "r")
    assert [event["request"] for event in study.events()] == [f"POST /api/vote {number} ?" for number in range(4, 9)]

"""Raters by the dozen against a real server that is killed now and then: python tests/study/load.py [RATERS] [PAIRS] [KILLS].

Every rater fetches, drafts and votes as the page does, and tries again where there is no answer. At the end every acknowledged
vote must be there exactly once and no pair have more than five. Prints one JSON object with the answer times in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

if __package__:
    from . import worlds
    from .serving import Serving
else:  # run as a script
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.study import worlds  # type: ignore[no-redef]
    from tests.study.serving import Serving  # type: ignore[no-redef]

from emu_core.study.questions import QUESTIONS, reason_keys
from emu_core.study.store import Study


class Load:
    """What happened: answer times by kind of request, acknowledged votes, requests without an answer."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.times: dict[str, list[float]] = {}
        self.acknowledged: list[str] = []
        self.repeated = self.unanswered = self.refused = 0

    async def ask(self, client: aiohttp.ClientSession, name: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Until there is an answer, as the page does."""
        while True:
            started = time.perf_counter()
            try:
                async with client.post(f"{self.address}api/{name}", json=body) as answer:
                    found = await answer.json()
                    if answer.status < 500:
                        self.times.setdefault(name, []).append(1000 * (time.perf_counter() - started))
                        return answer.status, found
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError):
                self.unanswered += 1
            await asyncio.sleep(0.05 + 0.1 * random.random())

    async def rater(self, token: str, seed: int) -> None:
        generator = random.Random(seed)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True), timeout=aiohttp.ClientTimeout(20)) as client:
            await self.ask(client, "join", {"token": token})
            while True:
                _, found = await self.ask(client, "next", {})
                if found["status"] == "finished":
                    return
                if found["status"] == "waiting":
                    await asyncio.sleep(0.2)
                    continue
                await self.vote(client, found["pair"], generator)

    async def vote(self, client: aiohttp.ClientSession, pair: dict[str, Any], generator: random.Random) -> None:
        answers = {}
        for question in QUESTIONS:
            reasons = generator.sample(reason_keys(question.key), generator.randint(1, 2))
            answers[question.key] = worlds.answer(question.key, generator.choice(("left", "right")), *reasons)
        await self.ask(client, "draft", {"pair": pair["key"], "quality": answers["quality"]})
        uid = f"{generator.getrandbits(128):032x}"
        status, found = await self.ask(client, "vote", {"id": uid, "pair": pair["key"], **answers})
        if status == 200:
            self.acknowledged.append(uid)
            self.repeated += found["repeated"]
        else:
            self.refused += 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def storm(folder: Path, tokens: list[str], kills: int, votes: int) -> Load:
    """All raters at once; the server is killed each time another share of the votes is in."""
    port = free_port()
    serving = Serving(folder, port=port)
    load = Load(serving.address)
    raters = asyncio.gather(*(load.rater(token, seed) for seed, token in enumerate(tokens)))
    for number in range(kills):
        while len(load.acknowledged) < votes * (number + 1) / (kills + 1):
            if raters.done():
                break
            await asyncio.sleep(0.02)
        await asyncio.to_thread(serving.kill)
        serving = await asyncio.to_thread(Serving, folder, port=port)
    await raters
    await asyncio.to_thread(serving.stop)
    return load


def run(raters: int = 50, pairs: int = 1000, kills: int = 5) -> dict[str, Any]:
    """The figures; AssertionError if a vote is lost, doubled or one too many."""
    with tempfile.TemporaryDirectory() as folder:
        study = Study.create(Path(folder) / "study", lease_seconds=60)
        worlds.empty_pairs(study, pairs)
        tokens = [token for _, token in study.require_tokens(raters)]
        study.close()
        started = time.perf_counter()
        load = asyncio.run(storm(study.folder, tokens, kills, 5 * pairs))
        seconds = time.perf_counter() - started
        with Study(study.folder) as study:
            results = study.results()
            events = Counter(event["status"] for event in study.events())
            sound = study._all("PRAGMA integrity_check")[0][0]
    stored = Counter(vote.uid for pair in results.pairs for vote in pair.votes)
    assert sound == "ok"
    assert stored == Counter(load.acknowledged)  # each once, none lost, none that nobody heard of
    assert [len({vote.rater for vote in pair.votes}) for pair in results.pairs] == [5] * pairs
    assert all(len(pair.votes) == 5 for pair in results.pairs)
    votes, times = len(load.acknowledged), sorted(load.times.items())
    found = {"raters": raters, "votes": votes, "kills": kills, "seconds": round(seconds, 1)}
    found |= {"votes_a_second": round(votes / seconds, 1), "acknowledged_at_the_second_try": load.repeated}
    found |= {"requests_without_answer": load.unanswered, "refused": load.refused, "events": dict(events)}
    found["median_ms"] = {name: round(statistics.median(taken), 1) for name, taken in times}
    return found | {"p99_ms": {name: round(statistics.quantiles(taken, n=100)[98], 1) for name, taken in times}}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(*map(int, sys.argv[1:]))) + "\n")

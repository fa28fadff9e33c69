"""`emu-video study create | serve | report | export | import`."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path

from .options import add_command

HERE = "emu_core.cli.study"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """`study` and its own commands."""
    summary = "a human study in the browser: two videos side by side, the paper's two questions (JUICE)"
    parser = commands.add_parser("study", help=summary, description=summary)
    parts = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_create(parts)
    _add_serve(parts)
    report = add_command(parts, "report", "win rates, agreement and reasons of a study", f"{HERE}:report")
    report.add_argument("study", help="the study's folder, or an exported .json or .csv")
    report.add_argument("--out", metavar="FOLDER", help="write report.json, report.md and plots there")
    report.add_argument("--json", action="store_true", help="print the report as JSON")
    export = add_command(parts, "export", "votes, prompts and hashes of a study as one file", f"{HERE}:export")
    export.add_argument("study", help="the study's folder")
    export.add_argument("file", metavar="FILE.json|.csv", help="where to write")
    summary = "an exported study -> a study of its own; or its votes -> another copy of the same study"
    taken = add_command(parts, "import", summary, f"{HERE}:take")
    taken.add_argument("file", metavar="FILE.json|.csv", help="what `study export` wrote")
    taken.add_argument("study", help="a new folder, or the folder of the same study, which takes the votes")


def _add_create(parts: argparse._SubParsersAction) -> None:
    create = add_command(parts, "create", "folders of videos and their prompts -> a study", f"{HERE}:create")
    create.add_argument("out", metavar="OUT", help="the study's folder, new")
    create.add_argument("systems", nargs="+", metavar="SYSTEM", help="folder with a video of every prompt, or NAME=FOLDER")
    create.add_argument("--prompts", required=True, metavar="FILE", help="prompts as `emu-video evaluate` takes them")
    create.add_argument("--title", default="Which video is better?", help="heading of the page and the report")
    create.add_argument("--raters", type=int, default=5, help="votes a pair, an odd number")
    create.add_argument("--lease-minutes", type=float, default=15, help="how long a pair is kept for a rater who went away")
    create.add_argument("--seed", type=int, help="repeatable sides and orders; who knows it can work out the sides")
    which = create.add_mutually_exclusive_group()
    which.add_argument("--all-pairs", action="store_true", help="compare every two systems (the default)")
    which.add_argument("--against", metavar="SYSTEM", help="compare this system with each other one only")


def _add_serve(parts: argparse._SubParsersAction) -> None:
    serve = add_command(parts, "serve", "let raters vote in their browsers; Ctrl-C ends it", f"{HERE}:serve")
    serve.add_argument("study", help="the study's folder")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: every network of this computer")
    serve.add_argument("--port", type=int, default=8190, help="port; 0: any free one")
    serve.add_argument(
        "--tokens",
        type=int,
        metavar="N",
        help="from now on only raters with a token may vote; print links for N new raters (0: no new ones)",
    )
    serve.add_argument(
        "--public-host", action="append", default=[], metavar="NAME", help="name under which a proxy passes requests to loopback"
    )


def create(options: Namespace) -> None:
    from tqdm import tqdm

    from ..evaluation.videos import open_sets
    from ..study.create import create_study

    def progress(work: Sequence[tuple[int, str]]) -> Iterable[tuple[int, str]]:
        return tqdm(work, desc="videos", unit="video", file=sys.stderr, leave=False, disable=None)

    systems = {each.name: each.folder for each in open_sets(options.systems)}
    made = create_study(
        options.out, systems, options.prompts, options.raters, options.title, options.against, options.seed,
        options.lease_minutes * 60, progress,
    )  # fmt: skip
    print(
        f"{options.out}: {made['pairs']} pairs of {made['prompts']} prompts and {made['systems']} systems, "
        f"{made['pairs'] * options.raters} votes to give."
    )
    if made["reencoded"]:
        print(f"{made['reencoded']} videos could not be shown by every browser and were encoded as H.264, crf 12.")
    print(f"Next: emu-video study serve {options.out}")


def serve(options: Namespace) -> None:
    import asyncio

    from ..study.server import LOOPBACK
    from ..study.server import serve as run
    from ..study.store import Study

    if options.tokens is not None and options.tokens < 0:
        raise ValueError(f"--tokens: expected a number of new raters from 0, found {options.tokens}; change it.")
    study = Study(options.study)
    study.lock.take(f"http://{options.host}:{options.port}/")  # before tokens are made that nobody could use

    def started(address: str) -> None:
        links = study.require_tokens(options.tokens) if options.tokens is not None else []
        if options.host in LOOPBACK:
            print(f"{address}  (this computer only; --host 0.0.0.0 lets others in)", flush=True)
        else:
            who = "only raters with a token" if study.tokens_required else "anybody who reaches it (--tokens closes it)"
            print(f"{address}  (listens on {options.host}; open to {who})", flush=True)
        if links:
            print("Links, one a rater; they are shown only now:")
        for name, token in links:
            print(f"  {name}  {address}#token={token}", flush=True)
        print("Ctrl-C ends it; votes are stored as they come.", flush=True)

    try:
        asyncio.run(run(study, options.host, options.port, tuple(options.public_host), started))
    except KeyboardInterrupt:
        pass
    finally:
        study.close()
    print("Stopped.", flush=True)


def report(options: Namespace) -> None:
    from ..study.exchange import read_results
    from ..study.report import build_report, report_json, write_report
    from ..study.store import Study
    from ..study.tables import markdown

    if Path(options.study).is_file():
        results = read_results(options.study)
    else:
        with Study(options.study) as study:
            results = study.results()
    if options.json or not options.out:
        found = build_report(results)
        print(report_json(found) if options.json else markdown(found), end="")
    if options.out:
        files = write_report(results, options.out)
        if not options.json:
            print("\n".join(map(str, files)))


def export(options: Namespace) -> None:
    from ..study.exchange import write_results
    from ..study.store import Study

    with Study(options.study) as study:
        results = study.results()
    write_results(results, options.file)
    print(f"{options.file}: {sum(len(pair.votes) for pair in results.pairs)} votes on {len(results.pairs)} pairs.")


def take(options: Namespace) -> None:
    from ..study.exchange import import_new, merge, read_results
    from ..study.store import STORE_NAME, Study

    results = read_results(options.file)
    if (Path(options.study) / STORE_NAME).is_file():
        with Study(options.study) as study:
            new, old = merge(study, results)
        print(f"{options.study}: {new} new votes, {old} that were there already.")
    else:
        import_new(results, options.study)
        print(f"{options.study}: a study for reports and merging, without videos.")

"""`emu-video study create | serve | report | correlate | export | import`."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .options import add_command, add_verbose, check_folder, is_there, wrote

if TYPE_CHECKING:
    from ..study.results import Results


def add(commands: argparse._SubParsersAction) -> None:
    """`study` and its own commands."""
    summary = "a human study in the browser: two videos side by side, the paper's two questions (JUICE)"
    parser = commands.add_parser("study", help=summary, description=summary)
    add_verbose(parser)
    parts = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    create = add_command(parts, "create", "folders of videos and their prompts -> a study", f"{__name__}:create")
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

    serve = add_command(parts, "serve", "let raters vote in their browsers; Ctrl-C ends it", f"{__name__}:serve")
    tokens = "from now on only raters with a token may vote; print links for N new raters (0: no new ones)"
    names = "name under which a proxy passes requests to loopback"
    serve.add_argument("study", help="the study's folder")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: every network of this computer")
    serve.add_argument("--port", type=int, default=8190, help="port; 0: any free one")
    serve.add_argument("--tokens", type=int, metavar="N", help=tokens)
    proxy = "address or network of a reverse proxy, whose X-Forwarded-For is believed; may be given several times"
    signups = "new raters an hour from one address (an IPv6 /64 is one); raters with a token are not counted"
    serve.add_argument("--trusted-proxy", action="append", default=[], metavar="ADDRESS", help=proxy)
    serve.add_argument("--signups", type=int, default=60, metavar="N", help=signups)
    crowd = "connections open at once; for one more, the one that has been idle longest is closed"
    serve.add_argument("--connections", type=int, default=500, metavar="N", help=crowd)
    serve.add_argument("--public-host", action="append", default=[], metavar="NAME", help=names)

    report = add_command(parts, "report", "win rates, agreement and reasons of a study", f"{__name__}:report")
    report.add_argument("study", help="the study's folder, or an exported .json or .csv")
    report.add_argument("--out", metavar="FOLDER", help="write report.json, report.md and plots there")
    report.add_argument("--json", action="store_true", help="print the report as JSON")

    summary = "how well automatic figures agree with the votes: rank correlation over systems, and prompt by prompt"
    correlated = add_command(parts, "correlate", summary, f"{__name__}:correlate")
    correlated.add_argument("study", help="the study's folder, or an exported .json or .csv")
    figures = "evaluation.json of `emu-video evaluate --out`, of the same systems (by name) and prompts"
    correlated.add_argument("--figures", required=True, metavar="FILE", help=figures)
    correlated.add_argument("--out", metavar="FOLDER", help="write correlation.json, correlation.md and a plot there")
    correlated.add_argument("--json", action="store_true", help="print as JSON")

    export = add_command(parts, "export", "votes, prompts and hashes of a study as one file", f"{__name__}:export")
    export.add_argument("study", help="the study's folder")
    export.add_argument("file", metavar="FILE.json|.csv", help="where to write")

    summary = "an exported study -> a study of its own; or its votes -> another copy of the same study"
    taken = add_command(parts, "import", summary, f"{__name__}:take")
    taken.add_argument("file", metavar="FILE.json|.csv", help="what `study export` wrote")
    taken.add_argument("study", help="a new folder, or the folder of the same study, which takes the votes")


# Each command imports what it needs when it runs: `emu-video --help` waits for none of it.


def create(options: Namespace) -> None:
    """Make a study and say what to do next."""
    from tqdm import tqdm

    from ..evaluation.videos import open_sets
    from ..study.create import create_study

    systems = {each.name: each.folder for each in open_sets(options.systems)}
    progress = partial(tqdm, desc="videos", unit="video", file=sys.stderr, leave=False, disable=None)
    of_study = {"raters": options.raters, "title": options.title, "seed": options.seed}
    of_study["lease_seconds"] = options.lease_minutes * 60
    made = create_study(options.out, systems, options.prompts, options.against, progress, **of_study)
    pairs = f"{made['pairs']} pairs of {made['prompts']} prompts and {made['systems']} systems"
    for why in made["left_out"]:
        print(f"left out: {' '.join(why.split())}", file=sys.stderr)
    print(f"{options.out}: {pairs}, {made['pairs'] * options.raters} votes to give.")
    if made["left_out"]:
        print(f"{len(made['left_out'])} videos could not be read; their pairs are left out (the list is above).")
    if made["reencoded"]:
        print(f"{made['reencoded']} videos could not be shown by every browser and were encoded as H.264, crf 12.")
    if made["silenced"]:
        print(f"{made['silenced']} videos have sound, which was left out: raters judge what they see.")
    print(f"Next: emu-video study serve {options.out}")


def serve(options: Namespace) -> None:
    """Serve a study until Ctrl-C; say where it is and who can reach it."""
    import asyncio
    from contextlib import suppress

    from ..study.access import is_loopback
    from ..study.connections import Limits
    from ..study.server import serve as run
    from ..study.store import Study

    if options.tokens is not None and options.tokens < 0:
        raise UserError(f"--tokens: expected a number of new raters from 0, found {options.tokens}; change it.")

    def started(address: str) -> None:
        links = study.require_tokens(options.tokens) if options.tokens is not None else []
        if is_loopback(options.host):
            print(f"{address}  (this computer only; --host 0.0.0.0 lets others in)", flush=True)
        else:
            who = "only raters with a token" if study.tokens_required else "anybody who reaches it (--tokens closes it)"
            print(f"{address}  (listens on {options.host}; open to {who})", flush=True)
        if links:
            print("Links, one a rater; they are shown only now:")
        for name, token in links:
            print(f"  {name}  {address}#token={token}", flush=True)
        print(f"For you alone, progress and sign-up: {address}owner.html#owner={study.owner_token}", flush=True)
        print("Ctrl-C ends it; votes are stored as they come.", flush=True)

    with Study(options.study) as study, suppress(KeyboardInterrupt):
        limits, proxies = Limits(options.connections), tuple(options.trusted_proxy)
        hosts = tuple(options.public_host)
        asyncio.run(run(study, options.host, options.port, hosts, started, proxies, options.signups, limits))
    print("Stopped.", flush=True)


def report(options: Namespace) -> None:
    """Print a study's report, or write it."""
    from ..study import report, tables

    results = _results(options.study)
    check_folder(options.out)
    if options.json or not options.out:
        found = report.build_report(results)
        print(report.report_json(found) if options.json else tables.markdown(found), end="")
    if options.out:
        _written(options, lambda: report.write_report(results, options.out))


def correlate(options: Namespace) -> None:
    """Print how automatic figures agree with a study's votes, or write it."""
    from ..study import correlation, report

    results = _results(options.study)
    check_folder(options.out)
    found = correlation.correlate(results, correlation.read_figures(options.figures, results))
    if options.json or not options.out:
        print(report.report_json(found) if options.json else correlation.as_markdown(found), end="")
    if options.out:
        _written(options, lambda: report.write_files(found, options.out, "correlation", correlation.as_markdown))


def _results(place: str) -> Results:
    """Of a study's folder, or of an exported file."""
    from ..study import exchange, store

    if Path(place).is_file():
        return exchange.read_results(place)
    with store.Study(place) as study:
        return study.results()


def _written(options: Namespace, write: Callable[[], Sequence[Path]]) -> None:
    """Write files into the folder that was asked for, and say which."""
    replaced = {path: is_there(path) for path in Path(options.out).glob("*")}
    files = write()
    if not options.json:
        print("\n".join(wrote(path, replaced.get(Path(path), False)) for path in files))


def export(options: Namespace) -> None:
    """Write a study's results to one file."""
    from ..study import exchange, store

    with store.Study(options.study) as study:
        results = study.results()
    replaced = is_there(options.file)
    exchange.write_results(results, options.file)
    print(
        f"{wrote(options.file, replaced)}: {sum(len(pair.votes) for pair in results.pairs)} votes on {len(results.pairs)} pairs."
    )


def take(options: Namespace) -> None:
    """Make a study of an export, or add its votes to one that is there."""
    from ..study import exchange, store

    results = exchange.read_results(options.file)
    if (Path(options.study) / store.STORE_NAME).is_file():
        with store.Study(options.study) as study:
            new, old = exchange.merge(study, results)
        print(f"{options.study}: {new} new votes, {old} that were there already.")
    else:
        exchange.import_new(results, options.study)
        print(f"{options.study}: a study for reports and merging, without videos.")

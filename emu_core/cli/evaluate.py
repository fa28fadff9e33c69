"""`emu-video evaluate`: figures of folders of videos, one for each system; or, with the word toy, of the bundled model."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from ..errors import UserError
from .options import (
    add_command,
    add_model_options,
    add_sampling_options,
    check_file,
    check_folder,
    choose_device,
    in_columns,
    is_there,
    progress_bar,
    wrote,
)

logger = logging.getLogger(__name__)

TOY = "toy"  # as the only set, the benchmark of the bundled model and no folder (which would be ./toy)
TOY_PROMPTS = 200
FRAMES = 8  # of a video of theirs, unless told otherwise


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "measure folders of videos, one for each system; or, with the word toy, the tiny model on combinations it never saw"
    prompts = "folders: file or name of a set of prompts; toy: how many held-out prompts (default 200)"
    videos = (
        "toy: measure the videos in this folder instead, wherever they were made; their prompts are in their metadata, or "
        "in a .txt of the same name"
    )
    out = "where JSON, table and plots go; toy: also write contact sheets there"
    parser = add_command(commands, "evaluate", summary, f"{__name__}:evaluate")
    parser.add_argument("sets", nargs="+", metavar="VIDEOS", help="folder of videos or NAME=FOLDER, of any system; or toy")
    parser.add_argument("--prompts", help=prompts)
    parser.add_argument("--videos", metavar="FOLDER", help=videos)
    parser.add_argument("--out", metavar="FOLDER", help=out)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--no-interpolate", action="store_true", help="toy: leave out the interpolation model")
    little = parser.add_argument_group(
        "toy, with a model of the little world, as the bundled one is (see docs/training.md)"
    ).add_argument
    last = "give so many real frames at each video's end instead of a starting frame: does it know what came before?"
    little("--last", type=int, default=0, metavar="K", help=last)
    little("--photographs", metavar="FOLDER", help="also animate the pictures of this folder, and measure what becomes of them")
    add_folder_options(parser)
    add_sampling_options(parser)
    add_model_options(parser)


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """Options of `evaluate FOLDERS` beside those that it shares with `evaluate toy` (--prompts, --out, --json, --device)."""
    weights = "what needs weights takes a local file or folder; without it that figure is `not computed`"
    add = parser.add_argument_group("folders of videos", weights).add_argument
    add("--images", metavar="FOLDER", help="conditioning images named after the prompts: NNN-slug.png or ID.png")
    add("--clip", metavar="FOLDER", help="CLIP (transformers; the paper: ViT-B/32): TC, IC, FC")
    add("--aesthetic", metavar="FILE", help="aesthetic head (.safetensors) on CLIP's image vectors")
    add("--aesthetic-clip", metavar="FOLDER", help="the CLIP of that head, if it is not --clip")
    add("--i3d", metavar="FILE", help="I3D (TorchScript, 400 logits): FVD")
    add("--videomae", metavar="FOLDER", help="VideoMAE (transformers): a second FVD, not comparable with I3D's")
    add("--classifier", metavar="FILE", help="video classifier (TorchScript; UCF-101: C3D): Inception score")
    add("--inception", metavar="FILE", help="Inception (TorchScript): Inception score of single frames")
    add("--reference", metavar="FOLDER", help="real videos that FVD compares with, or their statistics (.npz)")
    add("--save-reference", metavar="FILE.npz", help="write the statistics of --reference for the next time")
    add("--samples", type=int, default=10_000, help="videos that FVD and IS should rest on; fewer give a warning")
    add("--export-vbench", metavar="FOLDER", help="also copy the videos as VBench names them (PROMPT-K.mp4)")
    add("--export-evalcrafter", metavar="FOLDER", help="also copy the videos as EvalCrafter names them (NNNN.mp4)")


def evaluate(options: argparse.Namespace) -> None:
    """`evaluate toy`, where --prompts is a number, or `evaluate VIDEOS ... --prompts FILE`. options.prompts: text or None."""
    if options.sets == [TOY]:
        given = TOY_PROMPTS if options.prompts is None else options.prompts
        try:
            options.prompts = int(given)
        except ValueError as problem:
            raise UserError(f"--prompts: expected with `evaluate toy` how many, found {given!r}; give a number") from problem
        evaluate_toy(options)
    elif options.videos:
        raise UserError("--videos: expected with `evaluate toy` only, found with folders; name that folder as another set")
    elif options.last or options.photographs:
        raise UserError("--last and --photographs: expected with `evaluate toy` only, found with folders; leave them out")
    else:
        evaluate_folders(options)


def evaluate_toy(options: argparse.Namespace) -> None:
    """The benchmark of the bundled model, or of another one of these worlds, of so many held-out prompts or of the videos in a
    folder."""
    from ..model_folder import BUNDLED, read_defaults  # here: they bring torch, and help does not wait for it
    from ..toy import judge, measure
    from .making import check_stacks, load_pipeline, read_settings

    if options.prompts < 1:
        raise UserError(f"--prompts must be 1 or more, found {options.prompts}")
    little = read_defaults(Path(options.model or BUNDLED)).get("world") == "little"
    settings, out, last = read_settings(options), Path(options.out) if options.out else None, options.last
    if not 0 <= last < (settings.frames or FRAMES):
        raise UserError(f"--last must be 0 to {(settings.frames or FRAMES) - 1}, fewer than there are frames, found {last}")
    if (last or options.photographs) and not little:
        raise UserError("--last and --photographs are for a model of the little world: name one with --model")
    check_folder(options.out)
    if options.photographs and not Path(options.photographs).is_dir():
        raise UserError(f"--photographs {options.photographs}: expected a folder of pictures, found none; check the path")
    world, interpolate = (measure, not last) if little else (judge, True)
    if options.videos:
        figures = world.evaluate_folder(Path(options.videos), out)
    else:
        interpolate = interpolate and not options.no_interpolate
        check_stacks(options, settings, interpolate)
        pipeline = load_pipeline(options)
        if little:
            figures = measure.evaluate(pipeline, options.prompts, settings, interpolate, out, last)
        else:
            figures = judge.evaluate(pipeline, options.prompts, settings, interpolate, out)
        if options.photographs:
            found = measure.evaluate_photographs(pipeline, Path(options.photographs), settings, out)
            figures = {**figures, **found, "intervals": figures["intervals"] | found["intervals"]}
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    print(in_columns(figures))


def evaluate_folders(options: argparse.Namespace) -> None:
    """options: sets (FOLDER or NAME=FOLDER, one or more), prompts, out, json, device, and those of add_folder_options."""
    from ..evaluation import export  # here: it brings torch, and help does not wait for it
    from ..evaluation.prompts import LeftOut, read_prompts, with_images, with_readable_images
    from ..evaluation.report import TABLE_FILE, as_json, as_markdown, write_report
    from ..evaluation.sets import Evaluation, Reference, measure_reference, measure_set
    from ..evaluation.videos import open_sets
    from ..networks import NETWORKS, load_networks

    if not options.prompts:
        raise UserError("evaluate: expected --prompts with the prompts of the videos, found none; give a file or a bundled set")
    _check_options(options)
    if options.samples < 2:
        raise UserError(f"--samples: expected 2 or more, found {options.samples}; the protocol asks for 10000")
    left_out: LeftOut = []
    prompts = read_prompts(options.prompts, left_out)
    prompts = with_images(prompts, options.images) if options.images else prompts
    sets = open_sets(options.sets)
    prompts = with_readable_images(prompts, left_out)
    for place, why in left_out:
        logger.warning("%s, %s: %s", options.prompts, place, why)
    exports = [
        (export.export_vbench, export.vbench_layout, options.export_vbench),
        (export.export_evalcrafter, export.evalcrafter_layout, options.export_evalcrafter),
    ]
    exports = [each for each in exports if each[2]]
    for place in (options.out, *(folder for *_, folder in exports)):
        check_folder(place)
    for _, layout, folder in exports:
        export.check_export(layout, sets, prompts, Path(folder))
    networks = load_networks(choose_device(options.device), **{name: getattr(options, name) for name in NETWORKS})
    reference = Reference()
    if options.reference and (networks.i3d or networks.videomae):
        with progress_bar("reference", None) as progress:
            reference = measure_reference(options.reference, networks, options.save_reference, progress)
    results = []
    for each in sets:
        with progress_bar(each.name, len(each.files)) as progress:
            results.append(measure_set(each, prompts, networks, reference.statistics, progress))
    name = Path(options.prompts).name
    evaluation = Evaluation(results, prompts, name, networks, reference, options.samples, left_out)
    # Printed before anything is written: what was measured is not lost with a full disk.
    print(json.dumps(as_json(evaluation), indent=1, ensure_ascii=False) if options.json else as_markdown(evaluation), flush=True)
    lines = []
    if options.out:
        table = Path(options.out) / TABLE_FILE
        replaced = is_there(table)
        write_report(evaluation, Path(options.out))
        lines.append(f"{wrote(table, replaced)}: this table; beside it the figures as JSON and the plots")
    for write, _, folder in exports:
        lines.append(f"wrote {folder}: {write(results, Path(folder))} videos")
    print("\n".join(lines), end="\n" if lines else "", file=sys.stderr if options.json else sys.stdout)


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what no set of videos could mend, before anything is read."""
    from ..networks import NETWORKS, check_networks

    device = choose_device(options.device)
    logger.info("measuring on %s", device)
    check_networks(**{name: getattr(options, name) for name in NETWORKS})
    if options.out and find_spec("matplotlib") is None:
        raise UserError("--out: expected the package matplotlib for its plots, found none; install it, or leave --out out")
    if options.reference and not os.path.exists(os.path.expanduser(options.reference)):
        raise UserError(f"--reference {options.reference}: expected a folder of videos or a .npz, found nothing; check the path")
    if options.save_reference and not options.reference:
        raise UserError("--save-reference writes the statistics of --reference, found none: name it")
    check_file("--save-reference", options.save_reference, ".npz")

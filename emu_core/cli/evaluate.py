"""`emu-video evaluate FOLDERS`, `equalise` and `retrieve`: arguments and what they do. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_command, add_model_options, add_sampling_options, choose_device

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..evaluation.frechet import Gaussian
    from ..evaluation.prompts import Prompt
    from ..evaluation.sets import SetResult
    from ..evaluation.videos import VideoSet
    from ..networks import Networks

logger = logging.getLogger(__name__)

PROMPTS_HELP = "prompts: a .txt (one a line), .csv, .json or .jsonl (id, prompt, image), or a bundled set: general, toy, ucf101"


def add(commands: argparse._SubParsersAction) -> None:
    """`evaluate`, of folders of videos or of the tiny model."""
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
    add_folder_options(parser)
    add_sampling_options(parser)
    add_model_options(parser)


def add_commands(commands: argparse._SubParsersAction) -> None:
    """`equalise` and `retrieve`."""
    _add_equalise(commands)
    _add_retrieve(commands)


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """Options of `evaluate FOLDERS` beside those that it shares with `evaluate toy` (--prompts, --out, --json, --device)."""
    group = parser.add_argument_group(
        "folders of videos", "what needs weights takes a local file or folder; without it that figure is `not computed`"
    )
    group.add_argument("--images", metavar="FOLDER", help="conditioning images named after the prompts: NNN-slug.png or ID.png")
    group.add_argument("--clip", metavar="FOLDER", help="CLIP (transformers; the paper: ViT-B/32): TC, IC, FC")
    group.add_argument("--aesthetic", metavar="FILE", help="aesthetic head (.safetensors) on CLIP's image vectors")
    group.add_argument("--aesthetic-clip", metavar="FOLDER", help="the CLIP of that head, if it is not --clip")
    group.add_argument("--i3d", metavar="FILE", help="I3D (TorchScript, 400 logits): FVD")
    group.add_argument("--videomae", metavar="FOLDER", help="VideoMAE (transformers): a second FVD, not comparable with I3D's")
    group.add_argument("--classifier", metavar="FILE", help="video classifier (TorchScript; UCF-101: C3D): Inception score")
    group.add_argument("--inception", metavar="FILE", help="Inception (TorchScript): Inception score of single frames")
    group.add_argument("--reference", metavar="FOLDER", help="real videos that FVD compares with, or their statistics (.npz)")
    group.add_argument("--save-reference", metavar="FILE.npz", help="write the statistics of --reference for the next time")
    group.add_argument("--samples", type=int, default=10_000, help="videos that FVD and IS should rest on; fewer give a warning")
    group.add_argument("--export-vbench", metavar="FOLDER", help="also copy the videos as VBench names them (PROMPT-K.mp4)")
    group.add_argument("--export-evalcrafter", metavar="FOLDER", help="also copy the videos as EvalCrafter names them (NNNN.mp4)")


def _add_equalise(commands: argparse._SubParsersAction) -> None:
    parser = add_command(
        commands,
        "equalise",
        "make sets of videos comparable: centre crop to 1:1, size, length and frame rate to the smaller",
        "emu_core.cli.evaluate:equalise",
    )
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="two or more folders of videos, or NAME=FOLDER; the last is OUT"
    )
    parser.add_argument(
        "--prompts", metavar="FILE", help=f"{PROMPTS_HELP}; without it, videos are paired in the order of their names"
    )
    parser.add_argument(
        "--across", choices=("prompt", "all"), default="prompt", help="the smaller of the videos of a prompt, or of all videos"
    )
    parser.add_argument(
        "--playable", action="store_true", help="H.264 4:2:0 that browsers play; the loss is printed (default: lossless RGB)"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")


def _add_retrieve(commands: argparse._SubParsersAction) -> None:
    parser = add_command(
        commands,
        "retrieve",
        "the retrieval baseline: for each prompt the training clip whose caption is nearest",
        "emu_core.cli.evaluate:retrieve",
    )
    parser.add_argument("shards", help="folder or address that emu-video curate made")
    parser.add_argument("--prompts", metavar="FILE", required=True, help=PROMPTS_HELP)
    parser.add_argument("--out", metavar="FOLDER", required=True, help="where the videos go, as NNN-slug.mp4")
    parser.add_argument(
        "--text-network",
        metavar="FOLDER",
        help="CLIP or a sentence-embedding network (transformers); without it: by words (TF-IDF)",
    )
    parser.add_argument("--vectors", metavar="FILE.npy", help="keep the captions' vectors there, or use them if they are there")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps ...; auto takes an accelerator if there is one")
    parser.add_argument("--json", action="store_true", help="print as JSON")


# -- evaluate

TOY = "toy"  # as the only set, the benchmark of the bundled model and no folder (which would be ./toy)
TOY_PROMPTS = 200


def evaluate(options: argparse.Namespace) -> None:
    """`evaluate toy`, where --prompts is a number, or `evaluate VIDEOS ... --prompts FILE`. options.prompts: text or None."""
    if options.sets != [TOY]:
        if options.videos:
            raise ValueError("--videos: expected with `evaluate toy` only, found with folders; name that folder as another set")
        evaluate_folders(options)
        return
    from .commands import evaluate as evaluate_toy

    given = TOY_PROMPTS if options.prompts is None else options.prompts
    try:
        options.prompts = int(given)
    except ValueError as problem:
        raise ValueError(f"--prompts: expected with `evaluate toy` how many, found {given!r}; give a number") from problem
    evaluate_toy(options)


def evaluate_folders(options: argparse.Namespace) -> None:
    """options: sets (FOLDER or NAME=FOLDER, one or more), prompts, out, json, device, and those of add_folder_options."""
    from ..evaluation.export import export_evalcrafter, export_vbench
    from ..evaluation.prompts import check_images, read_prompts, with_images
    from ..evaluation.report import TABLE_FILE, as_json, as_markdown, write_report
    from ..evaluation.sets import Evaluation, reference_statistics
    from ..evaluation.videos import open_sets

    if not options.prompts:
        raise ValueError("evaluate: expected --prompts with the prompts of the videos, found none; give a file or a bundled set")
    if options.samples < 2:
        raise ValueError(f"--samples: expected 2 or more, found {options.samples}; the protocol asks for 10000")
    prompts = read_prompts(options.prompts)
    if options.images:
        prompts = with_images(prompts, options.images)
    sets = open_sets(options.sets)
    check_images(prompts)
    for place in (options.out, options.export_vbench, options.export_evalcrafter):
        _check_place(place)
    networks = _networks(options)
    reference = None
    references: dict[str, Gaussian] = {}
    if options.reference and (networks.i3d or networks.videomae):
        with _bar("reference", None) as bar:
            references, broken = reference_statistics(options.reference, networks, options.save_reference, bar.update)
        reference = {
            "source": str(options.reference),
            "videos": {key: statistics.count for key, statistics in references.items()},
            "left_out": [{"file": file.name, "why": why} for file, why in broken],
        }
    results = _measure(sets, prompts, networks, references)
    evaluation = Evaluation(results, prompts, Path(options.prompts).name, networks, reference, options.samples)
    if options.out:
        written = write_report(evaluation, Path(options.out))
        logger.info("wrote %s", ", ".join(map(str, written)))
    for export, folder in ((export_vbench, options.export_vbench), (export_evalcrafter, options.export_evalcrafter)):
        if folder:
            logger.info("%s: %d videos", folder, export(results, Path(folder)))
    print(json.dumps(as_json(evaluation), indent=1, ensure_ascii=False) if options.json else as_markdown(evaluation), end="\n")
    if options.out and not options.json:
        print(f"{Path(options.out) / TABLE_FILE}: this table; beside it the figures as JSON and the plots")


def _measure(sets: list[VideoSet], prompts: list[Prompt], networks: Networks, references: dict[str, Gaussian]) -> list[SetResult]:
    from ..evaluation.sets import measure_set

    results = []
    for each in sets:
        with _bar(each.name, len(each.files)) as bar:
            results.append(measure_set(each, prompts, networks, references, bar.update))
    return results


def _bar(name: str, total: int | None, unit: str = "video") -> tqdm:
    from tqdm import tqdm

    return tqdm(total=total, desc=name, unit=unit, file=sys.stderr)


def _networks(options: argparse.Namespace) -> Networks:
    from ..networks import load_networks

    return load_networks(
        options.clip,
        options.aesthetic,
        options.aesthetic_clip,
        options.inception,
        options.classifier,
        options.i3d,
        options.videomae,
        choose_device(getattr(options, "device", "auto")),
    )


def _check_place(out: str | None) -> None:
    """A folder that can be made, before the long work."""
    if not out:
        return
    place = Path(out)
    if place.exists() and not place.is_dir():
        raise ValueError(f"{out}: expected a folder to write into, found a file; choose another name")
    if not place.absolute().parent.is_dir():
        raise ValueError(f"{out}: expected the folder {place.absolute().parent}, found nothing; make it first")


# -- equalise


def equalise(options: argparse.Namespace) -> None:
    from ..evaluation.equalise import equalise_sets
    from ..evaluation.prompts import read_prompts
    from ..evaluation.videos import open_sets

    *folders, out = options.folders
    if len(folders) < 2:
        raise ValueError(f"equalise: expected two or more folders and OUT, found {len(options.folders)} in all; give A B OUT")
    _check_place(out)
    prompts = read_prompts(options.prompts) if options.prompts else None
    sets = open_sets(folders)
    with _bar("videos", sum(len(each.files) for each in sets)) as bar:
        result = equalise_sets(sets, Path(out), prompts, options.across, options.playable, bar.update)
    print(json.dumps(result, indent=1, ensure_ascii=False) if options.json else _equalised_table(result))


def _equalised_table(result: dict[str, Any]) -> str:
    lines = ["| system | video | before | after | loss |", "|---|---|---|---|---|"]
    for each in result["videos"]:
        loss = "none" if each["loss_db"] is None else f"{each['loss_db']:.1f} dB PSNR"
        lines.append(f"| {each['system']} | {each['prompt']} | {each['before']} | {each['after']} | {loss} |")
    lines += [f"\n{result['rule']}; the smallest of {result['smallest_of']}; {result['encoding']}"]
    lines += [f"left out: {each['file']}: {each['why']}" for each in result["left_out"]]
    return "\n".join(lines)


# -- retrieve


def retrieve(options: argparse.Namespace) -> None:
    from ..data.shards import Shards
    from ..evaluation.prompts import read_prompts
    from ..evaluation.retrieval import captions_of
    from ..evaluation.retrieval import retrieve as find
    from ..networks import open_text_network

    if options.vectors and not options.text_network:
        raise ValueError("--vectors: expected --text-network with it, found none; vectors are of a network")
    if options.vectors and Path(options.vectors).suffix != ".npy":
        raise ValueError(f"{options.vectors}: expected a name that ends in .npy, found another; change it")
    prompts = read_prompts(options.prompts)
    _check_place(options.out)
    shards, captions = Shards.open(options.shards), captions_of(options.shards)
    network = open_text_network(options.text_network, choose_device(options.device)) if options.text_network else None
    with _bar("captions", None, "caption") as bar:
        vectors = Path(options.vectors) if options.vectors else None
        result = find(prompts, captions, shards, Path(options.out), network, vectors, bar.update)
    print(json.dumps(result, indent=1, ensure_ascii=False) if options.json else _retrieved_table(result))


def _retrieved_table(result: dict[str, Any]) -> str:
    lines = [f"{each['file']}: {each['score']:.3f} {each['caption']!r}" for each in result["videos"]]
    said = result["method"]
    return "\n".join([*lines, f"by {said['name']}" + (f"; {said['search']}" if "search" in said else "")])

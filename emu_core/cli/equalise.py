"""`emu-video equalise`: sets of videos made comparable."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from ..errors import UserError
from .options import PROMPTS_HELP, add_command, check_folder, is_there, progress_bar, wrote

logger = logging.getLogger(__name__)


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "make sets of videos comparable: centre crop to 1:1, size, length and frame rate to the smaller"
    prompts = f"{PROMPTS_HELP}; without it, videos are paired in the order of their names"
    across = "the smaller of the videos of a prompt, or of all videos"
    playable = "H.264 4:2:0 that browsers play; the loss is printed (default: lossless RGB)"
    option = add_command(commands, "equalise", summary, f"{__name__}:equalise").add_argument
    option("folders", nargs="+", metavar="FOLDER", help="two or more folders of videos, or NAME=FOLDER; the last is OUT")
    option("--prompts", metavar="FILE", help=prompts)
    option("--across", choices=("prompt", "all"), default="prompt", help=across)
    option("--playable", action="store_true", help=playable)
    option("--json", action="store_true", help="print as JSON")


def equalise(options: argparse.Namespace) -> None:
    """Write the equal videos and say what each was and is."""
    from ..evaluation.equalise import REPORT, equalise_sets  # here: they bring torch, and help does not wait for it
    from ..evaluation.prompts import LeftOut, read_prompts
    from ..evaluation.videos import open_sets

    *folders, out = options.folders
    if len(folders) < 2:
        raise UserError(f"equalise: expected two or more folders and OUT, found {len(options.folders)} in all; give A B OUT")
    check_folder(out)
    bad: LeftOut = []
    prompts = read_prompts(options.prompts, bad) if options.prompts else None
    for place, why in bad:
        logger.warning("%s, %s: %s", options.prompts, place, why)
    sets = open_sets(folders)
    with progress_bar("videos", sum(len(each.files) for each in sets)) as progress:
        replaced = is_there(Path(out) / REPORT)
        result = equalise_sets(sets, Path(out), prompts, options.across, options.playable, progress)
    if options.json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
        return
    print("| system | video | before | after | loss |\n|---|---|---|---|---|")
    for each in result["videos"]:
        loss = "none" if each["loss_db"] is None else f"{each['loss_db']:.1f} dB PSNR"
        print(f"| {each['system']} | {each['prompt']} | {each['before']} | {each['after']} | {loss} |")
    print(f"\n{result['rule']}; the smallest of {result['smallest_of']}; {result['encoding']}")
    for each in result["left_out"]:
        print(f"left out: {each['file']}: {each['why']}")
    print(f"{wrote(out, replaced)}: {len(result['videos'])} videos")

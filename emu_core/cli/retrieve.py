"""`emu-video retrieve`: the retrieval baseline, the training clip nearest to each prompt."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from ..errors import UserError
from .options import PROMPTS_HELP, add_command, check_file, check_folder, choose_device, is_there, progress_bar, wrote

logger = logging.getLogger(__name__)


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its options."""
    summary = "the retrieval baseline: for each prompt the training clip whose caption is nearest"
    network = "CLIP or a sentence-embedding network (transformers); without it: by words (TF-IDF)"
    option = add_command(commands, "retrieve", summary, f"{__name__}:retrieve").add_argument
    option("shards", help="folder or address that emu-video curate made")
    option("--prompts", metavar="FILE", required=True, help=PROMPTS_HELP)
    option("--out", metavar="FOLDER", required=True, help="where the videos go, as NNN-slug.mp4")
    option("--text-network", metavar="FOLDER", help=network)
    option("--vectors", metavar="FILE.npy", help="keep the captions' vectors there, or use them if they are there")
    option("--device", default="auto", help="cpu, cuda, cuda:1, mps ...; auto takes an accelerator if there is one")
    option("--json", action="store_true", help="print as JSON")


def retrieve(options: argparse.Namespace) -> None:
    """Write the nearest clips and say which they are."""
    from ..data.shards import Shards  # here: they bring torch, and help does not wait for it
    from ..evaluation import retrieval
    from ..evaluation.prompts import LeftOut, read_prompts
    from ..networks import open_text_network

    if options.vectors and not options.text_network:
        raise UserError("--vectors: expected --text-network with it, found none; vectors are of a network")
    check_file("--vectors", options.vectors, ".npy")
    bad: LeftOut = []
    prompts = read_prompts(options.prompts, bad)
    for place, why in bad:
        logger.warning("%s, %s: %s", options.prompts, place, why)
    check_folder(options.out)
    device = choose_device(options.device)
    shards, replaced = Shards.open(options.shards), is_there(Path(options.out) / retrieval.REPORT)
    network = open_text_network(options.text_network, device) if options.text_network else None
    vectors = Path(options.vectors) if options.vectors else None
    with progress_bar("captions", None, "caption") as progress:
        result = retrieval.retrieve(prompts, shards, Path(options.out), network, vectors, progress)
    if options.json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
        return
    for each in result["videos"]:
        print(f"{each['file']}: {each['score']:.3f} {each['caption']!r}")
    for each in result["left_out"]:
        print(f"left out: {each['id']}: {each['why']}")
    print("by", "; ".join(result["method"][name] for name in ("name", "search") if name in result["method"]))
    print(f"{wrote(options.out, replaced)}: {len(result['videos'])} videos")

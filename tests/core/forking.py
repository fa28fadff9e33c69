"""Commands as processes that begin with everything imported: `python -m tests.core.forking`, one command of JSON a line. Says a
child's process number as it begins and its status as it ends."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from importlib import import_module

import torch

LOADED = ("pipeline", "data.curate", "training.run", "evaluation.report", "study.create", "toy.tasks", "cli.main", "cli.making")


def main() -> None:
    torch.set_num_threads(1)
    for name in LOADED:
        import_module(f"emu_core.{name}")
    run = import_module("emu_core.cli.main").main
    say = partial(print, flush=True)
    say("ready")
    for line in sys.stdin:
        arguments, log = json.loads(line)
        child = os.fork()
        if child == 0:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(output, stream)
            os._exit(run(arguments))
        say(child)
        say(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()

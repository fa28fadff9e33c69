"""What the command line says when a command fails, and its exit codes: a sentence for what the user can mend, a traceback and
where to report it for a fault of the program."""

from __future__ import annotations

import errno
import logging
import os
import platform
import select
import socket
import sys
import traceback
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .. import __version__
from ..errors import ISSUES, SaidAlready, UserError, out_of_memory

EXIT_FAULT = 1  # a fault of the program
EXIT_INPUT = 2  # what the user gave cannot be used; one sentence on standard error says why
EXIT_INTERRUPTED = 130
EXIT_READER_GONE = 141  # as if ended by SIGPIPE, which is how other programs end then

MOST_KEPT = 1000
"""Of warnings, to know them again."""

OF_THE_SYSTEM = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOTEMPTY, errno.EXDEV),
    *(
        errno.EBUSY,
        errno.ETXTBSY,
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.ENODEV,
        errno.ENXIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
    ),
}
"""Errors of files, disks and addresses that the user can mend; others of the system are faults of the program."""

_MAKING = "make smaller pictures (--size), fewer frames (--frames, or --window for fewer at a time), --vae-tiling"
LOWER = {
    "generate": f"{_MAKING}, fewer candidates, or videos at once (--batch), or choose --dtype bfloat16 or float16",
    "animate": f"{_MAKING}, or choose --dtype bfloat16 or float16",
    "compare": f"{_MAKING}, fewer candidates, or videos at once (--batch), or choose --dtype bfloat16 or float16",
    "interpolate": "make smaller pictures (--size), or choose --dtype bfloat16 or float16",
    "convert": "close other programs; the weights of the file have to fit into memory",
    "curate": "work on fewer videos at a time (--workers), lower --motion-height, or run the CLIP on --device cpu",
    "train": (
        "--fit 8GB chooses what fits; by hand: --set compute.micro=1, --set compute.checkpointing=true, "
        "--set compute.precision=bfloat16, a smaller optimisation.batch or clips.size, or fewer clips.workers"
    ),
    "evaluate": "leave out networks (such as --i3d), run them on --device cpu, or measure smaller videos; toy: fewer --prompts",
    "retrieve": "run the network on --device cpu, or leave --text-network out",
}
"""What takes less memory, by command."""


def say(error: Exception, command: str, verbose: bool) -> int:
    """Say on standard error what ended a command; returns the exit code. Of several processes of one command one speaks."""
    if isinstance(error, BrokenPipeError) and _reader_gone():
        return EXIT_READER_GONE
    if isinstance(error, SaidAlready):
        return EXIT_INPUT
    sentence = _sentence(error, command)
    if _first_to_speak():
        if verbose or sentence is None:
            tell("".join(traceback.format_exception(error)).rstrip("\n"))
        tell(f"emu-video: {sentence or _fault(error)}")
    return EXIT_FAULT if sentence is None else EXIT_INPUT


def tell(text: str) -> None:
    """Say something on standard error, above the progress bars that stand there, unless nobody hears it: the exit code stays
    true."""
    bars = sys.modules.get("tqdm")  # which help and small commands do not wait for
    with suppress(OSError):
        if bars is None:
            print(text, file=sys.stderr)
        else:
            bars.tqdm.write(text, file=sys.stderr)


class Told(logging.Handler):
    """Log messages as `tell` says them, and of equal warnings the first alone: each system of a comparison has the same to say.
    (tqdm's own redirection holds for one bar, and has to be put around each.)"""

    def __init__(self) -> None:
        super().__init__()
        self._warnings: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """See logging."""
        try:
            text = self.format(record)
            if record.levelno == logging.WARNING:
                if text in self._warnings:
                    return
                if len(self._warnings) < MOST_KEPT:
                    self._warnings.add(text)
            tell(text)
        except Exception:
            self.handleError(record)


def open_streams() -> None:
    """Where the process was started without standard output or error (`>&-`, a program without a console), what is said goes
    nowhere, and no file that is opened later takes their number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends


def settle(code: int) -> int:
    """The exit code once all that was said has gone out: `code`, or that of what kept it from going out. What cannot be written
    now is not tried again when Python ends, which would say so."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as problem:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if code == 0 and not isinstance(problem, BrokenPipeError):
                tell(f"emu-video: {problem.strerror}")
            code = code or (EXIT_READER_GONE if isinstance(problem, BrokenPipeError) else EXIT_INPUT)
    return code


def _sentence(error: Exception, command: str) -> str | None:
    """What to tell a user on one line; None for a fault of the program."""
    said = " ".join(str(error).split())
    if out_of_memory(error):
        lower = LOWER.get(command, "close other programs, or work on smaller files")
        return f"memory has run out ({said[:200] or type(error).__name__}): {lower}"
    if isinstance(error, UserError):
        return said or type(error).__name__
    if isinstance(error, OSError) and (error.errno in OF_THE_SYSTEM or isinstance(error, socket.gaierror)):
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return f"{' -> '.join(names)}: {error.strerror}" if names else error.strerror
    return None


def _fault(error: Exception) -> str:
    """Where to report a fault of the program, and what with."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    versions = f"emu-video {__version__}, Python {platform.python_version()}, torch {torch}, {platform.system()}"
    report = f"please report it with all of the above at {ISSUES}"
    return f"this is a fault of the program ({type(error).__name__}); {report} ({versions})"


def _reader_gone() -> bool:
    """Whether what we say goes to another program, which reads no more; nothing is written to it again. A pipe of another kind,
    to a process of our own, may have broken instead."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        try:
            place, asked = stream.fileno(), select.poll()
            asked.register(place, 0)  # of errors alone, as that nobody reads
            if asked.poll(0):
                os.dup2(os.open(os.devnull, os.O_WRONLY), place)
                gone = True
        except (AttributeError, OSError, ValueError):  # no such call on Windows; no real stream
            continue
    return gone


def _first_to_speak() -> bool:
    """Whether none of the processes that torch's launcher started beside this one has spoken yet."""
    place = os.environ.get("TORCHELASTIC_ERROR_FILE")
    try:
        if place and Path(place).parent.parent.is_dir():
            (Path(place).parent.parent / "said").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True

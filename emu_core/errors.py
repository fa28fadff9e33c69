"""The errors that are for the user to read, and which errors are of one item of many."""

import errno
import logging

logger = logging.getLogger(__name__)

ISSUES = "https://github.com/emuvideo/ComfyUI-EmuVideo/issues"
"""Where a fault of the program is reported."""


class UserError(ValueError):
    """What the user gave cannot be used. The message is for the user: which file or input, what was expected, what was found,
    what to do. Anything else that is raised is a fault of the program, and shows its traceback."""


class Stopped(UserError, RuntimeError):
    """Work that went well cannot go on, as a training whose loss is no longer finite. The message is for the user."""


class SaidAlready(UserError):
    """Another process of this command has said what is wrong."""


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed")
"""What torch, its devices and the system say, in small letters, when memory has run out; most is a plain RuntimeError."""


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that memory has run out: of this machine or of its accelerator."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        said = isinstance(error, RuntimeError | OSError) and any(text in str(error).lower() for text in OUT_OF_MEMORY)
        if isinstance(error, MemoryError) or said:
            return True
        error = error.__cause__
    return False


_OF_ALL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def of_one_item(error: Exception) -> str:
    """Why one item of many cannot be used, for the list of what was left out. An error that the next item would meet too is
    raised: a full disk, or an accelerator whose memory has run out."""
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "errno", None) in _OF_ALL or type(seen).__name__ == "OutOfMemoryError":
            raise error
        seen = seen.__cause__
    if isinstance(error, UserError):
        return str(error)
    logger.info("one item of many is left out", exc_info=error)
    said = " ".join(str(error).split())
    return "memory has run out" if out_of_memory(error) else f"{type(error).__name__}: {said}" if said else type(error).__name__

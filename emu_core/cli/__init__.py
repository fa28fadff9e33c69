"""The command line, `emu-video`: one file a command. Parsers name their functions as text, so that help imports nothing heavy."""

from .main import main

__all__ = ["main"]

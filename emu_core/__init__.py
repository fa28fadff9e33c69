"""Emu Video: text to starting frame to video to interpolated video. See docs/ and README.md."""

__version__ = "0.1.0"

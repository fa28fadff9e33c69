"""The laboratory: other ways to make videos, at the scale of the little world, to compare with Emu Video's on the same clips."""

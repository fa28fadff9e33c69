"""The laboratory: all arms in miniature on the procedural world, by the same training, figures and votes as at full size."""

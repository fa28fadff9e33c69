"""The procedural world of the bundled tiny model: its clips, its detectors, its recipes and its way of training. Nobody who uses
or trains a real model needs it, and nothing outside of this folder, the laboratory and the command line imports it."""

"""Every contact with ComfyUI's internals, so that a change there breaks one folder.

`paths`: model folders. `tiny`: the bundled image model as native MODEL, CLIP and VAE. `video_model`: a stack on a MODEL.
`given`: given frames inside a CONDITIONING. `sampling`: the schedule, guidance by image and text, runs with preview.
"""

"""Every contact with ComfyUI's internals, so that a change there breaks one folder.

`paths`: folders of models and studies. `tiny`: the bundled image model as native MODEL, CLIP and VAE. `networks`: what manages
networks of the pack's own. `video_model`: a stack on a MODEL. `given`: given frames inside a CONDITIONING. `sampling`: the
schedule, guidance by image and text, runs with preview. `schema`: how nodes are declared, and their texts. `shown`: text and
pictures on a node. `studies`: the human study on ComfyUI's own server.
"""

"""Figures of one video against closed forms, and the networks that they come from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emu_core import media
from emu_core.evaluation.candidates import best, rank
from emu_core.evaluation.metrics import BATCH, CHANGES, measure_frames, measure_video, psnr
from emu_core.evaluation.prompts import Prompt
from emu_core.networks import I3D, AestheticHead, ClipNetwork, Inception, Networks, VideoMAE, load_networks, sha256

from .evaluation_tiny import ROUNDING, FrameNet, Given, VideoNet, script, tiny_clip


def _clip_of(levels: list[int], path: Path, side: int = 16) -> Path:
    """A lossless video whose frame t is grey of levels[t]."""
    frames = torch.tensor(levels, dtype=torch.float32)[:, None, None, None].expand(-1, side, side, 3) / 255
    media.write_video(path, frames, 8.0)
    return path


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


# -- CLIP's figures


@pytest.mark.parametrize("count", [2, BATCH, BATCH + 1, 2 * BATCH + 5])
def test_text_image_and_consistency_are_their_closed_forms(count: int, tmp_path: Path) -> None:
    """Frame t points at the angle t * step, the prompt at 0.3, the image at -0.2."""
    step = 0.02
    angles = np.arange(256) * step
    given = Given(np.stack([np.cos(angles), np.sin(angles)], axis=1), {"p": np.array([np.cos(0.3), np.sin(0.3)])})
    media.write_image(tmp_path / "image.png", torch.full((16, 16, 3), 200 / 255))
    given.vectors[200] = np.cos(-0.2), np.sin(-0.2)
    path = _clip_of(list(range(count)), tmp_path / "v")
    figures = measure_video(path, Prompt("0", "p", tmp_path / "image.png"), Networks(clip=given)).figures
    t = np.arange(count) * step
    assert figures["clip_text"] == pytest.approx(np.cos(t - 0.3).mean(), abs=1e-12)
    assert figures["clip_image"] == pytest.approx(np.cos(t + 0.2).mean(), abs=1e-12)
    assert figures["frame_consistency"] == pytest.approx(np.cos(step), abs=1e-12)


def test_clip_from_a_folder_is_the_model_itself(clip_folder: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPModel

    clip, model = ClipNetwork(clip_folder), CLIPModel.from_pretrained(clip_folder).eval()
    frames = [np.random.default_rng(i).integers(0, 256, (40, 56, 3), dtype=np.uint8) for i in range(3)]
    pixels = CLIPImageProcessorPil.from_pretrained(clip_folder)(images=frames, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=pixels).pooler_output
    found = clip.images([clip.prepare(frame) for frame in frames])
    assert np.allclose(found, torch.nn.functional.normalize(expected).numpy(), atol=ROUNDING)
    texts = clip.texts(["a big red circle moves right on a white background", "a small " * 40])
    assert texts.shape == (2, 16)
    assert np.allclose(np.linalg.norm(texts, axis=1), 1)
    alone = clip.texts(["a big red circle moves right on a white background"])
    assert np.allclose(alone[0], texts[0], atol=ROUNDING)  # what else is in the batch does not matter


def test_a_network_says_what_it_is(clip_folder: Path) -> None:
    source = ClipNetwork(clip_folder).source
    assert (source.sha256, source.name) == (sha256(clip_folder), clip_folder.name)
    assert "shortest edge" in source.preprocessing
    assert "resampling 3" in source.preprocessing


def test_clip_folders_that_cannot_be_used_are_refused(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a local folder with CLIP, found nothing"):
        ClipNetwork(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="found none of config.json"):
        ClipNetwork(tmp_path / "empty")
    half = Path(shutil.copytree(clip_folder, tmp_path / "half"))
    weights = load_file(half / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "visual_projection" not in k}, half / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 missing, such as visual_projection\.weight"):
        ClipNetwork(half)


def test_best_of_n_starting_frames_is_the_nearest_to_the_prompt() -> None:
    given = Given(np.eye(256), {"p": np.linspace(0, 1, 256)})
    pictures = torch.stack([torch.full((8, 8, 3), level / 255) for level in (10, 250, 90)])
    scores = rank(pictures, "p", given)
    assert (scores, best(scores), rank(list(pictures), "p", given)) == (pytest.approx([10 / 255, 250 / 255, 90 / 255]), 1, scores)
    refusals = (pictures, " ", "empty"), (pictures[:0], "p", "none"), (pictures[..., :1], "p", "height, width, 3")
    for images, prompt, said in refusals:
        with pytest.raises(ValueError, match=said):
            rank(images, prompt, given)


# -- pixels


def test_pixel_error_and_drift_are_their_closed_forms(tmp_path: Path) -> None:
    figures = measure_video(_clip_of([10, 13, 9, 20], tmp_path / "v"), Prompt("0", "p")).figures
    assert (figures["pixel_mse"], figures["colour_drift"]) == (pytest.approx((9 + 16 + 121) / 3), pytest.approx(10))
    assert (figures["worst_drift"], figures["contrast_drift"]) == (pytest.approx(10), pytest.approx(0))
    assert figures["mean_change_red"] == pytest.approx(10)
    assert "clip_text" not in figures
    assert "first_frame_psnr" not in figures


def test_drift_sees_each_channel_and_the_worst_frame(tmp_path: Path) -> None:
    frames = torch.zeros(3, 16, 16, 3)
    frames[0] = 0.4
    frames[1, ..., 0] = 1.0
    frames[2] = 0.4
    frames[2, :8, :, 2], frames[2, 8:, :, 2] = 0.2, 0.6  # the same mean, another deviation
    media.write_video(tmp_path / "v", frames, 8.0)
    figures = measure_video(tmp_path / "v", Prompt("0", "p")).figures
    assert (figures["colour_drift"], figures["worst_drift"]) == (pytest.approx(0, abs=1e-9), pytest.approx(153))
    assert (figures["deviation_change_blue"], figures["contrast_drift"]) == (pytest.approx(51), pytest.approx(17))


def test_first_frame_is_compared_after_the_same_crop_and_resize(tmp_path: Path) -> None:
    picture = torch.rand(64, 96, 3, generator=torch.Generator().manual_seed(0))
    media.write_image(tmp_path / "image.png", picture)
    picture = media.read_image(tmp_path / "image.png")
    start = media.fit(picture[None], 32, 32)
    media.write_video(tmp_path / "same", start.expand(3, -1, -1, -1), 8.0)
    prompt = Prompt("0", "p", tmp_path / "image.png")
    assert measure_video(tmp_path / "same", prompt).figures["first_frame_psnr"] == 100
    darker = (start - 10 / 255).clamp(min=0)
    media.write_video(tmp_path / "darker", darker, 8.0)
    expected = psnr((start[0] * 255).round().byte().numpy(), (darker[0] * 255).round().byte().numpy())
    assert measure_video(tmp_path / "darker", prompt).figures["first_frame_psnr"] == pytest.approx(expected)
    assert expected == pytest.approx(28.13, abs=0.1)


def test_an_unreadable_conditioning_image_does_not_make_the_video_broken(tmp_path: Path) -> None:
    media.write_video(tmp_path / "fine", torch.rand(3, 16, 16, 3), 8.0)
    (tmp_path / "image.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"image\.png: expected a picture") as error:
        measure_video(tmp_path / "fine", Prompt("0", "p", tmp_path / "image.png"))
    assert not isinstance(error.value, media.Unreadable)


def test_motion_is_the_shift_in_pixels(tmp_path: Path) -> None:
    texture = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    texture = torch.nn.functional.interpolate(texture, (160, 240), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    for shift in (0, 2):
        frames = torch.stack([texture[:128, shift * t : shift * t + 160] for t in range(12)])
        media.write_video(tmp_path / f"{shift}.mp4", frames, 8.0)
        found = measure_video(tmp_path / f"{shift}.mp4", Prompt("0", "p")).figures["motion_score"]
        assert found == pytest.approx(shift, abs=0.25)
    media.write_video(tmp_path / "frames", frames, 8.0)
    measured = measure_video(tmp_path / "frames", Prompt("0", "p"))
    assert "motion_score" not in measured.figures  # a folder of pictures has no motion vectors, and nothing takes their place
    assert measured.lacks == ["no motion vectors can be had of them"]


def test_frames_in_memory_give_the_figures_of_a_lossless_file_of_them(tmp_path: Path) -> None:
    texture = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8).repeat(9, 0).repeat(9, 1)
    frames = np.stack([texture[: 64 + 7, 2 * t : 2 * t + 64] for t in range(9)])
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264rgb", rate=8, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 71, "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    media.write_image(tmp_path / "image.png", torch.rand(40, 50, 3))
    clip = Given(np.random.default_rng(1).normal(size=(256, 8)), {"p": np.ones(8)})
    wanted = measure_video(tmp_path / "v.mp4", Prompt("0", "p", tmp_path / "image.png"), Networks(clip=clip))
    found = measure_frames(frames, 8.0, "p", media.read_image(tmp_path / "image.png"), Networks(clip=clip))
    assert (found.figures, len(found.figures)) == (wanted.figures, 15)
    assert measure_frames(frames[:1], 8.0, "p").figures.keys() == set(CHANGES)


# -- networks in TorchScript, VideoMAE, aesthetic heads


def test_i3d_sees_the_middle_frames_resized_and_scaled(tmp_path: Path) -> None:
    file = script(VideoNet(), tmp_path / "i3d.pt")
    (tmp_path / "i3d.pt.json").write_text(json.dumps({"size": 20, "frames": 4}))
    network = I3D(file)
    frames = torch.rand(7, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    media.write_video(tmp_path / "v", frames, 8.0)
    found = measure_video(tmp_path / "v", Prompt("0", "p"), Networks(i3d=network)).features["fvd_i3d"]
    stored = media.read_video(tmp_path / "v").frames[1:5].permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(stored, (20, 20), mode="bilinear", align_corners=False) * 2 - 1
    with torch.no_grad():
        expected = VideoNet().eval()(resized.permute(1, 0, 2, 3)[None], False, False)[0]
    assert np.allclose(found, expected.numpy(), atol=ROUNDING)
    assert "size 20" in network.source.preprocessing
    assert "flags of the file: rescale, resize, return_features" in network.source.preprocessing
    media.write_video(tmp_path / "short", frames[:3], 8.0)
    short = measure_video(tmp_path / "short", Prompt("0", "p"), Networks(i3d=network))
    assert not short.features
    assert "fewer frames than the network of fvd_i3d sees (4)" in short.lacks


def test_inception_gives_probabilities_of_its_last_output(tmp_path: Path) -> None:
    network = Inception(script(FrameNet(), tmp_path / "inception.pt"))
    frame = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    rows = network.probabilities([network.prepare(frame)] * 2)
    assert (rows.shape, rows.sum(axis=1)) == ((2, 7), pytest.approx([1, 1]))
    with torch.no_grad():
        expected = FrameNet().eval()(network.prepare(frame)[None])[1].softmax(dim=1)
    assert np.allclose(rows[0], expected[0].numpy(), atol=ROUNDING)


def test_networks_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected I3D as a TorchScript file, found none"):
        I3D(tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be loaded"):
        I3D(tmp_path / "bad.pt")
    file = script(VideoNet(), tmp_path / "i3d.pt")
    (tmp_path / "i3d.pt.json").write_text('{"sise": 20}')
    with pytest.raises(ValueError, match="found sise"):
        I3D(file)
    (tmp_path / "i3d.pt.json").unlink()
    wrong = Inception(file)
    with pytest.raises(ValueError, match=r"expected Inception that takes \(1, 3, 299, 299\)"):
        wrong.probabilities([wrong.prepare(np.zeros((8, 8, 3), np.uint8))])


def test_videomae_is_the_mean_of_its_states(tmp_path: Path) -> None:
    from transformers import VideoMAEConfig, VideoMAEImageProcessorPil, VideoMAEModel

    shape = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = VideoMAEModel(VideoMAEConfig(image_size=32, patch_size=16, num_frames=4, **shape)).eval()
    model.save_pretrained(tmp_path)
    VideoMAEImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    network = VideoMAE(tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    found = network.video([network.prepare(frame) for frame in frames])
    pixels = VideoMAEImageProcessorPil.from_pretrained(tmp_path)(images=list(frames), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state.mean(dim=1)[0]
    assert network.frames == 4
    assert np.allclose(found, expected.numpy(), atol=ROUNDING)


def test_aesthetic_heads_are_linear_layers_on_the_vectors(clip_folder: Path, tmp_path: Path) -> None:
    clip = ClipNetwork(clip_folder)
    torch.manual_seed(0)
    first, second = torch.nn.Linear(16, 8), torch.nn.Linear(8, 1)
    save_file({"weight": second.weight.new_ones(1, 16), "bias": torch.tensor([0.5])}, tmp_path / "linear.safetensors")
    stack = {f"layers.{i}.{n}": p.detach().clone() for i, m in ((10, second), (2, first)) for n, p in m.named_parameters()}
    save_file(stack, tmp_path / "mlp.safetensors")
    vectors = clip.images([clip.prepare(np.full((8, 8, 3), 99, np.uint8))])
    assert AestheticHead(tmp_path / "linear.safetensors", clip, 16).scores(vectors) == pytest.approx(vectors.sum(axis=1) + 0.5)
    with torch.no_grad():
        expected = second(first(torch.from_numpy(vectors).float()))[:, 0].numpy()
    assert AestheticHead(tmp_path / "mlp.safetensors", clip, 16).scores(vectors) == pytest.approx(expected, abs=ROUNDING)
    with pytest.raises(ValueError, match="expected vectors of 16, found 32"):
        AestheticHead(tmp_path / "mlp.safetensors", clip, 32)
    with pytest.raises(ValueError, match="give --aesthetic-clip"):
        load_networks(aesthetic=str(tmp_path / "mlp.safetensors"))

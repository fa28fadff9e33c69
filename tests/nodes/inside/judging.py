"""The nodes that measure, choose, compare and add to a study, run one by one. See harness.py."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import comfy.model_management as management
import folder_paths
import parts
import torch

CLIP_FIGURES = ("clip_text", "clip_image", "frame_consistency")


def video(pack: Any, seed: int = 0, frames: int = 8) -> torch.Tensor:
    """A picture that moves to the right, 64 x 64, at 8 bits."""
    picture = parts.picture(seed, 1, 64, 128)[0]
    frames_ = torch.stack([picture[:, 2 * place : 2 * place + 64] for place in range(frames)])
    return ((frames_ * 255).round() / 255).movedim(-1, 0).contiguous().movedim(0, -1)  # strides as a VAE's pictures have them


def measured(pack: Any, frames: torch.Tensor, image: torch.Tensor | None, clip: Path | None) -> dict[str, float]:
    """By the core's own way, of a folder of the frames; such a folder has no motion vectors."""
    media, metrics, prompts = (pack.module(f"emu_core.{name}") for name in ("media", "evaluation.metrics", "evaluation.prompts"))
    picture = None
    media.write_video(pack.folder / "core", frames, 4.0)
    if image is not None:
        picture = pack.folder / "core.png"
        media.write_image(picture, image)
    networks = pack.module("emu_core.networks").load_networks(clip=None if clip is None else str(clip))
    return metrics.measure_video(pack.folder / "core", prompts.Prompt("x", parts.PROMPT, picture), networks).figures


def evaluated(pack: Any, frames: torch.Tensor, clip: str, **more: Any) -> tuple[dict[str, Any], str, torch.Tensor]:
    text, table, plot = pack.run("EmuVideoEvaluate", images=frames, fps=4.0, prompt=parts.PROMPT, clip=clip, **more)
    return json.loads(text), table, plot


def check_figures_are_the_cores(pack: Any) -> dict[str, Any]:
    frames, image = video(pack), parts.picture(5)
    found, table, plot = evaluated(pack, frames, "tiny-clip", image=image)
    wanted = measured(pack, frames, image[0], Path(folder_paths.get_folder_paths("emu_video_metrics")[0], "tiny-clip"))
    shown = {key: entry["value"] for key, entry in found["metrics"].items()}
    assert len(shown) == 9 and abs(shown["motion_score"] - 2) < 0.2
    # weights that were moved lie elsewhere in memory, and products are rounded otherwise
    close = {key for key in CLIP_FIGURES if pack.dynamic and abs(shown[key] - wanted[key]) < 1e-6}
    assert {key for key in shown if shown[key] != wanted.get(key)} <= {"motion_score", *close}, (shown, wanted)
    assert found["changes"] == {key: value for key, value in wanted.items() if "_change_" in key}
    for key, mean in (("clip_text", 8), ("clip_image", 8), ("frame_consistency", 7), ("pixel_mse", 7)):
        values = found["frames"][key]
        assert len(values) == mean and abs(sum(values) / mean - shown[key]) < 1e-6 * max(1, shown[key]), key
    assert found["networks"]["clip"]["name"] == "tiny-clip" and len(found["networks"]["clip"]["sha256"]) == 64
    assert table.count("\n") >= 11 and "not computed" not in table
    assert plot.shape == (1, 760, 1200, 3)
    return {"plot": plot, "figures": shown}


def check_without_clip_it_says_so(pack: Any) -> dict[str, Any]:
    frames = video(pack)
    found, table, plot = evaluated(pack, frames, "none")
    for key in ("clip_text", "frame_consistency"):
        assert found["metrics"][key]["not_computed"].startswith("needs a CLIP in models/emu_video_metrics")
    assert "conditioning image" in found["metrics"]["clip_image"]["not_computed"]
    assert "conditioning image" in found["metrics"]["first_frame_psnr"]["not_computed"]
    assert "not computed: needs" in table
    wanted = measured(pack, frames, None, None)
    computed = {key: entry["value"] for key, entry in found["metrics"].items() if "value" in entry}
    assert computed.pop("motion_score") > 1 and computed == {key: wanted[key] for key in computed}
    assert sorted(computed) == ["colour_drift", "contrast_drift", "pixel_mse", "worst_drift"]
    return {"plot": plot}


def check_one_frame_and_odd_sizes(pack: Any) -> dict[str, Any]:
    found, _, plot = evaluated(pack, parts.picture(1, 1, 63, 47), "none")
    assert found["metrics"]["pixel_mse"]["not_computed"] == "needs 2 or more frames"
    evaluated(pack, parts.picture(1, 3, 63, 47), "none")
    evaluated(pack, torch.cat([parts.picture(1, 80, 16, 16), torch.ones(80, 16, 16, 1)], -1), "none")  # alpha, many frames
    still, _, _ = evaluated(pack, torch.full((3, 32, 32, 3), 0.5), "none")
    assert still["metrics"]["pixel_mse"]["value"] == 0
    return {"plot": plot}


def check_clip_is_kept_under_comfyuis_management(pack: Any) -> None:
    load = pack.module("nodes.adapter.networks").load_clip
    folder = Path(folder_paths.get_folder_paths("emu_video_metrics")[0], "tiny-clip")
    clip = load(folder)
    assert load(folder) is clip
    assert clip.module in [module for loaded in management.current_loaded_models for module in loaded.model.model.modules()]
    before = clip.texts([parts.PROMPT])
    management.unload_all_models()
    assert load(folder) is clip and (clip.texts([parts.PROMPT]) == before).all()
    os.utime(folder / "config.json", ns=(0, 0))
    assert load(folder) is not clip


def check_clip_folders(pack: Any) -> None:
    paths = pack.module("nodes.adapter.paths")
    place = Path(folder_paths.get_folder_paths("emu_video_metrics")[0])
    assert place.is_dir()
    other = place / "not-clip"
    other.mkdir(exist_ok=True)
    (other / "config.json").write_text('{"model_type": "videomae"}')
    (place / "broken").mkdir(exist_ok=True)
    (place / "broken" / "config.json").write_text("{")
    folder_paths.filename_list_cache.clear()
    assert paths.clip_names() == ["none", "tiny-clip"]
    for name in ("../tiny-clip", "not-clip", "", "/etc", "tiny-clip/..", "gone"):
        assert "emu_video_metrics" in parts.refusal(lambda name=name: paths.clip_path(name)), name
        for node in ("EmuVideoEvaluate", "EmuVideoBestStartingFrame"):
            assert "was not found" in pack.nodes[node].validate_inputs(clip=name, prompt="x")
    assert "prompt is empty" in pack.nodes["EmuVideoEvaluate"].validate_inputs(clip="tiny-clip", prompt=" ")
    assert pack.nodes["EmuVideoEvaluate"].validate_inputs(clip="none", prompt="") is True
    assert "needs a CLIP" in pack.nodes["EmuVideoBestStartingFrame"].validate_inputs(clip="none", prompt="x")
    sentence = parts.refusal(lambda: pack.run("EmuVideoBestStartingFrame", images=parts.picture(), prompt="x", clip="none"))
    assert "needs a CLIP" in sentence


def starting_frames(pack: Any, seed: int, **more: Any) -> torch.Tensor:
    model, clip, vae = pack.run("EmuVideoTinyModel")
    return pack.run(
        "EmuVideoStartingFrame", model=model, clip=clip, vae=vae, prompt=parts.PROMPT, negative_prompt="", **parts.SIZE,
        seed=seed, steps=4, sampler_name="ddim", text_guidance=-1.0, **more,
    )[0]  # fmt: skip


def check_candidates_are_the_frames_of_their_seeds(pack: Any) -> dict[str, Any]:
    batch = starting_frames(pack, 21, candidates=4)
    singles = [starting_frames(pack, 21 + number) for number in range(4)]
    assert batch.shape == (4, 64, 64, 3)
    assert torch.equal(batch, torch.cat(singles))
    assert len({tuple(frame.flatten().tolist()) for frame in batch}) == 4
    best, scores, index = pack.run("EmuVideoBestStartingFrame", images=batch, prompt=parts.PROMPT, clip="tiny-clip")
    candidates = pack.module("emu_core.evaluation.candidates")
    folder = Path(folder_paths.get_folder_paths("emu_video_metrics")[0], "tiny-clip")
    wanted = candidates.rank(batch, parts.PROMPT, pack.module("emu_core.networks").ClipNetwork(folder))
    assert index == candidates.best(wanted) and torch.equal(best, batch[index : index + 1])
    assert scores == "\n".join(f"{number}: {score:.4f}" for number, score in enumerate(wanted))
    return {"batch": batch, "scores": scores}


def check_side_by_side(pack: Any) -> dict[str, Any]:
    left, right = video(pack), video(pack, 3, 5)
    frames, sheet, fps = pack.run(
        "EmuVideoCompare", images_1=left, label_1="Emu Video", fps=4.0, height=0, shorter="loop", moments=4, images_2=right,
        label_2="the other one", images_3=parts.picture(2, 12, 48, 96), label_3="a wide one at twice the rate", fps_3=8.0,
    )  # fmt: skip
    assert fps == 8.0 and len(frames) == 16
    assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0
    bar = 24
    at = frames[:, bar : bar + 256, 4:260]
    assert torch.equal(at[3], left[1].repeat_interleave(4, 0).repeat_interleave(4, 1))  # frame 3 at 8 a second is 1 at 4
    second = frames[:, bar : bar + 256, 264:520]
    assert torch.equal(second[10], second[0])  # its 5 frames begin again
    held = pack.run(
        "EmuVideoCompare", images_1=left, label_1="a", fps=4.0, height=64, shorter="hold", moments=4, images_2=right, label_2="b"
    )[0]
    assert held.shape[:2] == (8, 64 + 24 + 4)
    assert torch.equal(held[7, 24:88, 72:136], right[4])
    alone = pack.run("EmuVideoCompare", images_1=left, label_1="", fps=4.0, height=30, shorter="loop", moments=16)
    assert alone[0].shape[1] == 24 + 30 + 4 and alone[1].shape[0] == 1
    return {"first": frames[0].clone(), "sheet": sheet}


def add(pack: Any, study: str = "boats 1", prompt: str = parts.PROMPT, **changes: Any) -> tuple[str, int]:
    settings = {
        "images_1": video(pack),
        "images_2": video(pack, 3, 5),
        "system_1": "ours",
        "system_2": "other",
        "fps": 4.0,
        **changes,
    }
    return pack.run("EmuVideoAddToStudy", prompt=prompt, study=study, **settings)


def check_add_to_study(pack: Any) -> dict[str, Any]:
    folder_paths.set_output_directory(str(pack.folder / "output"))
    folder_paths.set_temp_directory(str(pack.folder / "temp"))
    assert add(pack) == ("/emu_video/study/boats%201/", 1)
    assert add(pack)[1] == 1  # the same videos once more
    assert (add(pack, prompt="another text")[1], add(pack, images_3=video(pack, 7), system_3="third")[1]) == (2, 5)
    assert add(pack, key="mine", images_1=video(pack, 9))[1] == 6
    assert "is taken" in parts.refusal(lambda: add(pack, key="mine", images_1=video(pack, 10)))
    assert "both called 'x'" in parts.refusal(lambda: add(pack, system_1="x", system_2="x "))
    assert "two systems are called 'ours'" in parts.refusal(lambda: add(pack, images_3=video(pack), system_3="ours"))
    folder = pack.folder / "output" / "emu_video_studies" / "boats 1"
    assert len(list((folder / "videos").iterdir())) == 2 + 2 + 3 + 2
    assert list((pack.folder / "temp").iterdir()) == []  # nothing stays behind
    add(pack, study="alone", raters=1)
    store = pack.module("emu_core.study.store")
    with store.Study(folder.with_name("alone")) as study, store.Study(folder) as first:
        assert (study.raters, first.raters) == (1, 5)
        results = first.results()
    assert results.systems == ("ours", "other", "third")
    assert sorted(results.prompts.values()) == sorted([parts.PROMPT] * 3 + ["another text"])
    reader = pack.module("emu_core.media").read_video
    made = [reader(file) for file in (folder / "videos").iterdir()]
    assert {(len(one.frames), one.fps) for one in made} == {(8, 4.0), (5, 4.0)}
    return {}


def check_names_of_studies(pack: Any) -> None:
    validate = pack.nodes["EmuVideoAddToStudy"].validate_inputs
    names = ("../up", "a/b", "a\\b", "", ".", "..", " a", "a ", "a.b", "a\0b", "x" * 65, "<b>", "nul", "a\nb", "~", "a:b")
    for name in names:
        assert "letters, digits" in validate(study=name), name
        assert "letters, digits" in parts.refusal(lambda name=name: add(pack, study=name)), name
    for name in ("a", "My study-2_x", "船"):
        assert validate(study=name) is True
    assert "prompt is empty" in validate(prompt=" ")
    assert "odd" in validate(raters=4)
    assert not (Path(folder_paths.get_output_directory()) / "emu_video_studies" / "up").exists()

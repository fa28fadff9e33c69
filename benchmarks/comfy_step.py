"""Step time of the video MODEL inside ComfyUI against the plain MODEL on the same batch:
`python -m benchmarks.comfy_step COMFYUI [--frames N] [--repeats N]`. It runs itself again by ComfyUI's own interpreter.
EMU_VIDEO_TEST_DEVICE=cuda times a card, in float32. With `--sd15` at the size of SD 1.5 (random weights), and with
`--animatediff-evolved FOLDER` against that pack, with a motion module of AnimateDiff v3's shape (random weights too;
self-attention only, so ours is taken with that as well).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACK = Path(__file__).parents[1]
INSIDE = PACK / "tests" / "nodes" / "inside"


def outside(root: Path) -> None:
    from tests.nodes.server import comfy_python, environment

    command = [comfy_python(root), str(Path(__file__)), *sys.argv[1:], "--inside"]
    raise SystemExit(subprocess.run(command, env=environment(), check=False).returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--latents", type=int, default=8, help="side of a frame's latents")
    parser.add_argument("--dynamic", action="store_true", help="with dynamic VRAM (EMU_VIDEO_TEST_DEVICE=cuda)")
    parser.add_argument("--sd15", action="store_true")
    parser.add_argument("--animatediff-evolved", type=Path)
    parser.add_argument("--inside", action="store_true")
    options = parser.parse_args()
    if not options.inside:
        outside(options.comfyui)
    sys.path.insert(0, str(INSIDE))
    import harness

    with tempfile.TemporaryDirectory() as folder:
        sys.argv = [sys.argv[0]]
        pack = harness.start(options.comfyui, PACK, Path(folder), options.dynamic)
        import torch

        with torch.inference_mode():
            cases = sd15_cases(pack, options) if options.sd15 or options.animatediff_evolved else tiny_cases(pack, options.frames)
            measure(cases, options)


def tiny_cases(pack, frames: int) -> dict:
    import parts

    model, clip, vae = pack.run("EmuVideoTinyModel")
    plain = parts.on_the_same_schedule(pack, model)
    text = parts.texts(clip)
    positive, _, negative, latent = parts.conditioning(pack, clip, vae, length=frames)
    stack = parts.save_new_stack(pack, model, "full.safetensors", weights=0.01, mlp_ratio=4)
    return {
        "plain": (plain, *text),
        "tiny stack": (parts.apply(pack, model), positive, negative),
        "full stack (all sites, ratio 4)": (parts.apply(pack, model, stack), positive, negative),
    }


def sd15_cases(pack, options: argparse.Namespace) -> dict:
    import parts
    import torch

    model = parts.sd15(model_channels=320, channel_mult=[1, 2, 4, 4], context_dim=768)
    generator = torch.Generator().manual_seed(2)
    text = tuple([[torch.randn(1, 77, 768, generator=generator), {}]] for _ in range(2))
    settings = {"base": "sd15", "head_dim": 64, "size": (512, 512), "mlp_ratio": 4, "schedule": {"zero_snr": False}}
    names = {"self": ("self",), "self + text": ("self", "text")}
    cases = {"plain": (parts.on_the_same_schedule(pack, model, zero_snr=False), *text)}
    for name, attentions in names.items():
        file = parts.save_new_stack(pack, model, f"{attentions[-1]}.safetensors", attentions=attentions, **settings)
        cases[f"stack, {name}"] = (parts.apply(pack, model, file), *text)
    if options.animatediff_evolved:
        cases["AnimateDiff-Evolved, v3 shape"] = (evolved(pack, model, options.animatediff_evolved), *text)
    return cases


def evolved(pack, model, folder: Path):
    """The MODEL with AnimateDiff-Evolved's motion module of random weights."""
    import harness
    from safetensors.torch import save_file

    place = pack.folder / "models" / "animatediff_models"
    place.mkdir(parents=True, exist_ok=True)
    save_file(motion_module(), place / "bench_v3.safetensors")
    nodes = harness.load_pack(folder).NODE_CLASS_MAPPINGS
    motion = nodes["ADE_LoadAnimateDiffModel"]().load_motion_model("bench_v3.safetensors")[0]
    applied = nodes["ADE_ApplyAnimateDiffModel"]().apply_motion_model(motion)[0]
    return nodes["ADE_UseEvolvedSampling"]().use_evolved_sampling(model, beta_schedule="autoselect", m_models=applied)[0]


def motion_module() -> dict:
    """Random weights in AnimateDiff v3's layout: a module after each residual block, none in the middle."""
    import torch

    generator, state = torch.Generator().manual_seed(5), {}

    def put(name: str, *shape: int) -> None:
        state[name] = 0.02 * torch.randn(shape, generator=generator)

    sides = (("down_blocks", (320, 640, 1280, 1280), 2), ("up_blocks", (1280, 1280, 640, 320), 3))
    for side, widths, count in sides:
        for i, c in enumerate(widths):
            for j in range(count):
                root = f"{side}.{i}.motion_modules.{j}.temporal_transformer"
                block = f"{root}.transformer_blocks.0"
                for name in (f"{root}.norm", f"{block}.norms.0", f"{block}.norms.1", f"{block}.ff_norm"):
                    put(f"{name}.weight", c)
                    put(f"{name}.bias", c)
                for name in (f"{root}.proj_in", f"{root}.proj_out"):
                    put(f"{name}.weight", c, c)
                    put(f"{name}.bias", c)
                for k in (0, 1):
                    attention = f"{block}.attention_blocks.{k}"
                    for part in ("to_q", "to_k", "to_v", "to_out.0"):
                        put(f"{attention}.{part}.weight", c, c)
                    put(f"{attention}.to_out.0.bias", c)
                    put(f"{attention}.pos_encoder.pe", 1, 32, c)
                put(f"{block}.ff.net.0.proj.weight", 8 * c, c)
                put(f"{block}.ff.net.0.proj.bias", 8 * c)
                put(f"{block}.ff.net.2.weight", c, 4 * c)
                put(f"{block}.ff.net.2.bias", c)
    return state


def measure(cases: dict, options: argparse.Namespace) -> None:
    import parts
    import torch

    frames, repeats, steps = options.frames, options.repeats, 2
    latent = torch.zeros(frames, 4, options.latents, options.latents)
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + 1):
        for name, (video, first, second) in cases.items():
            started = time.perf_counter()
            parts.ksample(video, first, second, latent, steps=steps)
            if turn:
                times[name].append((time.perf_counter() - started) / steps)
    base = statistics.median(times["plain"])
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{name:32} {1000 * middle:7.1f} ms a step of 2 x {frames} frames, {middle / base:.2f} x the plain MODEL")


if __name__ == "__main__":
    main()

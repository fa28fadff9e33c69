"""The schedule of a stack as ComfyUI's model_sampling, trailing sigmas, guidance by image and text, and runs with preview.

Checked on ComfyUI 0.3.64, 0.8.0 and 0.33.0; read further: model_sampling to about 0.36, samplers and latent_preview to about
0.38. comfy.sample: 0.33.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider

from ...emu_core.errors import UserError
from ...emu_core.model.guidance import calls
from ...emu_core.model.schedule import ScheduleConfig, abar, trailing_timesteps, videos_noise

SAMPLER_NAMES: list[str] = comfy.samplers.SAMPLER_NAMES
stop_if_cancelled = comfy.model_management.throw_exception_if_processing_interrupted
NEARLY_ZERO = 4.8973451890853435e-08
"""ComfyUI's last alpha_bar at zero terminal SNR, where a true zero would be an infinite sigma."""


class VideoModelSampling(comfy.model_sampling.ModelSamplingDiscrete):
    """A ScheduleConfig in ComfyUI's terms. Its sigmas are plain attributes, no buffers of the model it is put on: the model's
    own parts are moved and backed up between prompts, and these must not be among them."""

    def __init__(self, schedule: ScheduleConfig) -> None:
        self.schedule = schedule
        super().__init__()

    def _register_schedule(self, *_: Any, **__: Any) -> None:
        power = abar(self.schedule)
        power[-1] = power[-1].clamp(min=NEARLY_ZERO)
        self.num_timesteps = self.schedule.steps
        self.linear_start, self.linear_end = self.schedule.beta_start, self.schedule.beta_end
        self.zsnr = self.schedule.zero_snr
        self.set_sigmas(((1 - power) / power).sqrt())

    def set_sigmas(self, sigmas: torch.Tensor) -> None:
        """Noise levels (steps,), the smallest first; other nodes call this too."""
        self.sigmas = sigmas.float()
        self.log_sigmas = sigmas.log().float()

    def register_buffer(self, *_: Any, **__: Any) -> None:
        """Nothing: under dynamic VRAM a load hands the image model's sigmas back by name, when this stands in their place."""

    calculate_input = comfy.model_sampling.EPS.calculate_input
    noise_scaling = comfy.model_sampling.EPS.noise_scaling
    inverse_noise_scaling = comfy.model_sampling.EPS.inverse_noise_scaling

    def calculate_denoised(self, sigma: torch.Tensor, model_output: torch.Tensor, model_input: torch.Tensor) -> torch.Tensor:
        """The clean latents that the U-Net's output means, in its shape."""
        kind = comfy.model_sampling.EPS if self.schedule.prediction == "epsilon" else comfy.model_sampling.V_PREDICTION
        return kind.calculate_denoised(self, sigma, model_output, model_input)


def trailing_sigmas(patcher: ModelPatcher, steps: int, denoise: float = 1.0) -> torch.Tensor:
    """Sigmas (steps + 1,) at timesteps evenly spaced from the last, and 0; `denoise` below 1 leaves out the noisiest part.
    ValueError for a MODEL without discrete timesteps, or more steps than it has."""
    if denoise <= 0:
        return torch.zeros(0)
    sampling = patcher.get_model_object("model_sampling")
    sigmas = getattr(sampling, "sigmas", None)
    if not isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete) or sigmas is None:
        found = f"found {type(sampling).__name__}: use ComfyUI's own schedulers with it"
        raise UserError(f"the trailing schedule needs a MODEL of discrete timesteps (SD 1.5, SD 2.1, SDXL), {found}")
    whole = int(steps / denoise)
    if whole > len(sigmas):
        found = f"found {steps} / {denoise:g}: take fewer steps or a higher denoise"
        raise UserError(f"steps / denoise should be at most {len(sigmas)}, the timesteps of this MODEL, {found}")
    timesteps = trailing_timesteps(ScheduleConfig(steps=len(sigmas)), whole)
    return torch.cat([sigmas[timesteps.to(sigmas.device)].cpu(), torch.zeros(1)])[-(steps + 1) :]


def image_guider(patcher: ModelPatcher, clip: Any, texts: Sequence[str], size: tuple[int, int], guidance: float) -> CFGGuider:
    """ComfyUI's own guidance of an image model by a prompt and a negative one. SDXL reads the `size`, (width, height)."""
    (width, height), cropped = size, {"crop_w": 0, "crop_h": 0}
    sizes = {"width": width, "height": height, "target_width": width, "target_height": height, **cropped}
    guider = CFGGuider(patcher)
    guider.set_conds(*(clip.encode_from_tokens_scheduled(clip.tokenize(text), add_dict=sizes) for text in texts))
    guider.set_cfg(guidance)
    return guider


class VideoGuider(CFGGuider):
    """X(none) + w_i (X(I) - X(none)) + w_p (X(I,p) - X(I)), without the evaluations whose weight is zero. With ComfyUI's nodes:
    DualCFGGuider, style regular, cond1 = positive, cond2 = image only."""

    def __init__(self, patcher: ModelPatcher, image_guidance: float, text_guidance: float) -> None:
        super().__init__(patcher)
        self.image_guidance, self.text_guidance = image_guidance, text_guidance

    def set_conditionings(self, positive: list[Any], image_only: list[Any], negative: list[Any]) -> None:
        """CONDITIONINGs of X(I,p), X(I) and X(none)."""
        self.inner_set_conds({"positive": positive, "middle": image_only, "negative": negative})

    def predict_noise(
        self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> torch.Tensor:
        """ComfyUI asks for this at each step: the guided prediction for latents `x` (v f, C, h, w), in the same shape."""
        w_i, w_p, options = self.image_guidance, self.text_guidance, model_options or {}
        names = {(False, False): "negative", (True, False): "middle", (True, True): "positive"}
        needed = [names[call.image, call.text] for call in calls(w_i, w_p)]
        outputs = comfy.samplers.calc_cond_batch(self.inner_model, [self.conds[name] for name in needed], x, timestep, options)
        found = dict(zip(needed, outputs, strict=True))

        def guide(less: str, more: str, weight: float) -> torch.Tensor:
            """One step of guidance through ComfyUI's own function, where other nodes' patches of it act."""
            settings = {"model_options": options, "cond": self.conds[more], "uncond": self.conds[less]}
            return comfy.samplers.cfg_function(self.inner_model, found[more], found[less], weight, x, timestep, **settings)

        if len(needed) == 1:
            return outputs[0]
        if len(needed) == 2:  # without the middle the two weights are equal: guidance from nothing to all
            return guide(*needed, w_p if "positive" in needed else w_i)
        return guide("negative", "middle", w_i) + (found["positive"] - found["middle"]) * w_p


def run_guider(
    guider: CFGGuider,
    latent: dict[str, Any],
    sigmas: torch.Tensor,
    sampler: str,
    seed: int,
    shared_noise: float = 0.0,
    frames: int = 0,
    on_the_way: int | None = None,
    part: tuple[int, int] = (0, 1),
) -> torch.Tensor:
    """Sample from noise drawn on the CPU in one call; preview, progress and Cancel as everywhere in ComfyUI. `shared_noise` is
    the stack's, of each video of so many `frames` (0: all are one). `on_the_way`: the seed of samplers that add noise (None:
    `seed`). `part`: which of how many runs this is; the progress is that of all. Latents as `latent` has them, unscaled."""
    start = comfy.sample.fix_empty_latent_channels(guider.model_patcher, latent["samples"])
    noise = comfy.sample.prepare_noise(start, seed, latent.get("batch_index"))
    if shared_noise:  # each video has a part of its own that its frames share
        noise = videos_noise(start.shape, frames, torch.Generator().manual_seed(seed), shared_noise).to(noise)
    number, runs = part
    whole = latent_preview.prepare_callback(guider.model_patcher, runs * max(len(sigmas) - 1, 1))

    def preview(step: int, x0: torch.Tensor, x: torch.Tensor, steps: int) -> None:
        whole(number * steps + step, x0, x, runs * steps)

    later = seed if on_the_way is None else on_the_way
    settings = {"denoise_mask": latent.get("noise_mask"), "disable_pbar": not comfy.utils.PROGRESS_BAR_ENABLED, "seed": later}
    result = guider.sample(noise, start, comfy.samplers.sampler_object(sampler), sigmas, callback=preview, **settings)
    return result.to(comfy.model_management.intermediate_device())

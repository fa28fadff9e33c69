"""The frozen text-to-image model in memory: text in, states out; images in, latents out, and back.

Shapes: `b` prompts, `n` tokens, `f` frames, `c` latent channels, `h w` latent and `H W` pixel height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase

from ..errors import UserError
from ..model.schedule import ScheduleConfig
from . import vocabulary
from .prompts import chunks

TextEncoder = CLIPTextModel | CLIPTextModelWithProjection


@dataclass
class TextStates:
    """What the U-Net reads of a text: `hidden` (b, n, d), and for SDXL `pooled` (b, p), else None."""

    hidden: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True)
class BaseInfo:
    """What can be known of a base without reading its weights.

    `parts` gives each part's size on disk in bytes (0 without weights), `configs` the configuration of the U-Net, the VAE and the
    text encoders as diffusers and transformers name them; for a single file they are derived from its tensors' shapes.
    """

    path: Path
    kind: Literal["folder", "single"]
    family: str
    parts: dict[str, int]
    configs: dict[str, dict[str, Any]]
    schedule: ScheduleConfig
    variants: dict[str, str | None] = field(default_factory=dict)  # folder: "fp16" where a part has only such weights
    vae: Path | None = None  # from where it is read, if not from the model itself


@dataclass(eq=False)
class Base:
    """A frozen text-to-image model. Every part is in eval mode and asks for no gradient.

    `family` is read from the structure: sd15, sd21, sdxl, tiny, or other-<width of the text states>. `schedule` is the noise
    that the text-to-image model itself was trained with, and what it predicts; a video model on it may have another.

    Of the VAE: how many `latent_channels` there are; `latent_shift` is taken from its latents, and the rest multiplied by
    `latent_scale`, for unit variance; one latent position is `pixels_per_latent` wide, 8 for Stable Diffusion.
    """

    family: str
    source: str
    unet: UNet2DConditionModel = field(repr=False)
    vae: AutoencoderKL = field(repr=False)
    text_encoders: list[TextEncoder] = field(repr=False)
    tokenizers: list[PreTrainedTokenizerBase] = field(repr=False)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(zero_snr=False, prediction="epsilon"))
    latent_channels: int = field(init=False, repr=False)
    latent_scale: float = field(init=False, repr=False)
    latent_shift: float = field(init=False, repr=False)
    pixels_per_latent: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for part in (self.unet, self.vae, *self.text_encoders):
            part.eval().requires_grad_(False)
        config: Any = self.vae.config
        self.latent_channels = int(config["latent_channels"])
        self.latent_scale, self.latent_shift = float(config["scaling_factor"]), float(config["shift_factor"] or 0.0)
        self.pixels_per_latent = 2 ** (len(config["block_out_channels"]) - 1)

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the U-Net and the text encoders; the VAE may be kept in float32, see `to`."""
        return self.unet.dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Base:
        """Move all parts, in place. In float16 a VAE whose config says `force_upcast` stays in float32."""
        for module in (self.unet, *self.text_encoders, self.vae):
            kind = vae_dtype(dtype, self.vae.config) if dtype is not None and module is self.vae else dtype
            nn.Module.to(module, device=device, dtype=kind)  # diffusers' own `to` warns at any dtype, even None
        return self

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> TextStates:
        """Text states of texts as they stand, such as captions, cut to what the text encoder reads at once; "" is one like any
        other. What a person asks for goes through `encode_prompt`.

        One text encoder: its last hidden state after the final norm. (For SD 2.1 that encoder is OpenCLIP without its
        last layer, so these are the penultimate states.) Two, as in SDXL: the penultimate hidden states of both, not
        normed, side by side, and the second one's projected text embedding as `pooled`.
        """
        assert not isinstance(prompts, str), "encode_text takes a list of prompts"
        outputs = []
        for encoder, tokenizer in zip(self.text_encoders, self.tokenizers, strict=True):
            ids = vocabulary.token_ids(tokenizer, prompts, vocabulary.length(tokenizer, encoder.config.max_position_embeddings))
            outputs.append(self._read(encoder, ids))
        return TextStates(torch.cat([hidden for hidden, _ in outputs], dim=-1), outputs[-1][1])

    @torch.no_grad()
    def encode_prompt(self, prompt: str) -> TextStates:
        """Text states (1, n, d) of one prompt with weights and of any length, as ComfyUI makes them (see `prompts`). A prompt
        without weights that is read at once has the states that `encode_text` gives it (but for "!", see `vocabulary.reader`).

        Of a token of weight w they are e + w (s - e), where s is its own state and e that which the empty prompt has at its
        place; parts of a long prompt follow each other. `pooled` is the first part's, and knows no weights.
        """
        outputs = []
        for encoder, tokenizer in zip(self.text_encoders, self.tokenizers, strict=True):
            length = vocabulary.length(tokenizer, encoder.config.max_position_embeddings)
            parts = chunks(tokenizer, prompt, length)
            weights = torch.tensor([[weight for _, weight in part] for part in parts], device=encoder.device)[..., None]
            bare = bool((weights == 1).all())
            rows = parts if bare else parts + chunks(tokenizer, "", length)
            hidden, pooled = self._read(encoder, torch.tensor([[token for token, _ in row] for row in rows]))
            if not bare:
                own, empty = hidden[:-1].float(), hidden[-1:].float()
                hidden = torch.where(weights == 1, own, empty + weights * (own - empty)).to(hidden.dtype)
            outputs.append((hidden.reshape(1, -1, hidden.shape[-1]), None if pooled is None else pooled[:1]))
        return TextStates(torch.cat([hidden for hidden, _ in outputs], dim=-1), outputs[-1][1])

    def _read(self, encoder: TextEncoder, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """What one text encoder makes of tokens (b, n): the states that are read of it, and the pooled one."""
        two = len(self.text_encoders) > 1
        output: Any = encoder(ids.to(encoder.device), output_hidden_states=two)
        return (output.hidden_states[-2] if two else output.last_hidden_state), output.get("text_embeds")

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of `prompt`, as written there, each once, that the model has no token for; [] when it spells any word."""
        if self.known_words() is None:
            return []
        tokenizer = self.tokenizers[0]
        encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = zip(encoded.input_ids, encoded.offset_mapping, strict=True)
        return list(dict.fromkeys(prompt[a:b] for number, (a, b) in spans if number == tokenizer.unk_token_id))

    def known_words(self) -> list[str] | None:
        """Every word of a word-level vocabulary, sorted; None when the vocabulary spells any word."""
        tokenizer = self.tokenizers[0]
        if not isinstance(tokenizer.backend_tokenizer.model, WordLevel):
            return None
        return sorted(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))

    def added_conditions(self, pooled: Tensor | None, height: int, width: int) -> dict[str, Tensor] | None:
        """`added_cond_kwargs` for the U-Net of SDXL, None for the others.

        `pooled` (b, p) and the picture's size in pixels give {"text_embeds": (b, p), "time_ids": (b, 6)}; the six are
        original height and width, top and left of the crop (0), target height and width.
        """
        if self.unet.config["addition_embed_type"] != "text_time":
            return None
        assert pooled is not None, "this U-Net reads the pooled text state as well"
        # float32 in every precision: bfloat16 would round most sizes
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=pooled.device)
        return {"text_embeds": pooled, "time_ids": sizes.repeat(len(pooled), 1)}

    @torch.no_grad()
    def encode_images(self, images: Tensor, batch: int = 4) -> Tensor:
        """Images (f, H, W, 3) in 0..1 to latents (f, c, h, w): the posterior's mode, shifted and scaled.

        float32, on the model's device. `batch` images go through the VAE at a time.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or not len(images):
            raise UserError(f"expected images (frames, height, width, 3), found shape {tuple(images.shape)}: reorder the axes")
        factor, height, width = self.pixels_per_latent, *images.shape[1:3]
        if height % factor or width % factor:
            raise UserError(f"expected sides divisible by {factor} pixels, found {height} x {width}: crop or resize the images")
        chunks = []
        for chunk in images.split(batch):
            pixels = chunk.permute(0, 3, 1, 2).to(self.vae.device, torch.float32) * 2 - 1
            chunks.append(self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float())
        return (torch.cat(chunks) - self.latent_shift) * self.latent_scale

    def decode_latents(self, latents: Tensor, batch: int = 4) -> Tensor:
        """Latents (f, c, h, w) to images (f, H, W, 3) in 0..1, float32.

        `batch` frames go through the VAE at a time; the images are gathered in main memory, so that the device need not hold f.
        """
        f, _, h, w = latents.shape
        images, made = torch.empty(f, h * self.pixels_per_latent, w * self.pixels_per_latent, 3), 0
        for part in self.decoded(latents, batch):
            images[made : made + len(part)] = part
            made += len(part)
        return images

    @torch.no_grad()
    def decoded(self, latents: Tensor, batch: int = 4) -> Iterator[Tensor]:
        """As `decode_latents`, `batch` frames (k, H, W, 3) at a time: they can be written while more are made."""
        for chunk in latents.split(batch):
            scaled = chunk.to(self.vae.device, torch.float32) / self.latent_scale + self.latent_shift
            pixels = self.vae.decode(scaled.to(self.vae.dtype)).sample
            yield (pixels.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu()


def preserved(base: Base, images: Tensor, latents: Tensor) -> list[float]:
    """How much of each picture (k, H, W, 3) in 0..1 the autoencoder keeps in its latents (k, c, h, w): 10 log10(1 / mean squared
    error) of the decoded picture in dB, at most 100."""
    error = (base.decode_latents(latents) - images.float().clamp(0, 1).cpu()).square().mean(dim=(1, 2, 3))
    return (-10 * error.clamp(min=1e-10).log10()).tolist()


def vae_dtype(dtype: torch.dtype, config: Any) -> torch.dtype:
    """The VAE's precision in a model of precision `dtype`: SDXL's VAE overflows in float16, and its config says so."""
    return torch.float32 if dtype == torch.float16 and config["force_upcast"] else dtype


def build(module: nn.Module, state: dict[str, Tensor], what: str) -> Any:
    """Give `module`, built on the meta device, the weights of `state`; both must have the same keys and shapes."""
    for name, buffer in module.named_buffers():
        if buffer.is_meta and name.endswith("position_ids"):  # in no file, and made by the constructor: 0, 1, 2, ...
            module.get_submodule(name.rpartition(".")[0]).position_ids = torch.arange(buffer.shape[-1]).unsqueeze(0)
    wanted = module.state_dict()
    missing, surplus = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [k for k in wanted if k in state and wanted[k].shape != state[k].shape]
    if missing or surplus or shapes:
        wrong = {"missing": missing, "surplus": surplus, "of another shape": shapes}
        found = ", ".join(f"{len(names)} {how} ({names[0]} first)" for how, names in wrong.items() if names)
        raise UserError(f"{what}: expected the {len(wanted)} weights of its kind, found {found}: use an unmodified model")
    module.load_state_dict(state, assign=True)
    return module


def build_text_encoder(config: dict[str, Any], state: dict[str, Tensor], projected: bool, what: str) -> TextEncoder:
    """A CLIP text encoder, with its text projection if `projected`, from weights named with or without `text_model.`"""
    model = empty_text_encoder(config, projected)
    # whether the model itself wraps a `text_model` depends on the class and on the version of transformers
    prefix = "text_model." if hasattr(model, "text_model") else ""
    ignored = {"logit_scale", "embeddings.position_ids"} | (set() if projected else {"text_projection.weight"})
    bare = {k.removeprefix("text_model."): v for k, v in state.items()}
    named = {k if k.startswith("text_projection") else prefix + k: v for k, v in bare.items() if k not in ignored}
    return build(model, named, what)


def empty_text_encoder(config: dict[str, Any], projected: bool) -> TextEncoder:
    """A CLIP text encoder on the meta device."""
    with torch.device("meta"):
        return (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig.from_dict(config))

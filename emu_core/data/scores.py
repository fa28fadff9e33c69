"""How well text and first frame fit (CLIP), and how pleasing the frame is (a head on CLIP's image embedding).

Models come from local folders; nothing is ever downloaded. Written for transformers 4.37 to 5: version 5 returns an output
object where version 4 returned the embedding itself.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np


def check_models(clip: str | None, aesthetic: str | None) -> None:
    """ValueError before any work where the model folders cannot be what they should be."""
    if aesthetic and not clip:
        raise ValueError("--aesthetic: expected --clip FOLDER with it, since it works on CLIP's image embedding; give both.")
    if clip:
        for name in ("config.json", "preprocessor_config.json"):
            if not (Path(clip) / name).is_file():
                raise ValueError(
                    f"{clip}: expected a folder of transformers' CLIPModel, found no {name} in it; save model, tokenizer and "
                    f"image processor there with save_pretrained."
                )
    if aesthetic and not (os.path.isfile(aesthetic) and str(aesthetic).endswith(".safetensors")):
        raise ValueError(f"{aesthetic}: expected a .safetensors file with an aesthetic head, found none; check the path.")


def fingerprint(path: str) -> str:
    """16 hexadecimal digits of a model's files, so that scores of two models are never mixed."""
    digest = blake2b(digest_size=8)
    files = [Path(path)] if os.path.isfile(path) else sorted(p for p in Path(path).iterdir() if p.is_file())
    for file in files:
        digest.update(file.name.encode() + b"\0")
        with open(file, "rb") as content:
            while part := content.read(1 << 24):
                digest.update(part)
    return digest.hexdigest()


@lru_cache(maxsize=2)
def scorer(clip: str, aesthetic: str | None, device: str) -> Scorer:
    """The scorer of this process, loaded once."""
    return Scorer(clip, aesthetic, device)


class Scorer:
    """`score(caption, frame)` -> (cosine of text and image embeddings, aesthetic score or None).

    Raises ValueError where the folder or the head cannot be used.
    """

    def __init__(self, clip: str, aesthetic: str | None = None, device: str = "cpu") -> None:
        try:
            from transformers import AutoTokenizer, CLIPModel
        except ImportError as problem:
            raise ValueError("--clip: expected the package transformers, found none; pip install transformers.") from problem
        try:
            self._model: Any = CLIPModel.from_pretrained(clip, local_files_only=True).eval().to(device)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(clip, local_files_only=True)
            self._processor: Any = _processor_class().from_pretrained(clip, local_files_only=True)
        except (OSError, ValueError, KeyError) as problem:
            reason = " ".join(str(problem).split())
            raise ValueError(f"{clip}: expected a folder of transformers' CLIPModel, found {reason}.") from problem
        self._device = device
        self._head = load_head(aesthetic, self._model.config.projection_dim) if aesthetic else None

    def score(self, caption: str, frame: np.ndarray) -> tuple[float, float | None]:
        """`frame` is (H, W, 3) uint8. One thread, so that the last digits do not depend on the machine's cores."""
        import torch
        from PIL import Image

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                tokens = self._tokenizer(
                    [caption],
                    return_tensors="pt",
                    truncation=True,
                    max_length=self._model.config.text_config.max_position_embeddings,
                )
                ids, mask = tokens["input_ids"].to(self._device), tokens["attention_mask"].to(self._device)
                pixels = self._processor(images=Image.fromarray(frame), return_tensors="pt")["pixel_values"].to(self._device)
                text = _unit(_embedding(self._model.get_text_features(input_ids=ids, attention_mask=mask)))
                image = _unit(_embedding(self._model.get_image_features(pixel_values=pixels)))
                pleasing = float(apply_head(self._head, image.cpu())[0, 0]) if self._head else None
                return float((text * image).sum()), pleasing
        finally:
            torch.set_num_threads(threads)


def _processor_class() -> Any:
    import transformers

    # The plain CLIPImageProcessor of version 5 wants torchvision.
    return getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor


def _embedding(output: Any) -> Any:
    return output.pooler_output if hasattr(output, "pooler_output") else output


def _unit(vectors: Any) -> Any:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def load_head(path: str, width: int) -> list[tuple[Any, Any]]:
    """The linear layers (weight (out, in), bias (out,) or None) of a head that maps a unit embedding (width,) to one score.

    Layers come in the order of the numbers in their names, with nothing between them: so is the head of the LAION aesthetic
    predictor, whose MLP has dropout but no activation. A head with activations cannot be told from its shapes; the safetensors
    metadata "activation", if present, is refused unless "none". Raises ValueError where the shapes form no chain to 1.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a dict
            activation = (file.metadata() or {}).get("activation", "none")
    except (SafetensorError, OSError) as problem:
        raise ValueError(f"{path}: expected a safetensors file, found one that cannot be read ({problem}).") from problem
    if activation != "none":
        raise ValueError(f"{path}: expected a head of linear layers only, found activation {activation!r}; use another head.")
    names = sorted((n for n, t in tensors.items() if t.ndim == 2), key=_natural)
    layers = [(tensors[n], tensors.get(n[: -len("weight")] + "bias" if n.endswith("weight") else n + ".bias")) for n in names]
    sizes = [width]
    for weight, bias in layers:
        if weight.shape[1] != sizes[-1] or (bias is not None and bias.shape != weight.shape[:1]):
            sizes = []
            break
        sizes.append(weight.shape[0])
    used = sum(1 if bias is None else 2 for _, bias in layers)
    if not layers or sizes[-1:] != [1] or used != len(tensors):
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(tensors.items())) or "nothing"
        raise ValueError(
            f"{path}: expected linear layers that lead from CLIP's {width} numbers to one score, found {shapes}; "
            f"use the head that was made for this CLIP."
        )
    return layers


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def apply_head(layers: list[tuple[Any, Any]], embedding: Any) -> Any:
    """(n, width) -> (n, 1)."""
    for weight, bias in layers:
        embedding = embedding @ weight.T if bias is None else embedding @ weight.T + bias
    return embedding

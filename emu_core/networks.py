"""Networks that measure: CLIP, Inception, I3D, VideoMAE, video classifiers, aesthetic heads. From local files only.

Each says what it is (`source`): name, sha256 of its files, preprocessing. Nothing is downloaded, and no network stands in for
another: what is not given is not measured. Frames come as (H, W, 3) uint8; vectors and scores go out as float64.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .media.files import natural

Pixels = NDArray[np.uint8]
Array = NDArray[np.float64]
_BLOCK = 1 << 20
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_USED = (*_WEIGHTS, ".json", ".txt", ".model")


@dataclass(frozen=True)
class Source:
    """Where figures come from: name of the file or folder, sha256 of its content, and what is done to the frames."""

    name: str
    sha256: str
    preprocessing: str

    def facts(self) -> dict[str, str]:
        return asdict(self)


class TextVectors(Protocol):
    """What turns texts into vectors of length 1: `Clip`, `Sentences`, or anything with these."""

    @property
    def source(self) -> Source: ...

    def texts(self, texts: Sequence[str]) -> Array:
        """(n, d)."""
        ...


class ImageText(Protocol):
    """What measures with CLIP ask for; any object with these will do. `d` numbers a vector, of length 1."""

    @property
    def source(self) -> Source: ...

    def prepare(self, frame: Pixels) -> Tensor:
        """A frame (H, W, 3) as the network takes it; small, so that frames need not be kept."""
        ...

    def images(self, prepared: Sequence[Tensor]) -> Array:
        """(n, d) of n prepared frames."""
        ...

    def texts(self, texts: Sequence[str]) -> Array:
        """(n, d)."""
        ...


class VideoFeatures(Protocol):
    """A network that sees `frames` frames at once."""

    @property
    def source(self) -> Source: ...

    @property
    def frames(self) -> int: ...

    def prepare(self, frame: Pixels) -> Tensor: ...

    def video(self, prepared: Sequence[Tensor]) -> Array:
        """(d,) of one video."""
        ...


def sha256(path: str | os.PathLike[str]) -> str:
    """Of a file; of a folder over its weights and settings: names and contents, sorted by name."""
    place = Path(path)
    files = [place] if place.is_file() else sorted(file for file in place.iterdir() if file.suffix in _USED and file.is_file())
    digest = hashlib.sha256()
    for file in files:
        if len(files) > 1 or place.is_dir():
            digest.update(file.name.encode() + b"\0")
        with open(file, "rb") as content:
            while block := content.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _check_folder(path: str | os.PathLike[str], what: str, files: Sequence[str]) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"{path}: expected a local folder with {what}, found {'a file' if folder.exists() else 'nothing'}; check it"
        )
    lacking = [name for name in files if not (folder / name).is_file()]
    if not any(file.suffix in _WEIGHTS for file in folder.iterdir()):
        lacking.append("model.safetensors")
    if lacking:
        raise ValueError(
            f"{path}: expected {what} in a transformers folder, found none of {', '.join(lacking)}; copy all its files"
        )
    return folder


def _pretrained(kind: Any, folder: Path, what: str) -> Any:
    """A transformers model from a folder, refused if any of its weights are not there."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        model, facts = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        said = " ".join(str(problem).split())
        raise ValueError(
            f"{folder}: expected {what}, found a folder that cannot be loaded as one ({said}); check it"
        ) from problem
    missing = sorted(name for name in facts["missing_keys"] if "position_ids" not in name)
    if missing:
        raise ValueError(
            f"{folder}: expected the weights of {what}, found {len(missing)} missing, such as {missing[0]}; take the whole model"
        )
    return model.float().eval()


def _processor(name: str) -> Any:
    """transformers' class for images that needs no torchvision: its name ends in Pil since version 5."""
    import transformers

    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def _vectors(output: Any) -> Tensor:
    """transformers 4 gives a tensor, 5 an object with the projected vectors as pooler_output."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _units(vectors: Tensor) -> Array:
    numbers = vectors.double().cpu()
    return (numbers / numbers.norm(dim=-1, keepdim=True).clamp(min=1e-12)).numpy()


class Clip:
    """CLIP (Radford et al. 2021) from a transformers folder: the model, preprocessor_config.json and the tokenizer."""

    def __init__(self, folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> None:
        from transformers import AutoTokenizer, CLIPModel

        place = _check_folder(folder, "CLIP", ("config.json", "preprocessor_config.json", "tokenizer_config.json"))
        self._device = torch.device(device)
        self._model = _pretrained(CLIPModel, place, "CLIP").to(self._device)
        self._processor = _processor("CLIPImageProcessor").from_pretrained(place, local_files_only=True)
        self._tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
        self._length = int(self._model.config.text_config.max_position_embeddings)
        self.size = int(self._model.config.projection_dim)
        side = int(self._model.config.vision_config.image_size)
        given = self._processor.crop_size or self._processor.size
        found = {int(value) for value in dict(given).values() if value}
        if found and found != {side}:
            raise ValueError(
                f"{folder}: expected images of {side} px in preprocessor_config.json, found {found}; take CLIP's own file"
            )
        p = self._processor
        self.source = Source(
            place.resolve().name,
            sha256(place),
            f"shortest edge {dict(p.size)} with resampling {int(p.resample)}, centre crop {dict(given)}, "
            f"mean {list(p.image_mean)}, std {list(p.image_std)}; text cut at {self._length} tokens; vectors of length 1",
        )

    def prepare(self, frame: Pixels) -> Tensor:
        return self._processor(images=frame, return_tensors="pt", input_data_format="channels_last")["pixel_values"][0]

    @torch.inference_mode()
    def images(self, prepared: Sequence[Tensor]) -> Array:
        return _units(_vectors(self._model.get_image_features(pixel_values=torch.stack(list(prepared)).to(self._device))))

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Array:
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, max_length=self._length, return_tensors="pt")
        given = {name: tokens[name].to(self._device) for name in ("input_ids", "attention_mask")}
        return _units(_vectors(self._model.get_text_features(**given)))


class Sentences:
    """A sentence-embedding network from a transformers folder: mean of the last hidden states over the words."""

    def __init__(self, folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> None:
        from transformers import AutoModel, AutoTokenizer

        place = _check_folder(folder, "a text network", ("config.json", "tokenizer_config.json"))
        self._device = torch.device(device)
        self._model = _pretrained(AutoModel, place, "a text network").to(self._device)
        self._tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
        self._length = int(getattr(self._model.config, "max_position_embeddings", 512))
        self.source = Source(
            place.resolve().name,
            sha256(place),
            f"mean of the last hidden states; text cut at {self._length} tokens; vectors of length 1",
        )

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Array:
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, max_length=self._length, return_tensors="pt")
        states = self._model(**tokens.to(self._device)).last_hidden_state
        counts = tokens["attention_mask"].to(self._device)[..., None].to(states.dtype)
        return _units((states * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1))


def open_text_network(folder: str, device: str | torch.device = "cpu") -> TextVectors:
    """CLIP or a sentence-embedding network, by the folder's config.json."""
    try:
        kind = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("model_type", "")
    except (OSError, ValueError, AttributeError) as problem:
        raise ValueError(
            f"{folder}: expected a transformers folder with config.json, found none ({problem}); check it"
        ) from problem
    return Clip(folder, device) if kind == "clip" else Sentences(folder, device)


class AestheticHead:
    """A score from a CLIP image vector of length 1: a .safetensors file of linear layers, in the order of the numbers in their
    names and with nothing between them. So is the LAION predictor's, whose MLP has dropout but no activation.

    A head with activations cannot be told from its shapes; metadata `activation` other than "none" is refused.
    """

    def __init__(self, file: str | os.PathLike[str], clip: ImageText, size: int) -> None:
        path = Path(file).expanduser()
        if not path.is_file() or path.suffix != ".safetensors":
            raise ValueError(f"{file}: expected an aesthetic head as a .safetensors file, found none; convert or check it")
        self.clip = clip
        self._layers = _linear_layers(path)
        if self._layers[0][0].shape[1] != size:
            raise ValueError(
                f"{file}: expected vectors of {self._layers[0][0].shape[1]}, found {size} from {clip.source.name}; use the head "
                "that was made for this CLIP, or the CLIP that it was made for"
            )
        self.source = Source(
            path.name, sha256(path), f"{len(self._layers)} linear layers on the image vectors of {clip.source.name}"
        )

    def scores(self, vectors: Array) -> Array:
        """(n, d) of length 1 -> (n,)."""
        for weight, bias in self._layers:
            vectors = vectors @ weight.T + bias
        return vectors[:, 0]


def _linear_layers(path: Path) -> list[tuple[Array, Array]]:
    """Weights (out, in) and biases (out,). ValueError where the file holds anything but a chain of them to one number."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).double().numpy() for name in file.keys()}  # noqa: SIM118 - not a dict
            activation = (file.metadata() or {}).get("activation", "none")
    except (SafetensorError, OSError) as problem:
        raise ValueError(f"{path}: expected a .safetensors file, found one that cannot be read ({problem}); copy it") from problem
    if activation != "none":
        raise ValueError(f"{path}: expected a head of linear layers only, found activation {activation!r}; use another head")
    weights = sorted((name for name, tensor in tensors.items() if tensor.ndim == 2), key=natural)
    biases = {name: f"{name[: -len('weight')]}bias" if name.endswith("weight") else f"{name}.bias" for name in weights}
    layers = [(tensors[name], tensors.get(biases[name], np.zeros(len(tensors[name])))) for name in weights]
    used = len(weights) + sum(bias in tensors for bias in biases.values())
    chained = all(before.shape[0] == after.shape[1] for (before, _), (after, _) in pairwise(layers))
    fits = all(bias.shape == weight.shape[:1] for weight, bias in layers)
    if not layers or used != len(tensors) or not chained or not fits or len(layers[-1][0]) != 1:
        shapes = ", ".join(f"{name} {tensor.shape}" for name, tensor in sorted(tensors.items())) or "nothing"
        raise ValueError(f"{path}: expected linear layers that end in one number, found {shapes}; choose another head")
    return layers


class TorchScript:
    """A network in a TorchScript file. What it takes is in FILE.json beside it, else `defaults`:

    size: side in pixels to which frames are resized (bilinear, no antialiasing), 0 for as they are; range: the values of black
    and white; mean: taken off afterwards, a number or one a channel; frames: how many at once (videos); output: logits or
    probabilities, where it gives classes.
    Own flags that such files have (rescale, resize) are switched off, since the same has been done already.
    """

    def __init__(
        self, file: str | os.PathLike[str], what: str, defaults: dict[str, Any], device: str | torch.device = "cpu"
    ) -> None:
        path = Path(file).expanduser()
        if not path.is_file():
            raise ValueError(f"{file}: expected {what} as a TorchScript file, found none; check the path")
        try:
            self._network = torch.jit.load(path, map_location=device).eval()
        except (RuntimeError, ValueError, OSError) as problem:
            said = " ".join(str(problem).split())[:200]
            raise ValueError(
                f"{file}: expected {what} as a TorchScript file, found one that cannot be loaded ({said}); export it again"
            ) from problem
        self._device = torch.device(device)
        self._arguments = {argument.name for argument in self._network.forward.schema.arguments}
        self._settings = _settings(path, defaults)
        self._what = what
        flags = sorted(self._arguments & {"rescale", "resize", "return_features", "no_output_bias"})
        shown = ", ".join(f"{name} {value}" for name, value in self._settings.items())
        self.source = Source(path.name, sha256(path), shown + (f"; flags of the file: {', '.join(flags)}" if flags else ""))

    @property
    def frames(self) -> int:
        return int(self._settings["frames"])

    def prepare(self, frame: Pixels) -> Tensor:
        """(H, W, 3) uint8 -> (3, size, size) float32."""
        image = torch.tensor(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
        size = int(self._settings["size"])
        if size:
            image = F.interpolate(image, (size, size), mode="bilinear", align_corners=False)
        low, high = self._settings["range"]
        mean = torch.as_tensor(self._settings["mean"], dtype=torch.float32).reshape(-1, 1, 1)
        return (image / 255 * (high - low) + low)[0] - mean

    def _call(self, batch: Tensor, features: bool) -> Any:
        flags: dict[str, bool] = {}
        if "rescale" in self._arguments:
            flags["rescale"] = False
        if "resize" in self._arguments:
            flags["resize"] = False
        if "return_features" in self._arguments:
            flags["return_features"] = features
        if "no_output_bias" in self._arguments:
            flags["no_output_bias"] = True
        try:
            with torch.inference_mode():
                return self._network(batch.to(self._device), **flags)
        except RuntimeError as problem:
            said = " ".join(str(problem).split())[-200:]
            raise ValueError(
                f"{self.source.name}: expected {self._what} that takes {tuple(batch.shape)}, found one that fails ({said}); "
                f"write what it takes into {self.source.name}.json"
            ) from problem

    def _numbers(self, output: Any, last: bool) -> Array:
        """One row a sample; of several outputs (features, classes) the last or the first."""
        if isinstance(output, tuple | list):
            output = output[-1 if last else 0]
        if not isinstance(output, Tensor):
            raise ValueError(
                f"{self.source.name}: expected tensors from {self._what}, found {type(output).__name__}; export it again"
            )
        return output.double().flatten(1).cpu().numpy()

    def _probabilities(self, output: Any) -> Array:
        numbers = self._numbers(output, last=True)
        if self._settings["output"] == "probabilities":
            return numbers
        raised = np.exp(numbers - numbers.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)


def _settings(path: Path, defaults: dict[str, Any]) -> dict[str, Any]:
    beside = path.with_name(path.name + ".json")
    if not beside.is_file():
        return defaults
    try:
        given = json.loads(beside.read_text(encoding="utf-8"))
        unknown = set(given) - set(defaults)
    except (ValueError, TypeError) as problem:
        raise ValueError(f"{beside}: expected a JSON object of settings, found something else ({problem}); mend it") from problem
    if unknown:
        raise ValueError(
            f"{beside}: expected settings among {', '.join(defaults)}, found {', '.join(sorted(unknown))}; remove them"
        )
    if given.get("output", "logits") not in ("logits", "probabilities"):
        raise ValueError(f"{beside}: expected output logits or probabilities, found {given['output']!r}; choose one")
    return {**defaults, **given}


class I3D(TorchScript):
    """Inflated 3D ConvNet (Carreira & Zisserman 2017) trained on Kinetics-400: a video -> its 400 logits."""

    def __init__(self, file: str | os.PathLike[str], device: str | torch.device = "cpu") -> None:
        super().__init__(file, "I3D", {"size": 224, "range": [-1.0, 1.0], "mean": 0.0, "frames": 16}, device)

    def video(self, prepared: Sequence[Tensor]) -> Array:
        """Frames (3, H, W) -> (d,)."""
        return self._numbers(self._call(torch.stack(list(prepared), dim=1)[None], features=True), last=False)[0]


class Classifier(TorchScript):
    """A video classifier for the Inception score (UCF-101: C3D trained on it): a video -> probabilities of its classes."""

    def __init__(self, file: str | os.PathLike[str], device: str | torch.device = "cpu") -> None:
        defaults = {"size": 112, "range": [0.0, 255.0], "mean": 0.0, "frames": 16, "output": "logits"}
        super().__init__(file, "a video classifier", defaults, device)

    def video(self, prepared: Sequence[Tensor]) -> Array:
        """Frames (3, H, W) -> (k,)."""
        return self._probabilities(self._call(torch.stack(list(prepared), dim=1)[None], features=False))[0]


class Inception(TorchScript):
    """Inception for single frames (Szegedy et al. 2015): one output of classes, or (features, classes)."""

    def __init__(self, file: str | os.PathLike[str], device: str | torch.device = "cpu") -> None:
        super().__init__(file, "Inception", {"size": 299, "range": [-1.0, 1.0], "mean": 0.0, "output": "logits"}, device)

    def probabilities(self, prepared: Sequence[Tensor]) -> Array:
        """Frames (3, H, W) -> (n, k)."""
        return self._probabilities(self._call(torch.stack(list(prepared)), features=False))


class VideoMAE:
    """VideoMAE (Tong et al. 2022) from a transformers folder: the mean of its last hidden states, (d,) a video."""

    def __init__(self, folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> None:
        from transformers import VideoMAEModel

        place = _check_folder(folder, "VideoMAE", ("config.json", "preprocessor_config.json"))
        self._device = torch.device(device)
        self._model: nn.Module = _pretrained(VideoMAEModel, place, "VideoMAE").to(self._device)
        self._processor = _processor("VideoMAEImageProcessor").from_pretrained(place, local_files_only=True)
        self.frames = int(self._model.config.num_frames)
        p = self._processor
        self.source = Source(
            place.resolve().name,
            sha256(place),
            f"size {dict(p.size)}, crop {dict(p.crop_size)}, mean {list(p.image_mean)}, std {list(p.image_std)}, "
            f"frames {self.frames}; mean of the last hidden states",
        )

    def prepare(self, frame: Pixels) -> Tensor:
        return self._processor(images=[frame], return_tensors="pt", input_data_format="channels_last")["pixel_values"][0, 0]

    @torch.inference_mode()
    def video(self, prepared: Sequence[Tensor]) -> Array:
        states = self._model(pixel_values=torch.stack(list(prepared))[None].to(self._device)).last_hidden_state
        return states[0].mean(dim=0).double().cpu().numpy()


@dataclass(frozen=True)
class Networks:
    """What was given; None for what was not, and then nothing that needs it is measured."""

    clip: ImageText | None = None
    aesthetic: AestheticHead | None = None
    inception: Inception | None = None
    classifier: VideoFeatures | None = None
    i3d: VideoFeatures | None = None
    videomae: VideoFeatures | None = None

    def sources(self) -> dict[str, dict[str, str]]:
        """Name, sha256 and preprocessing of each."""
        given = {name: getattr(self, name) for name in self.__dataclass_fields__}
        found = {name: network.source.facts() for name, network in given.items() if network is not None}
        if self.aesthetic is not None and self.aesthetic.clip is not self.clip:
            found["aesthetic_clip"] = self.aesthetic.clip.source.facts()
        return found


def load_networks(
    clip: str | None = None,
    aesthetic: str | None = None,
    aesthetic_clip: str | None = None,
    inception: str | None = None,
    classifier: str | None = None,
    i3d: str | None = None,
    videomae: str | None = None,
    device: str | torch.device = "cpu",
) -> Networks:
    """Load what is named: folders of CLIP and VideoMAE, files of the others. Raises ValueError for what cannot be used."""
    image_text = Clip(clip, device) if clip else None
    head = None
    if aesthetic:
        own = Clip(aesthetic_clip, device) if aesthetic_clip else image_text
        if own is None:
            raise ValueError(
                f"{aesthetic}: expected the CLIP that this head was trained on, found none; give --aesthetic-clip FOLDER"
            )
        head = AestheticHead(aesthetic, own, own.size)
    return Networks(
        image_text,
        head,
        Inception(inception, device) if inception else None,
        Classifier(classifier, device) if classifier else None,
        I3D(i3d, device) if i3d else None,
        VideoMAE(videomae, device) if videomae else None,
    )

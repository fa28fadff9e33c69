"""Networks that measure: CLIP, Inception, I3D, VideoMAE, classifiers, text networks, aesthetic heads. From local files only.

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
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .media.files import natural
from .weights import PICKLES, read_header

Pixels = NDArray[np.uint8]
Array = NDArray[np.float64]
PathLike: TypeAlias = "str | os.PathLike[str]"
Device: TypeAlias = "str | torch.device"
_BLOCK = 1 << 20
_WEIGHTS = (".safetensors", *PICKLES)
_USED = (*_WEIGHTS, ".json", ".txt", ".model")


@dataclass(frozen=True)
class Provenance:
    """Where figures come from: name of the file or folder, sha256 of its content, and what is done to the frames."""

    name: str
    sha256: str
    preprocessing: str

    def facts(self) -> dict[str, str]:
        """The three by name, for reports."""
        return asdict(self)


class TextVectors(Protocol):
    """What turns texts into vectors of length 1: `ClipNetwork`, `Sentences`, or anything with these."""

    source: Provenance

    def texts(self, texts: Sequence[str]) -> Array:
        """(n, d) of n texts."""


class ImageText(TextVectors, Protocol):
    """What measures with CLIP ask for; any object with these will do. `d` numbers a vector, of length 1."""

    def prepare(self, frame: Pixels) -> Tensor:
        """A frame (H, W, 3) as the network takes it; small, so that frames need not be kept."""

    def images(self, prepared: Sequence[Tensor]) -> Array:
        """(n, d) of n prepared frames."""


class VideoFeatures(Protocol):
    """A network that sees `frames` frames at once."""

    source: Provenance
    frames: int

    def prepare(self, frame: Pixels) -> Tensor:
        """A frame (H, W, 3) as the network takes it."""

    def video(self, prepared: Sequence[Tensor]) -> Array:
        """(d,) of one video."""


def sha256(path: PathLike) -> str:
    """Of a file; of a folder over its weights and settings: names and contents, sorted by name."""
    place = Path(path)
    files = [place] if place.is_file() else used_files(place)
    digest = hashlib.sha256()
    for file in files:
        if place.is_dir():
            digest.update(file.name.encode() + b"\0")
        with open(file, "rb") as content:
            while block := content.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def used_files(folder: Path) -> list[Path]:
    """The weights and settings in a network's folder, sorted by name."""
    return sorted(file for file in folder.iterdir() if file.suffix in _USED and file.is_file())


# -- transformers


class _Transformers:
    """A network in a folder of transformers' layout, in float32: `module`, which may be moved between calls, and `source`."""

    module: Any
    source: Provenance

    def __init__(self, folder: PathLike, what: str, model: str, device: Device, files: Sequence[str]) -> None:
        package = _transformers(what)
        self._folder = _check_folder(folder, what, ("config.json", *files))
        self.module = _pretrained(getattr(package, model), self._folder, what).to(device)

    def _part(self, name: str) -> Any:
        """The tokenizer, or what prepares frames: of the latter the class that needs no torchvision, Pil since version 5."""
        package = _transformers(name)
        kind = getattr(package, f"{name}Pil", None) or getattr(package, name)
        return kind.from_pretrained(self._folder, local_files_only=True)

    def _described(self, preprocessing: str) -> Provenance:
        return Provenance(self._folder.resolve().name, sha256(self._folder), preprocessing)

    def _tokens(self, tokenizer: Any, texts: Sequence[str], length: int) -> Any:
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        return tokens.to(self.module.device)


def _transformers(what: str) -> Any:
    """The package, imported once a network asks for it, since that takes seconds; ValueError where it is missing."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import transformers
    except ImportError as problem:
        raise ValueError(
            f"{what} needs the package transformers, found none ({problem}): install it (it is in ComfyUI's requirements.txt)"
        ) from problem
    return transformers


def _check_folder(path: PathLike, what: str, files: Sequence[str]) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise ValueError(f"{path}: expected a local folder with {what}, found {found}; check it")
    lacking = [name for name in files if not (folder / name).is_file()]
    if not any(file.suffix in _WEIGHTS for file in folder.iterdir()):
        lacking.append("model.safetensors")
    if lacking:
        missing = ", ".join(lacking)
        raise ValueError(f"{path}: expected {what} in a transformers folder, found none of {missing}; copy all its files")
    return folder


def _pretrained(kind: Any, folder: Path, what: str) -> Any:
    """A transformers model from a folder, refused if any of its weights are not there."""
    try:
        model, facts = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        said = " ".join(str(problem).split())
        raise ValueError(f"{folder}: expected {what}, found a folder that is none ({said}); check it") from problem
    missing = sorted(name for name in facts["missing_keys"] if "position_ids" not in name)
    if missing:
        raise ValueError(
            f"{folder}: expected the weights of {what}, found {len(missing)} missing, such as {missing[0]}; take the whole model"
        )
    return model.float().eval()


def _vectors(output: Any) -> Tensor:
    """transformers 4 gives a tensor, 5 an object with the projected vectors as pooler_output."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _units(vectors: Tensor) -> Array:
    numbers = vectors.double().cpu()
    return (numbers / numbers.norm(dim=-1, keepdim=True).clamp(min=1e-12)).numpy()


class ClipNetwork(_Transformers):
    """CLIP (Radford et al. 2021) from a transformers folder: the model, preprocessor_config.json and the tokenizer.

    `size` numbers a vector. Raises ValueError for a folder that is not all of it, or whose frames would be of another size.
    """

    def __init__(self, folder: PathLike, device: Device = "cpu") -> None:
        super().__init__(folder, "CLIP", "CLIPModel", device, ("preprocessor_config.json", "tokenizer_config.json"))
        self._processor, self._tokenizer = self._part("CLIPImageProcessor"), self._part("AutoTokenizer")
        config = self.module.config
        self._length = int(config.text_config.max_position_embeddings)
        self.size = int(config.projection_dim)
        p, side = self._processor, int(config.vision_config.image_size)
        crop = dict(p.crop_size or p.size)
        found = {int(value) for value in crop.values() if value}
        if found and found != {side}:
            raise ValueError(
                f"{folder}: expected images of {side} px in preprocessor_config.json, found {found}; take CLIP's own file"
            )
        self.source = self._described(
            f"shortest edge {dict(p.size)} with resampling {int(p.resample)}, centre crop {crop}, mean {list(p.image_mean)}, "
            f"std {list(p.image_std)}; text cut at {self._length} tokens; vectors of length 1"
        )

    def prepare(self, frame: Pixels) -> Tensor:
        """A frame (H, W, 3) as (3, side, side)."""
        return self._processor(images=frame, return_tensors="pt", input_data_format="channels_last")["pixel_values"][0]

    @torch.inference_mode()
    def images(self, prepared: Sequence[Tensor]) -> Array:
        """(n, d), of length 1, of n prepared frames."""
        pixels = torch.stack(list(prepared)).to(self.module.device)
        return _units(_vectors(self.module.get_image_features(pixel_values=pixels)))

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Array:
        """(n, d), of length 1, of n texts; what is too long is cut."""
        tokens = self._tokens(self._tokenizer, texts, self._length)
        given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return _units(_vectors(self.module.get_text_features(**given)))


class Sentences(_Transformers):
    """A sentence-embedding network from a transformers folder: mean of the last hidden states over the words."""

    def __init__(self, folder: PathLike, device: Device = "cpu") -> None:
        super().__init__(folder, "a text network", "AutoModel", device, ("tokenizer_config.json",))
        self._tokenizer = self._part("AutoTokenizer")
        self._length = int(getattr(self.module.config, "max_position_embeddings", 512))
        self.source = self._described(f"mean of the last hidden states; text cut at {self._length} tokens; vectors of length 1")

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Array:
        """(n, d), of length 1, of n texts; what is too long is cut."""
        tokens = self._tokens(self._tokenizer, texts, self._length)
        states = self.module(**tokens).last_hidden_state
        counts = tokens["attention_mask"][..., None].to(states.dtype)
        return _units((states * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1))


def open_text_network(folder: str, device: Device = "cpu") -> TextVectors:
    """CLIP or a sentence-embedding network, by the folder's config.json. ValueError where that is missing."""
    try:
        kind = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("model_type", "")
    except (OSError, ValueError, AttributeError) as problem:
        raise ValueError(f"{folder}: expected a transformers folder, found no config.json ({problem}); check it") from problem
    return ClipNetwork(folder, device) if kind == "clip" else Sentences(folder, device)


class VideoMAE(_Transformers):
    """VideoMAE (Tong et al. 2022) from a transformers folder: the mean of its last hidden states, (d,) a video."""

    def __init__(self, folder: PathLike, device: Device = "cpu") -> None:
        super().__init__(folder, "VideoMAE", "VideoMAEModel", device, ("preprocessor_config.json",))
        self._processor = p = self._part("VideoMAEImageProcessor")
        self.frames = int(self.module.config.num_frames)
        self.source = self._described(
            f"size {dict(p.size)}, crop {dict(p.crop_size)}, mean {list(p.image_mean)}, std {list(p.image_std)}, "
            f"frames {self.frames}; mean of the last hidden states"
        )

    def prepare(self, frame: Pixels) -> Tensor:
        """A frame (H, W, 3) as (3, side, side)."""
        return self._processor(images=[frame], return_tensors="pt", input_data_format="channels_last")["pixel_values"][0, 0]

    @torch.inference_mode()
    def video(self, prepared: Sequence[Tensor]) -> Array:
        """(d,) of `frames` prepared frames."""
        states = self.module(pixel_values=torch.stack(list(prepared))[None].to(self.module.device)).last_hidden_state
        return states[0].mean(dim=0).double().cpu().numpy()


# -- aesthetic heads


class AestheticHead:
    """A score from a CLIP image vector of length 1: a .safetensors file of linear layers, in the order of the numbers in their
    names and with nothing between them. So is the LAION predictor's, whose MLP has dropout but no activation.

    `size`: numbers a vector of `clip` has. Raises ValueError for another size, or anything but such layers. A head with
    activations cannot be told from its shapes; metadata `activation` other than "none" is refused.
    """

    def __init__(self, file: PathLike, clip: ImageText, size: int) -> None:
        path = Path(file).expanduser()
        if not path.is_file() or path.suffix != ".safetensors":
            raise ValueError(f"{file}: expected an aesthetic head as a .safetensors file, found none; convert or check it")
        self.clip = clip
        self._layers = _linear_layers(path)
        wanted = self._layers[0][0].shape[1]
        if wanted != size:
            found = f"{size} from {clip.source.name}"
            raise ValueError(f"{file}: expected vectors of {wanted}, found {found}; use the head that was made for this CLIP")
        layers = f"{len(self._layers)} linear layers on the image vectors of {clip.source.name}"
        self.source = Provenance(path.name, sha256(path), layers)

    def scores(self, vectors: Array) -> Array:
        """(n, d) of length 1 -> (n,)."""
        for weight, bias in self._layers:
            vectors = vectors @ weight.T + bias
        return vectors[:, 0]


def _linear_layers(path: Path) -> list[tuple[Array, Array]]:
    """Weights (out, in) and biases (out,). ValueError where the file holds anything but a chain of them to one number."""
    file = read_header(path)
    tensors = {name: tensor.double().numpy() for name, tensor in file.read().items()}
    activation = file.metadata.get("activation", "none")
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


# -- TorchScript


class TorchScript:
    """A network in a TorchScript file. What it takes is in FILE.json beside it, else in `defaults`:

    size: side in pixels to which frames are resized (bilinear, no antialiasing), 0 for as they are; range: the values of black
    and white; mean: taken off afterwards, a number or one a channel; frames: how many at once (videos); output: logits or
    probabilities, where it gives classes.
    Own flags that such files have (rescale, resize) are switched off, since the same has been done already.
    """

    what: ClassVar[str]
    defaults: ClassVar[dict[str, Any]]

    def __init__(self, file: PathLike, device: Device = "cpu") -> None:
        path = Path(file).expanduser()
        wanted = f"{file}: expected {self.what} as a TorchScript file"
        if not path.is_file():
            raise ValueError(f"{wanted}, found none; check the path")
        try:
            self._network = torch.jit.load(path, map_location=device).eval()
        except (RuntimeError, ValueError, OSError) as problem:
            said = " ".join(str(problem).split())[:200]
            raise ValueError(f"{wanted}, found one that cannot be loaded ({said}); export it again") from problem
        self._device = torch.device(device)
        arguments = {argument.name for argument in self._network.forward.schema.arguments}
        self._flags = sorted(arguments & {"rescale", "resize", "return_features", "no_output_bias"})
        self._settings = _settings(path, self.defaults)
        self.frames = int(self._settings.get("frames", 0))
        shown = ", ".join(f"{name} {value}" for name, value in self._settings.items())
        flags = f"; flags of the file: {', '.join(self._flags)}" if self._flags else ""
        self.source = Provenance(path.name, sha256(path), shown + flags)

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
        values = {"rescale": False, "resize": False, "return_features": features, "no_output_bias": True}
        try:
            with torch.inference_mode():
                return self._network(batch.to(self._device), **{name: values[name] for name in self._flags})
        except RuntimeError as problem:
            said = " ".join(str(problem).split())[-200:]
            raise ValueError(
                f"{self.source.name}: expected {self.what} that takes {tuple(batch.shape)}, found one that fails ({said}); "
                f"write what it takes into {self.source.name}.json"
            ) from problem

    def _rows(self, output: Any, last: bool) -> Array:
        """One row a sample; of several outputs (features, classes) the last or the first."""
        if isinstance(output, tuple | list):
            output = output[-1 if last else 0]
        if not isinstance(output, Tensor):
            found = type(output).__name__
            raise ValueError(f"{self.source.name}: expected tensors from {self.what}, found {found}; export it again")
        return output.double().flatten(1).cpu().numpy()

    def _probabilities(self, batch: Tensor) -> Array:
        numbers = self._rows(self._call(batch, features=False), last=True)
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
        unknown = ", ".join(sorted(set(given) - set(defaults)))
    except (ValueError, TypeError) as problem:
        raise ValueError(f"{beside}: expected a JSON object of settings, found something else ({problem}); mend it") from problem
    if unknown:
        raise ValueError(f"{beside}: expected settings among {', '.join(defaults)}, found {unknown}; remove them")
    if given.get("output", "logits") not in ("logits", "probabilities"):
        raise ValueError(f"{beside}: expected output logits or probabilities, found {given['output']!r}; choose one")
    return {**defaults, **given}


class I3D(TorchScript):
    """Inflated 3D ConvNet (Carreira & Zisserman 2017) trained on Kinetics-400: a video -> its 400 logits."""

    what = "I3D"
    defaults = {"size": 224, "range": [-1.0, 1.0], "mean": 0.0, "frames": 16}

    def video(self, prepared: Sequence[Tensor]) -> Array:
        """Frames (3, H, W) -> (d,)."""
        return self._rows(self._call(torch.stack(list(prepared), dim=1)[None], features=True), last=False)[0]


class Classifier(TorchScript):
    """A video classifier for the Inception score (UCF-101: C3D trained on it): a video -> probabilities of its classes."""

    what = "a video classifier"
    defaults = {"size": 112, "range": [0.0, 255.0], "mean": 0.0, "frames": 16, "output": "logits"}

    def video(self, prepared: Sequence[Tensor]) -> Array:
        """Frames (3, H, W) -> (k,)."""
        return self._probabilities(torch.stack(list(prepared), dim=1)[None])[0]


class Inception(TorchScript):
    """Inception for single frames (Szegedy et al. 2015): one output of classes, or (features, classes)."""

    what = "Inception"
    defaults = {"size": 299, "range": [-1.0, 1.0], "mean": 0.0, "output": "logits"}

    def probabilities(self, prepared: Sequence[Tensor]) -> Array:
        """Frames (3, H, W) -> (n, k)."""
        return self._probabilities(torch.stack(list(prepared)))


# -- what was given


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
        found = {name: network.source.facts() for name, network in vars(self).items() if network is not None}
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
    device: Device = "cpu",
) -> Networks:
    """Load what is named: folders of CLIP and VideoMAE, files of the others. Raises ValueError for what cannot be used."""
    judge = ClipNetwork(clip, device) if clip else None
    head = None
    if aesthetic:
        own = ClipNetwork(aesthetic_clip, device) if aesthetic_clip else judge
        if own is None:
            raise ValueError(
                f"{aesthetic}: expected the CLIP that this head was trained on, found none; give --aesthetic-clip FOLDER"
            )
        head = AestheticHead(aesthetic, own, own.size)
    return Networks(
        judge,
        head,
        Inception(inception, device) if inception else None,
        Classifier(classifier, device) if classifier else None,
        I3D(i3d, device) if i3d else None,
        VideoMAE(videomae, device) if videomae else None,
    )

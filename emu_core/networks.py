"""Networks that measure: CLIP, Inception, I3D, VideoMAE, classifiers, text networks, aesthetic heads. From local files only.

Each says what it is (`source`): name, sha256 of its files, preprocessing. Nothing is downloaded, and no network stands in for
another: what is not given is not measured. Frames come as (H, W, 3) uint8; vectors and scores go out as float64.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from .errors import UserError
from .limits import json_of
from .media.decoding import Pixels
from .media.files import PathLike, natural, reason
from .weights import SUFFIXES, read_header

Array = NDArray[np.float64]
Device: TypeAlias = "str | torch.device"
_BLOCK = 1 << 20
_WEIGHTS = tuple(suffix for suffix in SUFFIXES if suffix not in (".ckpt", ".pkl"))  # of transformers and TorchScript
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


def sha256(path: PathLike) -> str:
    """Of a file; of a folder over its weights and settings: names and contents, sorted by name."""
    place, digest = Path(path), hashlib.sha256()
    for file in [place] if place.is_file() else used_files(place):
        digest.update(b"" if file is place else file.name.encode() + b"\0")
        with open(file, "rb") as content:
            while block := content.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def used_files(folder: Path) -> list[Path]:
    """The weights and settings in a network's folder, sorted by name."""
    return sorted(file for file in folder.iterdir() if file.suffix in _USED and file.is_file())


@contextmanager
def _refusing(expected: str, advice: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turns errors into a ValueError: what was expected and found, what the error says, and what to do."""
    try:
        yield
    except kinds as problem:
        said = reason(problem)
        said = said if len(said) < 500 else f"{said[:200]} ... {said[-200:]}"  # TorchScript's go on for pages
        raise UserError(f"{expected} ({said}); {advice}") from problem


# -- transformers


class _Transformers:
    """A network in a folder of transformers' layout, in float32: `module`, which may be moved between calls, and `source`.

    Raises ValueError for a folder that is not all of it.
    """

    what: ClassVar[str]
    model: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    source: Provenance

    def __init__(self, folder: PathLike, device: Device = "cpu") -> None:
        self._folder = place = self.check(folder)
        kind, kinds = self._class(self.model), (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
        with _refusing(f"{place}: expected {self.what}, found a folder that is none", "check it", *kinds):
            module, facts = kind.from_pretrained(place, local_files_only=True, output_loading_info=True)
        absent = sorted(name for name in facts["missing_keys"] if "position_ids" not in name)
        if absent:
            found = f"{len(absent)} missing, such as {absent[0]}"
            raise UserError(f"{place}: expected the weights of {self.what}, found {found}; take the whole model")
        self.module: Any = module.float().eval().to(device)

    @classmethod
    def check(cls, folder: PathLike) -> Path:
        """The folder, if the names of its files are those of such a network. ValueError otherwise."""
        place = Path(os.path.expanduser(folder))
        if not place.is_dir():
            found = "a file" if place.exists() else "nothing"
            raise UserError(f"{folder}: expected a local folder with {cls.what}, found {found}; check it")
        lacking = [name for name in ("config.json", *cls.files) if not (place / name).is_file()]
        lacking += [] if any(file.suffix in _WEIGHTS for file in place.iterdir()) else ["model.safetensors"]
        if lacking:
            wanted = f"{folder}: expected {cls.what} in a transformers folder"
            raise UserError(f"{wanted}, found none of {', '.join(lacking)}; copy all its files")
        return place

    def _class(self, name: str) -> Any:
        """A class of transformers; of what prepares frames the one that needs no torchvision, Pil since version 5."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        advice = "install it (it is in ComfyUI's requirements.txt)"
        with _refusing(f"{self.what} needs the package transformers, found none", advice, ImportError):
            import transformers  # takes seconds
        return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)

    def _part(self, name: str) -> Any:
        """The tokenizer, or what prepares frames."""
        return self._class(name).from_pretrained(self._folder, local_files_only=True)

    def _tokens(self, tokenizer: Any, texts: Sequence[str], length: int) -> Any:
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        return tokens.to(self.module.device)

    def _described(self, preprocessing: str) -> Provenance:
        return Provenance(self._folder.resolve().name, sha256(self._folder), preprocessing)


def _units(output: Any) -> Array:
    """Vectors of length 1. transformers 4 gives a tensor, 5 an object with the projected vectors as pooler_output."""
    numbers = (output if isinstance(output, Tensor) else output.pooler_output).double().cpu()
    return (numbers / numbers.norm(dim=-1, keepdim=True).clamp(min=1e-12)).numpy()


class ClipNetwork(_Transformers):
    """CLIP (Radford et al. 2021) from a transformers folder: the model, preprocessor_config.json and the tokenizer.

    `size` numbers a vector. Raises ValueError also for a folder whose frames would be of another size.
    """

    what, model, files = "CLIP", "CLIPModel", ("preprocessor_config.json", "tokenizer_config.json")

    def __init__(self, folder: PathLike, device: Device = "cpu") -> None:
        super().__init__(folder, device)
        self._processor = p = self._part("CLIPImageProcessor")
        self._tokenizer, config = self._part("AutoTokenizer"), self.module.config
        self._length, self.size = int(config.text_config.max_position_embeddings), int(config.projection_dim)
        side, crop = int(config.vision_config.image_size), dict(p.crop_size or p.size)
        found = {int(value) for value in crop.values() if value}
        if found and found != {side}:
            wanted = f"{folder}: expected images of {side} px in preprocessor_config.json"
            raise UserError(f"{wanted}, found {found}; take CLIP's own file")
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
        return _units(self.module.get_image_features(pixel_values=pixels))

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Array:
        """(n, d), of length 1, of n texts; what is too long is cut."""
        tokens = self._tokens(self._tokenizer, texts, self._length)
        return _units(self.module.get_text_features(**{name: tokens[name] for name in ("input_ids", "attention_mask")}))


class Sentences(_Transformers):
    """A sentence-embedding network from a transformers folder: mean of the last hidden states over the words."""

    what, model, files = "a text network", "AutoModel", ("tokenizer_config.json",)

    def __init__(self, folder: PathLike, device: Device = "cpu") -> None:
        super().__init__(folder, device)
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
    wanted = f"{folder}: expected a transformers folder, found no config.json"
    with _refusing(wanted, "check it", OSError, ValueError, AttributeError):
        kind = json_of((Path(folder) / "config.json").read_bytes()).get("model_type", "")
    return ClipNetwork(folder, device) if kind == "clip" else Sentences(folder, device)


class VideoMAE(_Transformers):
    """VideoMAE (Tong et al. 2022) from a transformers folder: the mean of its last hidden states, (d,) a video."""

    what, model, files = "VideoMAE", "VideoMAEModel", ("preprocessor_config.json",)

    def __init__(self, folder: PathLike, device: Device = "cpu") -> None:
        super().__init__(folder, device)
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


class AestheticHead:
    """A score from a CLIP image vector of length 1: a .safetensors file of linear layers, in the order of the numbers in their
    names and with nothing between them. So is the LAION predictor's, whose MLP has dropout but no activation.

    `size`: numbers a vector of `clip` has. Raises ValueError for another size, or anything but such layers. A head with
    activations cannot be told from its shapes; metadata `activation` other than "none" is refused.
    """

    def __init__(self, file: PathLike, clip: ImageText, size: int) -> None:
        path = self.check(file)
        opened = read_header(path)
        activation = opened.metadata.get("activation", "none")
        if activation != "none":
            raise UserError(f"{path}: expected a head of linear layers only, found activation {activation!r}; use another head")
        tensors = {name: tensor.double().numpy() for name, tensor in opened.read().items()}
        weights = sorted((name for name, tensor in tensors.items() if tensor.ndim == 2), key=natural)
        biases = [f"{name.removesuffix('weight')}bias" if name.endswith("weight") else f"{name}.bias" for name in weights]
        layers = [(tensors[w], tensors.get(b, np.zeros(len(tensors[w])))) for w, b in zip(weights, biases, strict=True)]
        chained = all(before.shape[0] == after.shape[1] for (before, _), (after, _) in pairwise(layers))
        fits = all(bias.shape == weight.shape[:1] for weight, bias in layers)
        if not layers or tensors.keys() - {*weights, *biases} or not chained or not fits or len(layers[-1][0]) != 1:
            shapes = ", ".join(f"{name} {tensor.shape}" for name, tensor in sorted(tensors.items())) or "nothing"
            raise UserError(f"{path}: expected linear layers that end in one number, found {shapes}; choose another head")
        wanted, name = layers[0][0].shape[1], clip.source.name
        if wanted != size:
            use = "use the head that was made for this CLIP"
            raise UserError(f"{file}: expected vectors of {wanted}, found {size} from {name}; {use}")
        self.clip, self._layers = clip, layers
        self.source = Provenance(path.name, sha256(path), f"{len(layers)} linear layers on the image vectors of {name}")

    @classmethod
    def check(cls, file: PathLike) -> Path:
        """The file, if its name is that of a head. ValueError otherwise."""
        path = Path(os.path.expanduser(file))
        if not path.is_file() or path.suffix != ".safetensors":
            raise UserError(f"{file}: expected an aesthetic head as a .safetensors file, found none; convert or check it")
        return path

    def scores(self, vectors: Array) -> Array:
        """(n, d) of length 1 -> (n,)."""
        for weight, bias in self._layers:
            vectors = vectors @ weight.T + bias
        return vectors[:, 0]


# -- TorchScript


class TorchScript:
    """A network in a TorchScript file. What it takes is in FILE.json beside it, else in `defaults`:

    size: side in pixels to which frames are resized (bilinear, no antialiasing), 0 for as they are; range: the values of black
    and white; mean: taken off afterwards, a number or one a channel; frames: how many at once (videos); output: logits or
    probabilities, where it gives classes.
    Own flags that such files have (rescale, resize) are switched off, since the same has been done already.
    Raises ValueError for a file that cannot be loaded, and where it fails on what it is said to take.
    """

    what: ClassVar[str]
    defaults: ClassVar[dict[str, Any]]

    def __init__(self, file: PathLike, device: Device = "cpu") -> None:
        path = self.check(file)
        wanted = f"{file}: expected {self.what} as a TorchScript file"
        with _refusing(f"{wanted}, found one that cannot be loaded", "export it again", RuntimeError, ValueError, OSError):
            self._network = torch.jit.load(path, map_location=device).eval()
        self._device = torch.device(device)
        arguments = {argument.name for argument in self._network.forward.schema.arguments}
        self._flags = sorted(arguments & {"rescale", "resize", "return_features", "no_output_bias"})
        self._settings = settings = self.defaults | self._given(path.with_name(path.name + ".json"))
        self.frames = int(settings.get("frames", 0))
        shown = ", ".join(f"{name} {value}" for name, value in settings.items())
        flags = f"; flags of the file: {', '.join(self._flags)}" if self._flags else ""
        self.source = Provenance(path.name, sha256(path), shown + flags)

    @classmethod
    def check(cls, file: PathLike) -> Path:
        """The file, if there is one. ValueError otherwise."""
        path = Path(os.path.expanduser(file))
        if not path.is_file():
            raise UserError(f"{file}: expected {cls.what} as a TorchScript file, found none; check the path")
        if not zipfile.is_zipfile(path):
            raise UserError(
                f"{file}: expected {cls.what} as a TorchScript file, found one that cannot be loaded; export it again"
            )
        return path

    def _given(self, beside: Path) -> dict[str, Any]:
        if not beside.is_file():
            return {}
        with _refusing(f"{beside}: expected a JSON object of settings, found something else", "mend it", ValueError, TypeError):
            given = json_of(beside.read_bytes())
            unknown = ", ".join(sorted(set(given) - set(self.defaults)))
        if unknown:
            raise UserError(f"{beside}: expected settings among {', '.join(self.defaults)}, found {unknown}; remove them")
        if given.get("output", "logits") not in ("logits", "probabilities"):
            raise UserError(f"{beside}: expected output logits or probabilities, found {given['output']!r}; choose one")
        return given

    def prepare(self, frame: Pixels) -> Tensor:
        """(H, W, 3) uint8 -> (3, size, size) float32."""
        image = torch.tensor(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
        if size := int(self._settings["size"]):
            image = F.interpolate(image, (size, size), mode="bilinear", align_corners=False)
        low, high = self._settings["range"]
        mean = torch.as_tensor(self._settings["mean"], dtype=torch.float32).reshape(-1, 1, 1)
        return (image / 255 * (high - low) + low)[0] - mean

    def _rows(self, batch: Tensor) -> Array:
        """One row a sample, of features or of the probabilities of classes; of several outputs (features, classes) that one."""
        classes, name = "output" in self._settings, self.source.name
        values = {"rescale": False, "resize": False, "return_features": not classes, "no_output_bias": True}
        wanted = f"{name}: expected {self.what} that takes {tuple(batch.shape)}, found one that fails"
        with _refusing(wanted, f"write what it takes into {name}.json", RuntimeError), torch.inference_mode():
            output = self._network(batch.to(self._device), **{flag: values[flag] for flag in self._flags})
        if isinstance(output, tuple | list):
            output = output[-1 if classes else 0]
        if not isinstance(output, Tensor):
            found = type(output).__name__
            raise UserError(f"{name}: expected tensors from {self.what}, found {found}; export it again")
        rows = output.double().flatten(1).cpu().numpy()
        if not classes or self._settings["output"] == "probabilities":
            return rows
        raised = np.exp(rows - rows.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)


class _VideoScript(TorchScript):
    def video(self, prepared: Sequence[Tensor]) -> Array:
        """Frames (3, H, W) -> (d,), or (k,) where it gives classes."""
        return self._rows(torch.stack(list(prepared), dim=1)[None])[0]


class I3D(_VideoScript):
    """Inflated 3D ConvNet (Carreira & Zisserman 2017) trained on Kinetics-400: a video -> its 400 logits."""

    what = "I3D"
    defaults = {"size": 224, "range": [-1.0, 1.0], "mean": 0.0, "frames": 16}


class Classifier(_VideoScript):
    """A video classifier for the Inception score (UCF-101: C3D trained on it): a video -> probabilities of its classes."""

    what = "a video classifier"
    defaults = {"size": 112, "range": [0.0, 255.0], "mean": 0.0, "frames": 16, "output": "logits"}


class Inception(TorchScript):
    """Inception for single frames (Szegedy et al. 2015): one output of classes, or (features, classes)."""

    what = "Inception"
    defaults = {"size": 299, "range": [-1.0, 1.0], "mean": 0.0, "output": "logits"}

    def probabilities(self, prepared: Sequence[Tensor]) -> Array:
        """Frames (3, H, W) -> (n, k)."""
        return self._rows(torch.stack(list(prepared)))


# -- what was given

VideoFeatures: TypeAlias = I3D | Classifier | VideoMAE
"""A network that sees `frames` frames at once."""


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


_KINDS: Mapping[str, Any] = {
    "clip": ClipNetwork,
    "inception": Inception,
    "classifier": Classifier,
    "i3d": I3D,
    "videomae": VideoMAE,
}
NETWORKS = ("clip", "aesthetic", "aesthetic_clip", "inception", "classifier", "i3d", "videomae")
"""What can be given to `load_networks`: folders of CLIP and VideoMAE, files of the others."""


def check_networks(**places: str | None) -> None:
    """Refuse, before any weights are read, what is named and is not there; by the names in NETWORKS."""
    kinds = {**_KINDS, "aesthetic": AestheticHead, "aesthetic_clip": ClipNetwork}
    for name, place in places.items():
        if place:
            kinds[name].check(place)
    if (head := places.get("aesthetic")) and not places.get("aesthetic_clip") and not places.get("clip"):
        raise UserError(f"{head}: expected the CLIP that this head was trained on, found none; give --aesthetic-clip FOLDER")


def load_networks(device: Device = "cpu", **places: str | None) -> Networks:
    """Load what is named, by the names in NETWORKS. Raises ValueError for what cannot be used."""
    check_networks(**places)
    head, own = places.pop("aesthetic", None), places.pop("aesthetic_clip", None)
    loaded = {name: _KINDS[name](place, device) for name, place in places.items() if place}
    if head:
        judge = ClipNetwork(own, device) if own else loaded["clip"]
        loaded["aesthetic"] = AestheticHead(head, judge, judge.size)
    return Networks(**loaded)

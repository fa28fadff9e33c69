"""Motion LoRAs: every published key form, equal to diffusers' own loading, and what does not fit is refused with a sentence."""

from __future__ import annotations

import base64
import copy
import json
import logging
import math
import zlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from emu_core.checkpoint import check_motion_lora, load_motion_lora, load_stack, merge_motion_loras, read_config, save_stack
from emu_core.low_rank import METADATA
from emu_core.model.stack import TemporalStack
from emu_core.model.video_model import VideoModel
from tests.core import reference
from tests.core.filled import fill, normal
from tests.core.helpers import DOUBLE, new_stack, small_unet
from tests.core.test_interop_numbers import SIZE, STEPS, call_motion, in_precision
from tests.core.test_interop_originals import FIXTURES, checkpoint, fixture, image_unet

State = dict[str, torch.Tensor]
RANK = 4
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")
SMALL = reference.SMALL_SD15


def filled_pair(name: str, weight: torch.Tensor, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    """(up, down) for a weight, functions of its name, of the weight's own size."""
    return fill(f"{name}.up", (len(weight), rank)), fill(f"{name}.down", (rank, weight[0].numel()))


def attentions(state: State) -> dict[str, torch.Tensor]:
    """The weights of the attentions' four projections of a MotionAdapter, by module."""
    kept = {name.removesuffix(".weight"): value for name, value in state.items() if name.endswith(".weight")}
    return {name: value for name, value in kept.items() if name.removesuffix(".0").endswith(PROJECTIONS) and ".attn" in name}


def original_name(module: str) -> str:
    return next(iter(reference.original_layout({f"{module}.weight": torch.zeros(1)}))).removesuffix(".weight")


def guoyww(module: str) -> tuple[str, str]:
    """Names of up and down as guoyww's eight files have them, of a module in diffusers' layout."""
    place, last = original_name(module).removesuffix(".0").rsplit(".", 1)
    return f"{place}.processor.{last}_lora.up.weight", f"{place}.processor.{last}_lora.down.weight"


def converted(module: str) -> tuple[str, str]:
    """As diffusers' script converts them."""
    place, last = module.removesuffix(".0").rsplit(".", 1)
    return f"unet.{place}.processor.{last}_lora.up.weight", f"unet.{place}.processor.{last}_lora.down.weight"


def peft(module: str) -> tuple[str, str]:
    return f"unet.{module}.lora_B.weight", f"unet.{module}.lora_A.weight"


def motion_director(module: str) -> tuple[str, str]:
    """As AnimateDiff-MotionDirector writes them: `processor` in front of a name's last part, whatever that is."""
    place, last = original_name(module).rsplit(".", 1)
    return f"{place}.processor.{last}_lora.up.weight", f"{place}.processor.{last}_lora.down.weight"


def injected(module: str) -> tuple[str, str]:
    """As AnimateDiff-MotionDirector writes them when told not to use the form of motion LoRAs."""
    name = original_name(module)
    return f"{name}.lora_up.weight", f"{name}.lora_down.weight"


def kohya(module: str) -> tuple[str, str]:
    name = "lora_unet_" + original_name(module).replace(".", "_")
    return f"{name}.lora_up.weight", f"{name}.lora_down.weight"


FORMS = [guoyww, converted, peft, motion_director, injected, kohya]


def lora_state(state: State, form: Any, modules: Any = attentions, rank: int = RANK) -> State:
    result = {}
    for name, weight in modules(state).items():
        up, down = filled_pair(name, weight, rank)
        result |= dict(zip(form(name), (up, down), strict=True))
    return result


@pytest.fixture(scope="module")
def unet() -> Any:
    return reference.image_unet(**SMALL)


@pytest.fixture(scope="module")
def adapter(unet: Any) -> Any:
    return reference.motion_adapter(unet, mid=True)


@pytest.fixture(scope="module")
def v2(adapter: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reference.save(reference.original_layout(adapter.state_dict()), tmp_path_factory.mktemp("v2") / "mm_v2.safetensors")


@pytest.fixture(scope="module")
def in_diffusers(adapter: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v2 in diffusers' layout, whose group norms see the whole video."""
    return reference.save(adapter, tmp_path_factory.mktemp("diffusers") / "adapter.safetensors")


@pytest.fixture(scope="module")
def v3(unet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = reference.motion_adapter(unet, mid=False).state_dict()
    return reference.save(reference.original_layout(state), tmp_path_factory.mktemp("v3") / "mm_v3.safetensors")


@cache
def loaded(path: Path, dtype: torch.dtype = torch.float32) -> TemporalStack:
    return load_stack(path, dtype=dtype)


def merged(stack: Path, *loras: tuple[Path, float], dtype: torch.dtype = torch.float32) -> State:
    result = copy.deepcopy(loaded(stack, dtype))
    merge_motion_loras(result, loras)
    return dict(result.state_dict())


# -- against diffusers


def call(unet: Any, stack: TemporalStack) -> torch.Tensor:
    x = normal("x", 2, 4, 5, SIZE, SIZE).movedim(2, 1)
    model = VideoModel(unet, stack)
    try:
        with torch.inference_mode():
            return model(x, STEPS, normal("text", 2, 7, SMALL["cross_attention_dim"]))
    finally:
        model.attachment.detach()


def with_diffusers(unet: Any, adapter: Any, file: Path, strength: float) -> torch.Tensor:
    """What diffusers makes of the same file at the same strength: peft's layers in its own U-Net, or, where these cannot be
    called as diffusers does (proj_in), merged."""
    from diffusers import AnimateDiffPipeline

    theirs = reference.motion_unet(unet, adapter)
    state, alphas, metadata = AnimateDiffPipeline.lora_state_dict(file.parent, weight_name=file.name, return_lora_metadata=True)
    AnimateDiffPipeline.load_lora_into_unet(state, network_alphas=alphas, unet=theirs, adapter_name="motion", metadata=metadata)
    theirs.set_adapters(["motion"], [strength])
    if any(".proj_in." in name for name in state):
        theirs.fuse_lora()
        theirs.unload_lora()
    return call_motion(in_precision(theirs, torch.float32), SMALL["cross_attention_dim"], None, 2, 5)


def different_ranks(state: State) -> State:
    parts = {}
    for number, (name, weight) in enumerate(attentions(state).items()):
        parts |= dict(zip(peft(name), filled_pair(name, weight, 2 + number % 3), strict=True))
    return parts


def with_mlp(state: State) -> dict[str, torch.Tensor]:
    """All that is linear: attentions, both layers of the MLP, both projections."""
    ends = (".ff.net.0.proj", ".ff.net.2", ".proj_in", ".proj_out")
    kept = {name.removesuffix(".weight"): value for name, value in state.items() if name.endswith(".weight")}
    return attentions(state) | {name: value for name, value in kept.items() if name.endswith(ends)}


SETTINGS = {"unet.r": RANK, "unet.lora_alpha": 2.0, "unet.peft_type": "LORA"}
STABLE = {**SETTINGS, "unet.use_rslora": True, "unet.alpha_pattern": {"down_blocks.0.*to_q": 1.0}}


KINDS: dict[str, tuple[Callable[[State], State], dict[str, Any] | None]] = {
    "converted": (lambda state: lora_state(state, converted), None),
    "peft": (lambda state: lora_state(state, peft), None),
    "ranks": (different_ranks, None),
    "mlp": (lambda state: lora_state(state, peft, with_mlp), None),
    "metadata": (lambda state: lora_state(state, peft), SETTINGS),
    "rank-stabilised": (lambda state: lora_state(state, peft), STABLE),
}
MEASURED = [
    ("converted", 0.0),
    ("converted", 0.7),
    ("converted", 1.0),
    ("peft", 0.0),
    ("peft", 0.7),
    ("peft", 1.0),
    ("peft", -0.5),
]
MEASURED += [(kind, 0.7) for kind in KINDS if kind not in ("converted", "peft")]


def written(kind: str, adapter: Any, file: Path) -> Path:
    state = adapter.state_dict()
    make, settings = KINDS[kind]
    told = None if settings is None else json.dumps({**settings, "unet.target_modules": sorted(attentions(state))})
    weights = {name: value.clone() for name, value in make(state).items()}
    save_file(weights, file, None if told is None else {METADATA: told})
    return file


@pytest.mark.parametrize(("kind", "strength"), MEASURED)
def test_equals_diffusers(kind: str, strength: float, unet: Any, adapter: Any, in_diffusers: Path, tmp_path: Path) -> None:
    """Against what diffusers gave of the same file and strength (see fixtures)."""
    stack = copy.deepcopy(loaded(in_diffusers))
    without = call(unet, stack)
    merge_motion_loras(stack, [(written(kind, adapter, tmp_path / "lora.safetensors"), strength)])
    found, wanted = call(unet, stack), load_file(FIXTURES / "diffusers_motion_lora.safetensors")[f"{kind} {strength}"]
    scale = wanted.abs().max()
    assert (found - wanted).abs().max() <= 1e-5 * scale
    assert torch.equal(found, without) == (strength == 0)
    assert strength == 0 or (found - without).abs().max() > 0.05 * scale


@pytest.mark.slow
@pytest.mark.skipif(find_spec("peft") is None, reason="diffusers needs peft to load a LoRA, and it is not installed")
@pytest.mark.parametrize(("kind", "strength"), MEASURED)
def test_diffusers_gives_what_is_recorded(kind: str, strength: float, unet: Any, adapter: Any, tmp_path: Path) -> None:
    found = with_diffusers(unet, adapter, written(kind, adapter, tmp_path / "lora.safetensors"), strength)
    wanted = load_file(FIXTURES / "diffusers_motion_lora.safetensors")[f"{kind} {strength}"]
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


# -- against guoyww's own program


def guoywws_lora(file: Path, before: str = "") -> Path:
    with safe_open(FIXTURES / "animatediff_motion_lora.safetensors", framework="pt") as recorded:
        keys = json.loads(zlib.decompress(base64.b64decode(recorded.metadata()["lora"])))
    return reference.save({name: fill(before + name, tuple(shape)) for name, shape in keys.items()}, file)


@pytest.mark.parametrize("case", ["strength 0.7", "strength 1.0", "two"])
def test_equals_guoywws_own_loader(case: str, tmp_path: Path) -> None:
    """Outputs of its U-Net after its `load_diffusers_lora`; "two" are strengths 0.6 and 0.4 of two files, one after the other."""
    wanted = load_file(FIXTURES / "animatediff_motion_lora.safetensors")[case]
    settings = fixture("animatediff_v2")[2]
    one, other = (guoywws_lora(tmp_path / f"{before}lora.safetensors", before) for before in ("", "second."))
    stack = load_stack(checkpoint("animatediff_v2", tmp_path), dtype=DOUBLE)
    loras = [(one, 0.6), (other, 0.4)] if case == "two" else [(one, float(case.split()[1]))]
    merge_motion_loras(stack, loras)
    model = VideoModel(torch.nn.Module.to(image_unet(settings, False), DOUBLE), stack)
    x = normal("x", 2, 4, 5, 16, 16).movedim(2, 1).to(DOUBLE)
    with torch.inference_mode():
        found = model(x, STEPS, normal("text", 2, 7, settings["cross_attention_dim"]).to(DOUBLE))
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


# -- every form is the same LoRA


@pytest.fixture(scope="module")
def by_hand(adapter: Any, tmp_path_factory: pytest.TempPathFactory) -> State:
    """The stack of v2 with up @ down added to the LoRA's 168 weights, and all others as they were."""
    state = dict(adapter.state_dict())
    changed = attentions(state)
    assert len(changed) == 21 * 8
    for name, weight in changed.items():
        up, down = filled_pair(name, weight)
        state[f"{name}.weight"] = weight + up @ down
    path = tmp_path_factory.mktemp("merged") / "merged.safetensors"
    return dict(load_stack(reference.save(reference.original_layout(state), path)).state_dict())


@pytest.mark.parametrize(
    ("form", "prefix"), [*((form, "") for form in FORMS), (guoyww, "_orig_mod."), (peft, "base_model.model.")]
)
def test_every_form_is_the_same_lora(form: Any, prefix: str, adapter: Any, by_hand: State, v2: Path, tmp_path: Path) -> None:
    lora = {prefix + name: value for name, value in lora_state(adapter.state_dict(), form).items()}
    found = merged(v2, (reference.save(lora, tmp_path / "lora.safetensors"), 1.0))
    assert found.keys() == by_hand.keys()
    for name, value in by_hand.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("wrapped", ["plain", "state_dict"])
def test_a_pickle_with_tables_and_settings_beside_the_weights(wrapped: str, adapter: Any, v2: Path, tmp_path: Path) -> None:
    """As guoyww's programs keep them. Tables of positions are no part of a LoRA, and diffusers leaves them out as well."""
    lora = lora_state(adapter.state_dict(), guoyww)
    file = reference.save(lora, tmp_path / "lora.safetensors")
    table = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
    content: Any = {**{f"module.{name}": value for name, value in lora.items()}, table: torch.zeros(1, 32, 32)}
    content = {"state_dict": content, "animatediff_config": {}} if wrapped == "state_dict" else content
    torch.save(content, tmp_path / "v2_lora_ZoomIn.ckpt")
    found, wanted = merged(v2, (tmp_path / "v2_lora_ZoomIn.ckpt", 0.7)), merged(v2, (file, 0.7))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    again = merged(v2, (tmp_path / "v2_lora_ZoomIn.ckpt", 0.7))  # the opened file is kept, and must be as it was
    assert all(torch.equal(again[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("form", [kohya, converted])
def test_alpha_over_rank(form: Any, adapter: Any, v2: Path, tmp_path: Path) -> None:
    """kohya's scale: alpha / rank; alpha 1 of rank 4 is a quarter."""
    lora = lora_state(adapter.state_dict(), form)
    ends = {kohya: ".lora_up.weight", converted: "_lora.up.weight"}
    alphas = {f"{name.removesuffix(ends[form])}.alpha": torch.tensor(1.0) for name in lora if name.endswith(ends[form])}
    with_alpha = reference.save({**lora, **alphas}, tmp_path / "alpha.safetensors")
    plain = reference.save(lora, tmp_path / "plain.safetensors")
    found, wanted = merged(v2, (with_alpha, 1.0)), merged(v2, (plain, 0.25))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_strengths_add_up(adapter: Any, v2: Path, tmp_path: Path) -> None:
    file = reference.save(lora_state(adapter.state_dict(), guoyww), tmp_path / "lora.safetensors")
    plain = load_stack(v2).state_dict()
    for loras in ([], [(file, 0.0)], [(file, 0.5), (file, -0.5)]):
        found = merged(v2, *loras)
        assert all(torch.equal(found[name], value) for name, value in plain.items()), loras
    one, two = merged(v2, (file, 1.0)), merged(v2, (file, 0.25), (file, 0.75))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=1e-6)
    assert sum(not torch.equal(one[name], value) for name, value in plain.items()) == 21 * 8


def test_half_precision_is_rounded_once(adapter: Any, v2: Path, tmp_path: Path) -> None:
    file = reference.save(lora_state(adapter.state_dict(), guoyww), tmp_path / "lora.safetensors")
    half = load_stack(v2, dtype=torch.float16).state_dict()
    changes = load_motion_lora(file, read_config(v2))
    found = merged(v2, (file, 0.3), (file, 0.4), dtype=torch.float16)
    for name, change in changes.items():
        exact = half[name].double() + 0.7 * (change.up.double() @ change.down.double())
        assert ((found[name].double() - exact).abs() <= exact.abs().clamp(min=2**-14) * 2**-11 + 1e-6).all()


# -- MotionDirector's list


def motion_directors_list(whole: Any) -> list[torch.Tensor]:
    """up and down of what its trainer replaces, as it walks the U-Net: in each TransformerTemporalModel what is linear in attn1,
    attn2 and ff."""
    result = []
    for place, module in whole.named_modules():
        if type(module).__name__ == "TransformerTemporalModel":
            for name, one in module.named_modules():
                if isinstance(one, torch.nn.Linear) and any(part in name for part in ("attn1", "attn2", "ff")):
                    result += [torch.nn.Parameter(part) for part in filled_pair(f"{place}.{name}", one.weight)]
    return result


def test_motion_directors_list_for_modelscope(tmp_path: Path) -> None:
    whole = reference.modelscope_unet(**reference.SMALL_MODELSCOPE)
    state = whole.state_dict()
    stack = reference.save(whole, tmp_path / "modelscope.safetensors")
    listed = motion_directors_list(whole)
    torch.save(listed, tmp_path / "300_unet.pt")
    expected = dict(state)
    for place, module in whole.named_modules():
        if type(module).__name__ == "TransformerTemporalModel":
            for name, one in module.named_modules():
                if isinstance(one, torch.nn.Linear) and any(part in name for part in ("attn1", "attn2", "ff")):
                    up, down = filled_pair(f"{place}.{name}", one.weight)
                    expected[f"{place}.{name}.weight"] = one.weight + up @ down
    wanted = load_stack(reference.save(expected, tmp_path / "merged.safetensors")).state_dict()
    found = merged(stack, (tmp_path / "300_unet.pt", 1.0))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6)
    torch.save(listed[:96], tmp_path / "spatial.pt")
    with pytest.raises(ValueError, match="list of 96 LoRA weights without names, as MotionDirector writes"):
        check_motion_lora(tmp_path / "spatial.pt", read_config(stack))


def test_kernels_of_modelscopes_convolutions(tmp_path: Path) -> None:
    whole = reference.modelscope_unet(**reference.SMALL_MODELSCOPE)
    name = "down_blocks.0.temp_convs.1.conv2.3"
    kernel = whole.state_dict()[f"{name}.weight"]
    up, down = fill("up", (len(kernel), 3, 1, 1, 1)), fill("down", (3, *kernel.shape[1:]))
    file = reference.save({f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}, tmp_path / "lora.safetensors")
    found = merged(reference.save(whole, tmp_path / "modelscope.safetensors"), (file, 0.5))
    product = torch.einsum("or,rikhw->oikhw", up[:, :, 0, 0, 0], down)
    torch.testing.assert_close(found["layers.down-0-resnet-1.convs.1.weight"], (kernel + 0.5 * product)[..., 0])


# -- what does not fit


def words(call: Any) -> str:
    with pytest.raises(ValueError, match=".") as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_on_a_stack_without_a_middle_its_changes_there_are_left_out(
    adapter: Any, v3: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lora = lora_state(adapter.state_dict(), guoyww)
    file = reference.save(lora, tmp_path / "v2_lora.safetensors")
    without = reference.save({k: v for k, v in lora.items() if not k.startswith("mid")}, tmp_path / "without.safetensors")
    with caplog.at_level(logging.WARNING):
        found = merged(v3, (file, 1.0))
    assert "8 of its changes are left out: it was made for AnimateDiff v2" in caplog.text
    caplog.clear()
    wanted = merged(v3, (without, 1.0))
    assert not caplog.text
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_what_changes_the_image_model_too_is_said(
    adapter: Any, v2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lora = lora_state(adapter.state_dict(), guoyww)
    temporal = reference.save(lora, tmp_path / "temporal.safetensors")
    spatial = {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight": torch.ones(2, 2)}
    both = reference.save(lora | spatial, tmp_path / "both.safetensors")
    with caplog.at_level(logging.WARNING):
        found = merged(v2, (both, 1.0))
    assert "both.safetensors also changes 1 weights of the image model" in caplog.text
    assert "LoRA loader" in caplog.text
    wanted = merged(v2, (temporal, 1.0))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def broken(lora: State) -> dict[str, tuple[State, str]]:
    first = next(name for name in lora if "mid" not in name and name.endswith("down.weight"))
    up = first.replace("down.weight", "up.weight")
    strange = first.replace("to_q_lora.down.weight", "to_q.dora_scale")
    return {
        "half of a pair": ({k: v for k, v in lora.items() if k != up}, "lacks the up weight of down_blocks_0"),
        "another width": ({**lora, up: torch.zeros(48, RANK)}, "changes a weight of 48 x 32, and this stack's has 32 x 32"),
        "ranks that do not meet": ({**lora, up: torch.zeros(32, RANK + 1)}, "make no product"),
        "no matrices": ({**lora, up: torch.zeros(32)}, "make no product"),
        "NaN": ({**lora, up: torch.full_like(lora[up], math.nan)}, "holds NaN or infinite values"),
        "a third site": (
            {**lora, **renamed(lora, "down_blocks.0.motion_modules.1", "down_blocks.0.motion_modules.2")},
            "no weight for",
        ),
        "another kind of change": ({**lora, strange: torch.ones(32)}, "1 weights beside low-rank products"),
        "without the middle": ({k: v for k, v in lora.items() if not k.startswith("mid")}, "AnimateDiff v1 or v3"),
        "alphas": ({**lora, first.replace("to_q_lora.down.weight", "to_q.alpha"): torch.ones(3)}, "expected one number"),
        "empty": ({}, "no motion LoRA: expected keys such as"),
    }


def renamed(lora: State, old: str, new: str) -> State:
    return {name.replace(old, new): value for name, value in lora.items() if name.startswith(f"{old}.")}


@pytest.mark.parametrize("kind", broken({"a.to_q_lora.down.weight": torch.ones(1), "a.to_q_lora.up.weight": torch.ones(1)}))
def test_what_does_not_fit_is_refused(kind: str, adapter: Any, v2: Path, tmp_path: Path) -> None:
    state, expected = broken(lora_state(adapter.state_dict(), guoyww))[kind]
    file = reference.save(state, tmp_path / "zoom.safetensors")
    stack = copy.deepcopy(loaded(v2))
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    said = words(lambda: merge_motion_loras(stack, [(file, 1.0)]))
    assert "zoom.safetensors" in said
    assert expected in said
    assert all(torch.equal(before[name], value) for name, value in stack.state_dict().items())


def test_a_lora_for_another_family(unet: Any, adapter: Any, v2: Path, tmp_path: Path) -> None:
    """One for SDXL's places, one of another width, and one on a stack that has no motion modules."""
    sizes = {"block_out_channels": (32, 64, 64), "down_block_types": unet.config.down_block_types[1:]}
    three = reference.image_unet(**{**SMALL, **sizes, "up_block_types": unet.config.up_block_types[:-1]})
    wide = reference.image_unet(**{**SMALL, "block_out_channels": (64, 64, 64, 64)})
    for other in (three, wide):
        lora = lora_state(reference.motion_adapter(other, mid=True).state_dict(), guoyww)
        said = words(lambda lora=lora: check_motion_lora(reference.save(lora, tmp_path / "x.safetensors"), read_config(v2)))
        assert "x.safetensors is a motion LoRA for another motion module" in said
        assert "made for animatediff v2" in said
    file = reference.save(lora_state(adapter.state_dict(), guoyww), tmp_path / "lora.safetensors")
    own = new_stack(small_unet()).config
    assert "family emu has no motion modules" in words(lambda: check_motion_lora(file, own))


def test_an_infinite_strength(adapter: Any, v2: Path, tmp_path: Path) -> None:
    file = reference.save(lora_state(adapter.state_dict(), guoyww), tmp_path / "lora.safetensors")
    assert "finite number, found nan" in words(lambda: merge_motion_loras(copy.deepcopy(loaded(v2)), [(file, math.nan)]))


AT = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"
OTHER_KINDS = (
    "spatial adapter",
    "kohya's LoRA",
    "motion module",
    "checkpoint",
    "CameraCtrl",
    "ControlNet",
    "8 bits",
    "something",
)


def others(adapter: Any) -> dict[str, tuple[State, str]]:
    spatial = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight"
    return {
        "spatial adapter": ({spatial: torch.ones(2, 2)}, "is a spatial LoRA"),
        "kohya's LoRA": ({"lora_unet_input_blocks_1_1_proj_in.lora_down.weight": torch.ones(2, 2)}, "is a spatial LoRA"),
        "motion module": (dict(adapter.state_dict()), "is a temporal stack of family animatediff, not a motion LoRA"),
        "checkpoint": ({"first_stage_model.encoder.conv_in.weight": torch.ones(2, 2)}, "not a motion LoRA"),
        "CameraCtrl": (
            {f"{AT}.processor.to_q_lora.down.weight": torch.ones(2, 2), f"{AT}.processor.qkv_merge.weight": torch.ones(2, 2)},
            "is CameraCtrl",
        ),
        "ControlNet": ({"control_model.zero_convs.0.0.weight": torch.ones(2, 2)}, "is a ControlNet, not a motion LoRA"),
        "8 bits": ({f"{AT}.processor.to_q_lora.down.weight": torch.ones(2, 2).to(torch.float8_e4m3fn)}, "found F8_E4M3 in"),
        "something": ({"weight": torch.ones(2)}, "no motion LoRA: expected keys such as"),
    }


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_another_file_is_named(kind: str, adapter: Any, v2: Path, tmp_path: Path) -> None:
    state, expected = others(adapter)[kind]
    said = words(lambda: check_motion_lora(reference.save(state, tmp_path / "file.safetensors")))
    assert "file.safetensors" in said
    assert expected in said


def test_a_stack_of_this_program_is_named(tmp_path: Path) -> None:
    save_stack(new_stack(small_unet()), tmp_path / "own.safetensors")
    assert "temporal stack of family emu" in words(lambda: check_motion_lora(tmp_path / "own.safetensors"))


def test_damaged_settings_of_peft(adapter: Any, v2: Path, tmp_path: Path) -> None:
    weights = {name: value.clone() for name, value in lora_state(adapter.state_dict(), peft).items()}
    for text in ("{", '["a"]', '{"unet.lora_alpha": "x"}'):
        save_file(weights, tmp_path / "lora.safetensors", {METADATA: text})
        assert "damaged metadata" in words(lambda: check_motion_lora(tmp_path / "lora.safetensors", read_config(v2)))

"""TemporalStack: all that is learned, attached to a frozen U-Net by forward hooks and detached without a trace.

No module of the U-Net is replaced, none of its keys moves, and no state stays on it. What a run needs travels in one
`Run`, set for the time of that run on the attachment that the hooks belong to; outside a run the hooks do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.utils.checkpoint import checkpoint

from .attention import Attend, sdpa
from .config import StackConfig
from .layers import TORCH_LAYERS, LayerTypes, TemporalConv, TemporalTransformer, zero_
from .motion_module import ConvStack, MotionModule, ValueEmbedding
from .sites import Site, find_sites


@dataclass(frozen=True)
class Run:
    """What one run of a video U-Net needs, beside the U-Net's own inputs of batch (b f).

    `conditioning` (b f, C+1, h, w) in the stack's channel order, or None for no image. `text`: states (b, tokens, width),
    one for all transformer layers or one for each. `strength` 0 switches the temporal layers off, 1 is as trained; the
    image channels are not scaled by it. `values` are numbers for the time embedding, in place of the stack's own defaults.
    """

    frames: int
    text: Sequence[torch.Tensor] = ()
    conditioning: torch.Tensor | None = None
    strength: float = 1.0
    attend: Attend = sdpa
    values: Mapping[str, float] = field(default_factory=dict)


class TemporalStack(nn.Module):
    """The temporal layers of every site, and the kernel of the extra input channels (zero at the start)."""

    def __init__(self, config: StackConfig, types: LayerTypes = TORCH_LAYERS, **factory: Any) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleDict({_key(site): self._layer(site, types, factory) for site in config.sites})
        self.conv_in: nn.Module | None = None
        if config.takes_image:
            self.conv_in = types.conv2d(config.extra_channels, config.input_width, 3, padding=1, bias=False, **factory)
            zero_(self.conv_in)
        self.mixes = nn.ParameterDict()  # logits of the weight of what a layer adds
        if config.mixing == "learned":
            dtype, device = factory.get("dtype"), factory.get("device")
            self.mixes = nn.ParameterDict({key: nn.Parameter(torch.zeros(1, dtype=dtype, device=device)) for key in self.layers})
        width = config.input_width
        self.embeddings = nn.ModuleDict({name: ValueEmbedding(width, 4 * width, types, **factory) for name, _ in config.values})

    def _layer(self, site: Site, types: LayerTypes, factory: dict[str, Any]) -> nn.Module:
        config = self.config
        if config.motion is not None:
            if site.kind == "resnet":
                return ConvStack(site.channels, types, **factory)
            if site.kind in ("layer", "attention") or site.name == "conv_in":
                inner = config.motion.entrance if site.name == "conv_in" else None
                return MotionModule(site.channels, config.motion, types, inner, **factory)
        elif site.kind == "conv":
            return TemporalConv(site.channels, config.kernel, types, **factory)
        elif site.kind == "attention":
            return TemporalTransformer(
                site.channels,
                config.head_dim,
                config.attentions,
                site.contexts,
                config.mlp_ratio,
                types,
                config.positions,
                **factory,
            )
        raise ValueError(f"site {site.name} is of kind {site.kind!r}, for which this kind of stack has no layer")

    @classmethod
    def for_unet(cls, unet: nn.Module, without: tuple[str, ...] = (), **settings: Any) -> TemporalStack:
        """A new stack, the identity, with a layer at every conv and attention site of `unet`, but for those whose names end
        in one of `without`. `settings` are StackConfig's, `base` among them.
        """
        found = find_sites(unet)
        carried = [site for site, _ in found.values() if site.kind in ("conv", "attention")]
        sites = tuple(site for site in carried if not site.name.endswith(without or ("\0",)))
        latent_channels = found["conv_in"][1].in_channels
        width = found["conv_in"][0].channels
        assert isinstance(latent_channels, int)
        config = StackConfig(latent_channels=latent_channels, input_width=width, sites=sites, **settings)
        return cls(config)

    def randomise(self) -> None:
        """Give the layers that begin at zero torch's ordinary random weights: the stack is then not the identity."""
        for layer in self.layers.values():
            for module in layer.modules():
                if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.any():
                    module.reset_parameters()

    def attach(self, unet: nn.Module) -> Attachment:
        """Put hooks on a U-Net. Refuses, with a sentence, one that lacks a site or has it in another width."""
        return Attachment(self, unet)


Recompute = Callable[..., Any]
"""(function, *arguments) -> what the function returns; what it needs for the backward pass it may forget and make again."""


def recompute_later(function: Callable[..., Any], *args: Any) -> Any:
    """torch's own gradient checkpointing."""
    return checkpoint(function, *args, use_reentrant=False)


_CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func")  # what diffusers sets on a module


def _key(site: Site) -> str:
    return site.name.replace(".", "-")  # a module's name may hold no dot


class Attachment:
    """A stack on a U-Net. `with attachment.run(Run(...)):` makes calls of that U-Net video calls; `detach()` ends it."""

    def __init__(self, stack: TemporalStack, unet: nn.Module) -> None:
        self.stack = stack
        self.unet: Any = unet
        self.current: Run | None = None
        self.untouched: list[tuple[nn.Module, dict[str, Any]]] = []
        self.recompute: Recompute | None = None
        self.autocast: torch.dtype | None = None
        """Precision of the stack's matrix products where its weights are kept in another: that of training's frozen U-Net."""
        found = find_sites(unet)
        latent_channels = found["conv_in"][1].in_channels
        assert isinstance(latent_channels, int)
        check_fit(stack.config, {name: site for name, (site, _) in found.items()}, latent_channels)
        self.handles = [
            found[site.name][1].register_forward_hook(self._hook(site.name, stack.layers[_key(site)], _key(site)))
            for site in stack.config.sites
        ]
        if stack.conv_in is not None and "conv_in" not in {site.name for site in stack.config.sites}:
            self.handles.append(found["conv_in"][1].register_forward_hook(self._hook("conv_in", None)))
        if stack.config.values:
            self.handles.append(found["time_embedding"][1].register_forward_hook(self._add_values))
        if stack.config.motion is not None and stack.config.motion.image_norms == "video":
            for site, module in found.values():
                if site.kind == "norm":
                    self.handles.append(module.register_forward_pre_hook(self._frames_into_height))
                    self.handles.append(module.register_forward_hook(self._frames_out_of_height))

    def detach(self) -> None:
        """Take every hook off, and end what gradient checkpointing began; the U-Net is what it was."""
        for handle in self.handles:
            handle.remove()
        for module, settings in self.untouched:
            for name in _CHECKPOINTING:
                module.__dict__.pop(name, None)
            module.__dict__.update(settings)
        self.handles, self.untouched = [], []
        self.recompute = None

    @contextmanager
    def run(self, run: Run) -> Iterator[None]:
        """Meanwhile the hooks act, as `run` says. Runs may nest; the outer one is in force again afterwards."""
        outer, self.current = self.current, run
        try:
            yield
        finally:
            self.current = outer

    def texts(self, text: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split text states (b, tokens, width) by the widths that the transformer layers of a site attend to.

        One part when all layers see the same text; else they are joined along the width, as for the paper's two encoders.
        """
        if self.stack.config.motion is not None:
            return (text,)  # which its layers do not read
        widths = {site.contexts for site in self.stack.config.sites if site.kind == "attention"}
        own = max(widths, key=len, default=())
        if len(set(own)) <= 1:
            return (text,)
        return text.split(own, -1)

    def enable_gradient_checkpointing(self, recompute: Recompute = recompute_later) -> None:
        """Have diffusers' U-Net recompute its blocks, and the stack its transformers, in the backward pass, which happens after
        the run is over: each block takes its run along. It lasts until `detach`."""
        self.recompute = recompute

        def with_run(module: Callable[..., Any], *args: Any) -> Any:
            run = self.current

            def again(*inner: Any) -> Any:
                if run is None:
                    return module(*inner)
                with self.run(run):
                    return module(*inner)

            return recompute(again, *args)

        if not self.untouched:
            able = [module for module in self.unet.modules() if hasattr(module, _CHECKPOINTING[0])]
            self.untouched = [(m, {name: m.__dict__[name] for name in _CHECKPOINTING if name in m.__dict__}) for m in able]
        self.unet.enable_gradient_checkpointing(gradient_checkpointing_func=with_run)

    def _hook(self, name: str, layer: nn.Module | None, key: str = "") -> Callable[..., Any]:
        learned = self.stack.config.mixing == "learned"

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            run = self.current
            if run is None:
                return None  # the output itself, not a copy: bits and memory layout stay
            x = output if isinstance(output, torch.Tensor) else output[0]
            y = x
            entrance = self.stack.conv_in
            if name == "conv_in" and run.conditioning is not None and entrance is not None:
                y = _add(y, entrance(_as_weights(run.conditioning, next(entrance.parameters()))))
            if layer is not None and run.strength != 0:
                strength = run.strength * torch.sigmoid(self.stack.mixes[key]).to(x.device) if learned else run.strength
                y = self._act(layer, y, run, strength)
            if y is x:
                return None
            return y if isinstance(output, torch.Tensor) else (y, *output[1:])

        return hook

    def _act(self, layer: nn.Module, x: torch.Tensor, run: Run, strength: float | torch.Tensor) -> torch.Tensor:
        if self.autocast is None:
            return _apply(layer, x, run, strength, self.recompute)
        with torch.autocast(x.device.type, self.autocast):
            return _apply(layer, x, run, strength, self.recompute)

    def _add_values(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        """The numbers that a stack is told, added to the time embedding (b f, width)."""
        run = self.current
        if run is None or run.strength == 0:
            return None
        for name, default in self.stack.config.values:
            output = output + run.strength * self.stack.embeddings[name](run.values.get(name, default), output).to(output.dtype)
        return output

    def _frames_into_height(self, module: nn.Module, args: Any) -> Any:
        """Have a group norm of the image model see a whole video as one tall picture."""
        run = self.current
        if run is None or run.strength == 0:
            return None
        return (rearrange(args[0], "(b f) c h w -> b c (f h) w", f=run.frames),)

    def _frames_out_of_height(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        run = self.current
        if run is None or run.strength == 0:
            return None
        return rearrange(output, "b c (f h) w -> (b f) c h w", f=run.frames).contiguous()


def _apply(
    layer: nn.Module, x: torch.Tensor, run: Run, strength: float | torch.Tensor, recompute: Recompute | None
) -> torch.Tensor:
    weight = next(layer.parameters())
    inner = _as_weights(x, weight)
    if not isinstance(layer, TemporalTransformer):
        change = layer(inner, run.frames, run.attend) if isinstance(layer, MotionModule) else layer(inner, run.frames)
        return _add(x, change if _is_one(strength) else strength * change)
    texts = tuple(_as_weights(states, weight) for states in run.text)
    if recompute is not None and torch.is_grad_enabled():
        y = recompute(layer, inner, run.frames, texts, run.attend)
    else:
        y = layer(inner, run.frames, texts, run.attend)
    if torch.promote_types(inner.dtype, x.dtype) != inner.dtype:  # the cast rounded x: keep its own bits, add the change
        y = _add(x, y - inner)
    y = _like(y, x)
    if _is_one(strength):
        return y
    weight_of_new = strength.to(x.dtype) if isinstance(strength, torch.Tensor) else strength
    return _like(torch.lerp(x, y, weight_of_new), x)


def _is_one(strength: float | torch.Tensor) -> bool:
    return not isinstance(strength, torch.Tensor) and strength == 1


def _as_weights(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Cast to the layer's precision, unless autocast does."""
    return x if x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type) else x.to(weight.dtype)


def _like(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`y` in the precision and memory layout of `x`: another layout would choose other kernels further on, and other bits."""
    if y.dtype == x.dtype and y.stride() == x.stride():
        return y
    return torch.empty_like(x).copy_(y)


def _add(x: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    return _like(x + _like(change, x), x)  # a sum's layout may differ from that of both its terms, if they are 1 x 1


def check_fit(config: StackConfig, found: dict[str, Site], latent_channels: int) -> None:
    """Refuse a U-Net that is not of the shape that the stack was made for; `latent_channels` is what its first layer takes."""
    for site in config.sites:
        here = found.get(site.name)
        if here is None:
            raise ValueError(
                f"this temporal stack is for {config.base!r} and has a layer at {site.name}, which the given U-Net lacks: "
                f"load it on a {config.base!r} model"
            )
        expects = site.contexts if config.motion is None else here.contexts  # motion modules read no text
        if (here.channels, here.contexts) != (site.channels, expects):
            raise ValueError(
                f"this temporal stack is for {config.base!r}: at {site.name} it expects {_width(site)}, "
                f"the given U-Net has {_width(here)}; load it on a {config.base!r} model"
            )
    expected, given = (config.latent_channels, config.input_width), (latent_channels, found["conv_in"].channels)
    if expected != given:
        raise ValueError(
            f"this temporal stack is for {config.base!r}: at conv_in it expects {expected[0]} latent channels and a width of "
            f"{expected[1]}, the given U-Net has {given[0]} and {given[1]}; load it on a {config.base!r} model"
        )
    texts = {width for site in found.values() for width in site.contexts}
    if config.text_width is not None and texts - {config.text_width}:
        raise ValueError(
            f"this temporal stack is for {config.base!r}, whose text states have a width of {config.text_width}, the given U-Net "
            f"reads {'/'.join(map(str, sorted(texts)))}; load it on a {config.base!r} model"
        )


def _width(site: Site) -> str:
    return f"{site.channels} channels" + (f" and text states of {'/'.join(map(str, site.contexts))}" if site.contexts else "")

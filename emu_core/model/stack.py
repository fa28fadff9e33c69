"""TemporalStack: all that is learned, attached to a frozen U-Net by forward hooks and detached without a trace.

No module of the U-Net is replaced, none of its keys moves, and no state stays on it. What a run needs travels in one
`Run`, set for the time of that run on the attachment that the hooks belong to; outside a run the hooks do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from .config import StackConfig, UNetShape
from .layers import TORCH_LAYERS, LayerTypes, Run, as_weights, like, zero_
from .sites import Found, Site, find_sites

Act = Callable[[torch.Tensor, Run], torch.Tensor]
"""What a hook does to a module's output in a run."""
Recompute = Callable[..., Any]
"""(function, *arguments) -> what the function returns; what it needs for the backward pass it may forget and make again."""
RECOMPUTE: Recompute = partial(checkpoint, use_reentrant=False)
_CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func")  # what diffusers sets on a module


class TemporalStack(nn.Module):
    """The temporal layers of every site, and the kernel of the extra input channels (zero at the start)."""

    def __init__(self, config: StackConfig, types: LayerTypes = TORCH_LAYERS, **factory: Any) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleDict({_key(site): config.layers.build(site, types, **factory) for site in config.sites})
        width = config.unet.input_width
        self.conv_in: Any = None
        if config.takes_image:
            self.conv_in = types.conv2d(config.extra_channels, width, 3, padding=1, bias=False, **factory)
            zero_(self.conv_in)
        self.mixes = nn.ParameterDict()  # logits of the weight of what a layer adds
        if config.layers.mixing == "learned":
            dtype, device = factory.get("dtype"), factory.get("device")
            self.mixes = nn.ParameterDict({key: nn.Parameter(torch.zeros(1, dtype=dtype, device=device)) for key in self.layers})
        self.embeddings = nn.ModuleDict({name: config.layers.embed(width, types, **factory) for name, _ in config.values})

    @classmethod
    def for_unet(
        cls,
        unet: nn.Module,
        without: tuple[str, ...] = (),
        kinds: tuple[str, ...] = ("conv", "attention"),
        **settings: Any,
    ) -> TemporalStack:
        """A new stack, the identity, with a layer at every site of these `kinds` of `unet`, but for those whose names end in one
        of `without`. `settings` are those of StackConfig and its parts, `base` among them.
        """
        found = find_sites(unet)
        carried = [site for site, _ in found.values() if site.kind in kinds]
        sites = tuple(site for site in carried if not site.name.endswith(without or ("\0",)))
        first, conv_in = found["conv_in"]
        shape = UNetShape(latent_channels=conv_in.in_channels, input_width=first.channels)
        return cls(StackConfig(shape, sites).changed(**settings))

    def randomise(self) -> None:
        """Give the layers that begin at zero torch's ordinary random weights: the stack is then not the identity."""
        for layer in self.layers.values():
            for module in layer.modules():
                if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.any():
                    module.reset_parameters()

    def attach(self, unet: nn.Module) -> Attachment:
        """Put hooks on a U-Net. Refuses, with a sentence, one that lacks a site or has it in another width."""
        return Attachment(self, unet)


def _key(site: Site) -> str:
    return site.name.replace(".", "-")  # a module's name may hold no dot


class Attachment:
    """A stack on a U-Net. `with attachment.run(Run(...)):` makes calls of that U-Net video calls; `detach()` ends it.

    `autocast` is the precision of the stack's matrix products where its weights are kept in another: that of training's frozen
    U-Net.
    """

    def __init__(self, stack: TemporalStack, unet: nn.Module) -> None:
        self.stack = stack
        self.unet: Any = unet
        self.current: Run | None = None
        self.untouched: list[tuple[nn.Module, dict[str, Any]]] = []
        self.recompute: Recompute | None = None
        self.autocast: torch.dtype | None = None
        config, found = stack.config, find_sites(unet)
        check_fit(config, found)
        hooks: list[tuple[str, Act]] = [("conv_in", self._give_image)] if config.takes_image else []
        hooks += [(site.name, partial(self._run_layer, _key(site))) for site in config.sites]
        hooks += [("time_embedding", self._tell_values)] if config.values else []
        norms = [name for name, (site, _) in found.items() if site.kind == "norm" and config.layers.norms_over_video]
        hooks += [(name, self._frames_out_of_height) for name in norms]
        self.handles = [found[name][1].register_forward_hook(self._hook(act)) for name, act in hooks]
        self.handles += [found[name][1].register_forward_pre_hook(self._frames_into_height) for name in norms]

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
        read = self.stack.config.sites if "text" in self.stack.config.layers.kinds else ()
        widths = max((site.contexts for site in read if site.kind == "attention"), key=len, default=())
        return text.split(widths, -1) if len(set(widths)) > 1 else (text,)

    def enable_gradient_checkpointing(self, recompute: Recompute = RECOMPUTE) -> None:
        """Have diffusers' U-Net recompute its blocks, and the stack its transformers, in the backward pass, which happens after
        the run is over: each block takes its run along. It lasts until `detach`."""
        self.recompute = recompute

        def with_run(module: Callable[..., Any], *args: Any) -> Any:
            run = self.current

            def again(*inner: Any) -> Any:
                with nullcontext() if run is None else self.run(run):
                    return module(*inner)

            return recompute(again, *args)

        if not self.untouched:
            able = [module for module in self.unet.modules() if hasattr(module, _CHECKPOINTING[0])]
            self.untouched = [(m, {name: m.__dict__[name] for name in _CHECKPOINTING if name in m.__dict__}) for m in able]
        self.unet.enable_gradient_checkpointing(gradient_checkpointing_func=with_run)

    def _hook(self, act: Act) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            run = self.current
            if run is None:
                return None  # the output itself, not a copy: bits and memory layout stay
            x = output if isinstance(output, torch.Tensor) else output[0]
            y = act(x, run)
            if y is x:
                return None
            return y if isinstance(output, torch.Tensor) else (y, *output[1:])

        return hook

    def _give_image(self, x: torch.Tensor, run: Run) -> torch.Tensor:
        """The given frames' part of the first convolution; it is not scaled by the strength."""
        entrance = self.stack.conv_in
        if run.conditioning is None or entrance is None:
            return x
        return _add(x, entrance(as_weights(run.conditioning, next(entrance.parameters()))))

    def _run_layer(self, key: str, x: torch.Tensor, run: Run) -> torch.Tensor:
        if run.strength == 0:
            return x
        strength: float | torch.Tensor = run.strength
        if key in self.stack.mixes:
            strength = strength * torch.sigmoid(self.stack.mixes[key]).to(x.device)
        layer: Any = self.stack.layers[key]
        with nullcontext() if self.autocast is None else torch.autocast(x.device.type, self.autocast):
            inner = as_weights(x, next(layer.parameters()))
            rounded = torch.promote_types(inner.dtype, x.dtype) != inner.dtype
            arguments = (inner, run, strength, x if rounded else None)
            if layer.recomputed and self.recompute is not None and torch.is_grad_enabled():
                return like(self.recompute(layer, *arguments), x)
            return like(layer(*arguments), x)

    def _tell_values(self, x: torch.Tensor, run: Run) -> torch.Tensor:
        """The numbers that a stack is told, added to the time embedding (b f, width)."""
        for name, default in self.stack.config.values if run.strength != 0 else ():
            x = x + run.strength * self.stack.embeddings[name](run.values.get(name, default), x).to(x.dtype)
        return x

    def _frames_into_height(self, module: nn.Module, args: Any) -> Any:
        """Have a group norm of the image model see a whole video as one tall picture."""
        run = self.current
        if run is None or run.strength == 0:
            return None
        return (rearrange(args[0], "(b f) c h w -> b c (f h) w", f=run.frames),)

    def _frames_out_of_height(self, x: torch.Tensor, run: Run) -> torch.Tensor:
        return x if run.strength == 0 else rearrange(x, "b c (f h) w -> (b f) c h w", f=run.frames).contiguous()


def _add(x: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    return like(x + like(change, x), x)  # a sum's layout may differ from that of both its terms, if they are 1 x 1


def check_fit(config: StackConfig, found: Found) -> None:
    """Refuse, with a sentence, a U-Net that is not of the shape that the stack was made for; `found` are its sites."""
    unet, sites = config.unet, {name: site for name, (site, _) in found.items()}
    where, load = f"this temporal stack is for {unet.base!r}", f"load it on a {unet.base!r} model"
    for site in config.sites:
        here = sites.get(site.name)
        if here is None:
            raise UserError(f"{where} and has a layer at {site.name}, which the given U-Net lacks: {load}")
        # a site without contexts is a public motion module's, which reads no text
        if here.channels != site.channels or site.contexts not in ((), here.contexts):
            raise UserError(f"{where}: at {site.name} it expects {_width(site)}, the given U-Net has {_width(here)}; {load}")
    has = (found["conv_in"][1].in_channels, sites["conv_in"].channels)
    expected = (has[0] if unet.latent_channels is None else unet.latent_channels, unet.input_width)
    if expected != has:
        first = "{} latent channels and a width of {}".format(*expected)
        raise UserError(f"{where}: at conv_in it expects {first}, the given U-Net has {has[0]} and {has[1]}; {load}")
    texts = {text for site in sites.values() for text in site.contexts}
    if unet.text_width is not None and texts - {unet.text_width}:
        reads = f"text states have a width of {unet.text_width}, the given U-Net reads {'/'.join(map(str, sorted(texts)))}"
        raise UserError(f"{where}, whose {reads}; {load}")


def _width(site: Site) -> str:
    return f"{site.channels} channels" + (f" and text states of {'/'.join(map(str, site.contexts))}" if site.contexts else "")

"""The ComfyUI nodes: schemas and a few lines each. All contact with ComfyUI's internals is in `adapter`."""

from __future__ import annotations

from .adapter.paths import register_folders
from .adapter.schema import ComfyExtension, io
from .adapter.studies import mount
from .comparison import EmuVideoAddToStudy, EmuVideoCompare
from .conditioning import EmuVideoConditioning
from .evaluation import EmuVideoBestStartingFrame, EmuVideoEvaluate
from .interpolation import EmuVideoInterpolate
from .loaders import EmuVideoApplyStack, EmuVideoTinyModel
from .pictures import EmuVideoContactSheet
from .sampling import EmuVideoSampler, EmuVideoScheduler, EmuVideoStartingFrame

NODES: list[type[io.ComfyNode]] = [
    EmuVideoTinyModel,
    EmuVideoStartingFrame,
    EmuVideoApplyStack,
    EmuVideoConditioning,
    EmuVideoScheduler,
    EmuVideoSampler,
    EmuVideoInterpolate,
    EmuVideoContactSheet,
    EmuVideoBestStartingFrame,
    EmuVideoEvaluate,
    EmuVideoCompare,
    EmuVideoAddToStudy,
]


class EmuVideoExtension(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """In the order in which they stand in a workflow."""
        return NODES


async def comfy_entrypoint() -> EmuVideoExtension:
    """What ComfyUI asks a pack for."""
    register_folders()
    mount()
    return EmuVideoExtension()

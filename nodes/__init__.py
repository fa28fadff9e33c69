"""The ComfyUI nodes: schemas and a few lines each. All contact with ComfyUI's internals is in `adapter`."""

from __future__ import annotations

from .adapter.paths import register_folders
from .adapter.schema import ComfyExtension, Node
from .adapter.studies import mount
from .comparison import EmuVideoAddToStudy, EmuVideoCompare
from .conditioning import EmuVideoConditioning
from .evaluation import EmuVideoBestStartingFrame, EmuVideoEvaluate
from .interpolation import EmuVideoInterpolate
from .loaders import EmuVideoApplyStack, EmuVideoMotionLora, EmuVideoTinyModel
from .pictures import EmuVideoContactSheet
from .prompts import EmuVideoPromptBatch, EmuVideoPromptRange, EmuVideoPrompts
from .sampling import EmuVideoSampler, EmuVideoScheduler, EmuVideoStartingFrame
from .timelines import EmuVideoExtend, EmuVideoKeyframes, EmuVideoLoop


class EmuVideoExtension(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[Node]]:
        """In the order in which they stand in a workflow."""
        before = [EmuVideoTinyModel, EmuVideoStartingFrame, EmuVideoApplyStack, EmuVideoMotionLora]
        video = [EmuVideoConditioning, EmuVideoScheduler, EmuVideoSampler, EmuVideoInterpolate, EmuVideoContactSheet]
        longer = [EmuVideoPrompts, EmuVideoPromptRange, EmuVideoPromptBatch, EmuVideoExtend, EmuVideoLoop, EmuVideoKeyframes]
        return [*before, *video, *longer, EmuVideoBestStartingFrame, EmuVideoEvaluate, EmuVideoCompare, EmuVideoAddToStudy]


async def comfy_entrypoint() -> EmuVideoExtension:
    """What ComfyUI asks a pack for."""
    register_folders()
    mount()
    return EmuVideoExtension()

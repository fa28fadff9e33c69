"""ComfyUI as it sets itself up on an NVIDIA card with dynamic VRAM, as far as a machine without one allows.

ComfyUI 0.16 and newer (Windows) or 0.30 and newer (Linux) load their models through `ModelPatcherDynamic` and build `comfy.ops`
Linear and Embedding layers without weights. `--cpu` switches both off, so no ordinary test meets them. Not emulated: real VRAM,
pinned memory, streams; only the order in which things are built, loaded, patched and handed back. Written for 0.33.0, whose
requirements bring the package comfy-aimdo that it needs.
"""

from __future__ import annotations


def emulate(root: str) -> None:
    """In a fresh process, with ComfyUI's folder `root` on sys.path, before anything else of comfy is imported."""
    import comfy_aimdo.control

    if not comfy_aimdo.control.init():
        raise RuntimeError(f"comfy-aimdo could not be initialised: is the one of {root}/requirements.txt installed?")
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy_aimdo.host_buffer
    import torch

    comfy.memory_management.aimdo_enabled = True
    dynamic = comfy.model_patcher.ModelPatcherDynamic
    dynamic.__new__ = lambda cls, *args, **settings: object.__new__(cls)  # its own sends the CPU to the plain class

    class NoBuffer:
        def __init__(self, *args: object, **settings: object) -> None:
            self.size = 0

        def truncate(self, *args: object, **settings: object) -> None: ...

    comfy_aimdo.host_buffer.HostBuffer = NoBuffer
    comfy.model_patcher.comfy_aimdo.host_buffer.HostBuffer = NoBuffer
    comfy.model_management.pinned_hostbuf_size = lambda size: 0
    dynamic._vbar_get = lambda self, create=False: None
    dynamic.partially_unload = lambda self, device_to, memory_to_free=0, force_patch_weights=False: self.restore_loaded_backups()
    load = dynamic.load

    def load_with_patches(self: object, *args: object, **settings: object) -> None:
        """On a card a patch of a large weight, a LoRA say, acts as the weight arrives there; here, as the weight is used."""
        load(self, *args, **settings)
        for module in self.model.modules():
            for name in ("weight", "bias"):
                if (patch := getattr(module, f"{name}_lowvram_function", None)) is not None:
                    setattr(module, f"{name}_function", [patch, *getattr(module, f"{name}_function", [])])

    dynamic.load = load_with_patches
    comfy.model_patcher.CoreModelPatcher = dynamic
    comfy.model_management.text_encoder_device = lambda: torch.device("cpu:0")
    comfy.model_management.text_encoder_initial_device = lambda *args, **settings: torch.device("cpu")

"""Pictures and videos in and out: files on one side, float tensors (f, H, W, 3) in 0..1 on the other.

Everything here needs PyAV and Pillow only. What a user can cause (a wrong path, a broken file, a full disk) is a
ValueError of one sentence.
"""

from .files import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, check_output
from .images import fit, read_image, write_image
from .reading import Video, read_video
from .sheet import contact_sheet
from .writing import write_video

__all__ = [
    "IMAGE_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "Video",
    "check_output",
    "contact_sheet",
    "fit",
    "read_image",
    "read_video",
    "write_image",
    "write_video",
]

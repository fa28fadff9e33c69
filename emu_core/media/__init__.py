"""Pictures and videos in and out: files on one side, float tensors (f, H, W, 3) in 0..1 on the other, or frames one by one.

Everything here needs PyAV and Pillow only. What a user can cause (a wrong path, a broken file, a full disk) is a
ValueError of one sentence.
"""

from .files import Unreadable
from .images import fit, pad, read_image
from .reading import Facts, Video, VideoReader, read_video
from .scale import Scale, parse_scale
from .sheet import contact_sheet, shown_every
from .writing import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, check_output, write_image, write_parts, write_video

__all__ = [
    "IMAGE_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "Facts",
    "Scale",
    "Unreadable",
    "Video",
    "VideoReader",
    "check_output",
    "contact_sheet",
    "fit",
    "pad",
    "parse_scale",
    "read_image",
    "read_video",
    "shown_every",
    "write_image",
    "write_parts",
    "write_video",
]

"""Videos: decoding, parsing frame by frame, smoothing over time, and the files that are written."""

from upernet.inference.video.parsing import ParsedFrame, VideoParse
from upernet.inference.video.saving import VIDEO_FILE, VIDEO_KINDS, LabelForm, SavedVideo, check_video_kinds
from upernet.inference.video.sources import is_video, require_av

__all__ = [
    "VIDEO_FILE",
    "VIDEO_KINDS",
    "LabelForm",
    "ParsedFrame",
    "SavedVideo",
    "VideoParse",
    "check_video_kinds",
    "is_video",
    "require_av",
]

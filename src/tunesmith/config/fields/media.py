"""Images, videos and sounds: how they are sized and sampled.

Multimodal rows come later; text-only training of a multimodal family needs none of these keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunesmith.config.spec import Group, option

_LATER = "train on text; multimodal rows are not read"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class MediaOptions:
    """Multimodal processing."""

    GROUP: ClassVar[Group] = Group(
        "media", "Images, video, audio", "图像、视频与音频", ("train", "eval", "chat", "webchat", "api")
    )

    image_max_pixels: int = option(589824, en="Largest image in pixels.", zh="图像的最大像素数。", gt=0, later=_LATER)
    image_min_pixels: int = option(1024, en="Smallest image in pixels.", zh="图像的最小像素数。", gt=0, later=_LATER)
    image_do_pan_and_scan: bool = option(
        False, en="Gemma 3: also look at crops of the image.", zh="Gemma 3：同时查看图像的局部裁剪。", later=_LATER
    )
    crop_to_patches: bool = option(
        False, en="InternVL: cut the image into patches.", zh="InternVL：将图像切成小块。", later=_LATER
    )
    video_max_pixels: int = option(
        65536, en="Largest video frame in pixels.", zh="视频帧的最大像素数。", gt=0, later=_LATER
    )
    video_min_pixels: int = option(
        256, en="Smallest video frame in pixels.", zh="视频帧的最小像素数。", gt=0, later=_LATER
    )
    video_fps: float = option(2.0, en="Frames taken per second.", zh="每秒采样的帧数。", gt=0, later=_LATER)
    video_maxlen: int = option(128, en="Most frames of a video.", zh="一段视频的最大帧数。", gt=0, later=_LATER)
    use_audio_in_video: bool = option(False, en="Listen to the sound of videos.", zh="使用视频中的声音。", later=_LATER)
    audio_sampling_rate: int = option(
        16000, en="Sampling rate of sounds in Hz.", zh="音频的采样率（Hz）。", gt=0, later=_LATER
    )

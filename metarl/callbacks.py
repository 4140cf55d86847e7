"""Callbacks of a training run: the page, the figures and the videos that it leaves on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metarl.report.callbacks import OodCallback, ReportCallback, TensorBoardCallback
from metarl.report.tracking import TrackingCallback
from metarl.runs.callback import Callback, Run
from metarl.video.callback import VideoCallback

if TYPE_CHECKING:
    from metarl.runs.config import TrainConfig

__all__ = [
    "Callback", "OodCallback", "ReportCallback", "Run", "TensorBoardCallback",
    "TrackingCallback", "VideoCallback", "default_callbacks",
]  # fmt: skip


def default_callbacks(config: TrainConfig) -> list[Callback]:
    """Return the callbacks of `metarl train`, in the order in which they are called."""
    tracking = [] if config.track == "none" else [TrackingCallback(config.track)]
    ood = [OodCallback()] if config.evaluate_ood else []
    return [
        *tracking, *ood, ReportCallback(), TensorBoardCallback(),
        VideoCallback(config.video_every),
    ]  # fmt: skip

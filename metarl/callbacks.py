"""Callbacks of a training run: the page, the figures and the videos that it leaves on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metarl.report.callbacks import ReportCallback, TensorBoardCallback
from metarl.runs.callback import Callback, Run
from metarl.video.callback import VideoCallback

if TYPE_CHECKING:
    from metarl.runs.config import TrainConfig

__all__ = [
    "Callback", "ReportCallback", "Run", "TensorBoardCallback", "VideoCallback",
    "default_callbacks",
]  # fmt: skip


def default_callbacks(config: TrainConfig) -> list[Callback]:
    """Return the callbacks of `metarl train`, in the order in which they are called."""
    return [ReportCallback(), TensorBoardCallback(), VideoCallback(config.video_every)]

"""A run folder: what a training run leaves on disk, and who may write to it.

    config.json                          what was asked for, with versions
    metrics.csv, events.out.tfevents.*   one row an iteration; events also have held-out returns
    curve.json                           one entry per held-out evaluation
    report.html                          the page on it, written anew at each evaluation
    evaluation/heldout_step_XXXXXXXX.json
    videos/step_XXXXXXXX.gif             with --video-every
    tracking.json                        with --track: as which run a tracker knows it
    evaluation/test_*_step_*.json        made by `metarl report`
    checkpoints/step_XXXXXXXX/

Files are replaced whole, by a rename, so a reader (or a resumed run after `kill -9`) never meets a
half-written one. The exception is metrics.csv, which grows by a line at a time: a torn last line is
dropped on resume.
"""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
import threading
from pathlib import Path
from typing import IO, Any

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    Logger,
    TensorBoardOutputFormat,
    filter_excluded_keys,
)

from metarl.base.errors import UserError
from metarl.base.files import file_errors, open_regular, write_bytes, write_json
from metarl.runs.tags import tagged


class MetricsCsv(CSVOutputFormat):
    """SB3's CSV writer, going on after the last row that is kept instead of starting over.

    SB3's own opens its file with ``w+``, so resuming would lose every earlier row, and orders its
    columns by a set, so they would differ from one process to the next.
    """

    def __init__(self, path: Path, *, upto: int) -> None:
        """Open `path`, keeping the rows whose `iteration` column is at most `upto`."""
        header, rows = _kept_rows(path, upto)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows] if header else [])
        write_bytes(path, text.getvalue().encode())
        self.file = open(path, "r+", encoding="utf-8")  # noqa: SIM115  (closed by close())
        self.file.seek(0, io.SEEK_END)
        self.keys = header
        self.separator = ","
        self.quotechar = '"'

    def write(self, key_values: dict[str, Any], key_excluded: dict, step: int = 0) -> None:
        """Append a row. The first one ever fixes the order of the columns."""
        shown = list(filter_excluded_keys(key_values, key_excluded, "csv"))
        if not shown:
            return
        if not self.keys:
            self.keys = shown
            self.file.write(",".join(self.keys) + "\n")
        super().write(key_values, key_excluded, step)


def _kept_rows(path: Path, upto: int) -> tuple[list[str], list[list[str]]]:
    """Return the header of a metrics file and its whole rows up to iteration `upto`."""
    if upto == 0 or not path.is_file():
        return [], []
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        lines = list(csv.reader(file))
    if not lines or "iteration" not in lines[0]:
        return [], []
    header, column = lines[0], lines[0].index("iteration")
    rows = [
        row
        for row in lines[1:]
        if len(row) == len(header) and row[column].isdecimal() and int(row[column]) <= upto
    ]
    return header, rows


class _Events(TensorBoardOutputFormat):
    """SB3's TensorBoard writer; what an earlier process logged after `purge_step` is hidden."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(log_dir=str(folder), purge_step=purge_step)
        self._is_closed = False
        # Its thread passes an error on to the next write, so it need not print it as well.
        self._hook, threading.excepthook = threading.excepthook, self._quietly

    def _quietly(self, failed: threading.ExceptHookArgs) -> None:
        if not issubclass(failed.exc_type, OSError):
            self._hook(failed)

    def close(self) -> None:
        """Close the file; the disk may be full."""
        threading.excepthook = self._hook
        super().close()

    def write(self, key_values: dict[str, Any], key_excluded: dict, step: int = 0) -> None:
        """Write a row, its numbers by their tags."""
        shown = filter_excluded_keys(key_values, key_excluded, "tensorboard")
        numbers = {k: v for k, v in shown.items() if isinstance(v, int | float)}
        kept = {k: v for k, v in shown.items() if k not in numbers} | tagged(numbers)
        super().write(kept, dict.fromkeys(kept, ()), step)

    def gif(self, name: str, path: Path, step: int) -> None:
        """Show a GIF among the images, where it moves."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import (
            Summary,  # pyright: ignore[reportAttributeAccessIssue]
        )

        with Image.open(path) as opened:
            width, height = opened.size
        image = Summary.Image(
            width=width, height=height, colorspace=3, encoded_image_string=path.read_bytes()
        )
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self.writer._get_file_writer().add_summary(summary, step)


def has_trained(run: Path) -> bool:
    """Whether a run folder holds more than the beginning of a run: a checkpoint after step 0."""
    return any(path.name != "step_00000000" for path in (run / "checkpoints").glob("step_*"))


class RunFolder:
    """One run's folder, locked for as long as the context is open."""

    def __init__(self, path: Path | str) -> None:
        """Name the folder; nothing is touched before `__enter__`."""
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.evaluation = self.path / "evaluation"
        self._lock: IO[str] | None = None
        self._logger: Logger | None = None

    def __enter__(self) -> RunFolder:
        """Make the folders and take the lock. Raises UserError if another process trains here."""
        try:
            str(self.path).encode()
        except UnicodeEncodeError:  # bytes that are no text: TensorBoard takes no such name
            raise UserError(f"cannot write '{self.path}': its name is not in UTF-8") from None
        with file_errors(self.path):
            for folder in (self.path, self.checkpoints, self.evaluation):
                folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.path)
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the log and release the lock, as the system does for a killed process."""
        for writer in [] if self._logger is None else self._logger.output_formats:
            with contextlib.suppress(OSError):
                writer.close()
        if self._lock is not None:
            self._lock.close()

    def logger(self, *, upto: int, env_steps: int) -> Logger:
        """Return SB3's logger for this run, with what lies beyond iteration `upto` dropped."""
        rows = MetricsCsv(self.path / "metrics.csv", upto=upto)
        self._logger = Logger(str(self.path), [rows, _Events(self.path, env_steps + 1)])
        return self._logger

    def log_gif(self, name: str, path: Path, env_steps: int) -> None:
        """Show a GIF in TensorBoard, and in a tracker if there is one."""
        for output in [] if self._logger is None else self._logger.output_formats:
            if callable(show := getattr(output, "gif", None)):
                show(name, path, env_steps)

    def evaluation_path(self, iteration: int) -> Path:
        """Return where the held-out report of one iteration goes."""
        return self.evaluation / f"heldout_step_{iteration:08d}.json"

    def clear(self) -> None:
        """Remove what a run left that ended before its first iteration did."""
        for name in ("events.out.tfevents.*", "checkpoints/step_00000000", "tracking.json"):
            for path in self.path.glob(name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.drop_after(-1)

    def drop_after(self, iteration: int) -> None:
        """Remove what a run resumed at `iteration` makes again: reports, unreadable checkpoints."""
        for path in (*self.evaluation.glob("*_step_*"), *self.checkpoints.glob("step_*")):
            number = path.stem.rpartition("_")[2]
            if not number.isdecimal() or int(number) <= iteration:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.json."""
        write_json(self.path / "config.json", config)

    def write_curve(self, curve: list[dict[str, Any]]) -> None:
        """Write curve.json."""
        write_json(self.path / "curve.json", curve)


def lock(folder: Path) -> IO[str]:
    """Make a folder this process's own until the file that is returned is closed, or it ends.

    Raises UserError if it is another's.
    """
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open_regular(folder / ".lock", "w", encoding="utf-8")
    if not _try_lock(file):
        file.close()
        raise UserError(f"'{folder}' is in use: another process is training in it")
    return file


def _try_lock(file: IO[str]) -> bool:
    """Take an exclusive lock without waiting. Systems and disks without locks always succeed."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True

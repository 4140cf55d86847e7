"""`--track`: what a run logs goes to Weights & Biases or to MLflow, too.

A tracker is one more output of the run's logger, beside metrics.csv and TensorBoard: it gets the
same numbers by the same tags, figures and videos, also those of other callbacks. Its trouble is a
warning, and ends no run.
"""

from __future__ import annotations

import importlib
import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from stable_baselines3.common.logger import Figure, KVWriter

from metarl.base.errors import UserError, quoted, worded
from metarl.base.files import read_json, write_json
from metarl.runs.callback import Callback
from metarl.runs.config import goal
from metarl.runs.tags import tagged

if TYPE_CHECKING:
    from metarl.runs.callback import Run

IDENTITY = "tracking.json"
"""In the run folder: as which run a tracker knows it, so that a resumed one goes on there."""
PROJECT = "metarl"


class Tracker(Protocol):
    """Where numbers go."""

    where: str
    """In words, for the line that says so."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Log numbers at a number of environment steps."""

    def picture(self, name: str, figure: Any, step: int) -> None:
        """Log a figure of matplotlib."""

    def film(self, name: str, path: Path, step: int) -> None:
        """Log a GIF."""

    def close(self, finished: bool) -> None:
        """Send what is left."""


class TrackingCallback(Callback):
    """Adds a tracker to a run's logger, once the run folder is open."""

    def __init__(self, kind: str) -> None:
        """Take ``wandb`` or ``mlflow``. Raises UserError if it is not installed."""
        self.kind = kind
        self._package = _package(kind)

    def on_start(self, run: Run) -> None:
        """Begin a run of the tracker, or go on with the one of this run folder."""
        try:
            tracker = {"wandb": WandbTracker, "mlflow": MlflowTracker}[self.kind](
                self._package, run, identity(run.folder.path, self.kind)
            )
        except Exception as error:  # a server that is not there, a full disk, a bad setting
            run.say(f"warning: --track {self.kind}: {worded(error)}; the training goes on without")
            return
        run.logger.output_formats.append(TrackerOutput(tracker, run, self.kind))
        run.say(f"tracked by {self.kind}: {tracker.where}")


class TrackerOutput(KVWriter):
    """A tracker as an output of SB3's logger."""

    def __init__(self, tracker: Tracker, run: Run, kind: str) -> None:
        """Take the tracker of a run."""
        self._tracker, self._run, self._kind = tracker, run, kind
        self._lost = False

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        """Log the numbers by their tags, and the figures."""
        numbers = {k: float(v) for k, v in key_values.items() if isinstance(v, int | float)}
        if numbers:
            self._try(lambda: self._tracker.log(tagged(numbers), step))
        for name, value in key_values.items():
            if isinstance(value, Figure):
                self._try(lambda n=name, f=value.figure: self._tracker.picture(n, f, step))

    def gif(self, name: str, path: Path, step: int) -> None:
        """Log a video."""
        self._try(lambda: self._tracker.film(name, path, step))

    def close(self) -> None:
        """Send what is left, also where tracking had failed before."""
        self._lost = False
        self._run.say(f"{self._kind}: sending what is left")
        finished = self._run.position.done(self._run.config) >= goal(self._run.config)
        self._try(lambda: self._tracker.close(finished))

    def _try(self, work: Callable[[], None]) -> None:
        if self._lost:
            return
        try:
            work()
        except Exception as error:
            self._lost = True  # or each step would wait for a server that is gone
            what = f"--track {self._kind} stops: {worded(error)}"
            self._run.say(f"warning: {what}; the training goes on")


def identity(folder: Path, kind: str) -> Callable[..., dict[str, str]]:
    """Return a function that reads, and with keywords replaces, what a tracker calls this run."""
    path = folder / IDENTITY

    def known(**new: str) -> dict[str, str]:
        try:
            found = read_json(path) if path.is_file() else {}
            mine = {str(k): str(v) for k, v in dict(found.get(kind, {})).items()}
        except (UserError, TypeError, ValueError, AttributeError):
            found, mine = {}, {}
        if new:
            write_json(path, {**found, kind: new})
            return new
        return mine

    return known


def _package(kind: str) -> ModuleType:
    try:
        found = importlib.import_module(kind)
    except ImportError:
        found = None
    # a folder called wandb, which W&B itself makes, can be imported, too, and has nothing in it
    if found is None or not hasattr(found, {"wandb": "init", "mlflow": "MlflowClient"}[kind]):
        raise UserError(f"--track {kind} needs it: pip install 'metarl-toolkit[{kind}]'")
    return found


# --- Weights & Biases --------------------------------------------------------------------------


class WandbTracker:
    """A run of Weights & Biases; without a login or a network it logs into the run folder."""

    def __init__(
        self, wandb: ModuleType, run: Run, known: Callable[..., dict[str, str]]
    ) -> None:  # fmt: skip
        """Begin, or go on by the id that is kept."""
        self._wandb = wandb
        ident = known().get("id") or known(id=uuid.uuid4().hex[:8])["id"]
        how = {
            "project": os.environ.get("WANDB_PROJECT") or PROJECT, "name": run.folder.path.name,
            "id": ident, "resume": "allow", "dir": str(run.folder.path), "config": run.describe(),
            "settings": wandb.Settings(console="off", silent=True, init_timeout=30),
        }  # fmt: skip
        why = "" if os.environ.get("WANDB_MODE") or _logged_in(wandb) else "you are not logged in"
        try:
            self._run = wandb.init(**how, mode="offline" if why else None)
        except Exception as error:
            if os.environ.get("WANDB_MODE") == "offline":
                raise
            why = worded(error)
            self._run = wandb.init(**how, mode="offline")
        self.where = str(self._run.url)
        if self._run.settings._offline:
            folder = self._run.settings.sync_dir
            self.where = (
                f"offline{f' ({why})' if why else ''}; `wandb sync {quoted(folder)}` sends it"
            )

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`, as for the rest."""
        self._run.log(values, step=step)

    def picture(self, name: str, figure: Any, step: int) -> None:
        """Log it as an image."""
        self._run.log({name: self._wandb.Image(figure)}, step=step)

    def film(self, name: str, path: Path, step: int) -> None:
        """Log it as a video."""
        self._run.log({name: self._wandb.Video(str(path), format="gif")}, step=step)

    def close(self, finished: bool) -> None:
        """Send what is left; a run that can go on counts as failed until it does."""
        self._run.finish(exit_code=0 if finished else 1)


def _logged_in(wandb: ModuleType) -> bool:
    """Whether there are credentials, without asking for any."""
    try:
        return bool(wandb.login(prompt=False, verify=False))
    except TypeError:  # an earlier version, which has no such arguments
        return bool(wandb.api.api_key)


# --- MLflow ------------------------------------------------------------------------------------


class MlflowTracker:
    """A run of MLflow, in ``MLFLOW_TRACKING_URI`` or where MLflow itself puts it."""

    def __init__(
        self, mlflow: ModuleType, run: Run, known: Callable[..., dict[str, str]]
    ) -> None:  # fmt: skip
        """Begin, or go on by the id that is kept."""
        for name, value in (("MAX_RETRIES", "2"), ("TIMEOUT", "20")):  # or it would wait minutes
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
        self._mlflow, self._client = mlflow, mlflow.MlflowClient()
        uri = mlflow.get_tracking_uri()
        self.where = f"{os.environ.get('MLFLOW_EXPERIMENT_NAME') or PROJECT}, in {uri}"
        had = known()
        if had.get("uri") == uri:
            self._id = had["id"]
            self._client.update_run(self._id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._id = self._client.create_run(experiment, run_name=run.folder.path.name).info.run_id
        known(id=self._id, uri=uri)
        about = run.describe()
        params = [mlflow.entities.Param(k, str(v)[:500]) for k, v in flat(about).items()]
        for k in range(0, len(params), 100):  # the most that MLflow takes at once
            self._client.log_batch(self._id, params=params[k : k + 100])
        self._client.log_text(self._id, json.dumps(about, indent=1), "config.json")

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`, as for the rest."""
        now = int(time.time() * 1000)
        rows = [self._mlflow.entities.Metric(k, v, now, step) for k, v in values.items()]
        self._client.log_batch(self._id, metrics=rows)

    def picture(self, name: str, figure: Any, step: int) -> None:
        """Keep it as an artefact."""
        self._client.log_figure(self._id, figure, f"{name}_step_{step}.png")

    def film(self, name: str, path: Path, step: int) -> None:
        """Keep it as an artefact."""
        self._client.log_artifact(self._id, str(path), name)

    def close(self, finished: bool) -> None:
        """Say how the run ended; one that can go on was killed."""
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


def flat(about: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration as one level, ``train.seed``: value."""
    out: dict[str, Any] = {}
    for name, value in about.items():
        inner = isinstance(value, dict)
        out |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return out

"""From names and settings to a run: what `metarl train` and the experiments have in common."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from metarl.base import distributed
from metarl.base.errors import UserError
from metarl.base.files import file_errors
from metarl.base.plugins import absolute, plugin_file, reference
from metarl.base.threads import available_cores, set_threads, using
from metarl.learning import checkpoint as checkpoints
from metarl.learning.learner import Learner
from metarl.learning.registry import find_learner
from metarl.runs.config import MAX_WORLDS, TrainConfig, default_out, finished
from metarl.runs.run_folder import has_trained
from metarl.runs.runner import IterationFunction, meta_train
from metarl.runs.signals import TrainingStopped
from metarl.simulation.warp.choice import NATIVE, Physics
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.family import TaskFamily
from metarl.tasks.registry import find_family
from metarl.worlds.factory import make_worlds
from metarl.worlds.model_probe import refuse_inert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from metarl.base.distributed import Ranks
    from metarl.learning.checkpoint import Checkpoint
    from metarl.runs.callback import Callback
    from metarl.worlds.vector import VecWorlds

MAY_CHANGE = frozenset(
    {
        "iterations", "env_steps", "checkpoint_every", "keep_checkpoints", "device", "threads",
        "out", "print_every", "progress", "video_every", "track", "evaluate_ood", "simulator_room",
    }
)  # fmt: skip
"""Train settings that a resumed run may change; any other would make it a different run."""


def resolve_device(name: str) -> str:
    """Return cpu or cuda for auto, cpu or cuda. Raises UserError if there is no such device."""
    if name not in ("auto", "cpu", "cuda") and not str(name).startswith("cuda:"):
        raise UserError(f"device must be auto, cpu or cuda, not {name!r:.40}")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda': torch finds no CUDA device here; use --device cpu")
    return name


def start_run(
    family: str,
    algorithm: str,
    train: TrainConfig,
    learner_config: object,
    callbacks: Sequence[Callback | IterationFunction] = (),
) -> Path:
    """Begin a run.

    Args:
        family: a registered name or ``file.py:Class``.
        algorithm: likewise.
        train: how long, how often, where to.
        learner_config: an instance of the algorithm's Config.
        callbacks: passed on to `meta_train`, after those that `default_callbacks` returns.

    Returns:
        The run folder.
    """
    with _sharing(train) as (ranks, train):
        cls, found = find_learner(algorithm), find_family(family)
        physics_of(train)
        refuse_inert(found)
        worlds, device = _worlds(found, train), _device_of_rank(train.device)
        learner = cls(worlds.spec, learner_config, seed=train.seed, device=device)
        learner.ranks = ranks
        all_callbacks = (*_default_callbacks(train), *callbacks)
        return meta_train(learner, worlds, TaskDistribution(found), train, all_callbacks)


def resume_run(
    checkpoint: Checkpoint,
    train: TrainConfig,
    learner_config: Any = None,
    callbacks: Sequence[Callback | IterationFunction] = (),
) -> Path:
    """Go on with a run from one of its checkpoints, to the same bits as if it had not stopped.

    Args:
        checkpoint: as `metarl.learning.checkpoint.load` returned it.
        train: `train_config(checkpoint)`, or a copy with fields of `MAY_CHANGE` changed. With
            another `out`, the run goes on there, and the old folder stays as it is.
        learner_config: what the learner's settings are believed to be, if they are to be checked.
        callbacks: passed on to `meta_train`, after those that `default_callbacks` returns.

    Returns:
        The run folder.
    """
    refuse_changes(checkpoint, train, learner_config)
    _prepare_folder(checkpoint, Path(str(train.out)))
    device = train.device
    if device == "auto":
        device = str(checkpoint.meta.get("device", "auto"))
    with _sharing(train, checkpoint.meta.get("threads")) as (ranks, train):
        learner = checkpoints.restore(checkpoint, device=_device_of_rank(device))
        learner.ranks = ranks
        family = find_family(checkpoint.family)
        worlds = _worlds(family, train)
        check_spec(learner, worlds)
        distribution = TaskDistribution(family)
        _check_ranges(checkpoint, distribution)
        all_callbacks = (*_default_callbacks(train), *callbacks)
        return meta_train(learner, worlds, distribution, train, all_callbacks, resume=checkpoint)


def train_or_resume(
    family: str, algorithm: str, train: TrainConfig, learner: object, *,
    say: Callable[[str], object] = lambda line: None,
    callbacks: Sequence[Callback | IterationFunction] = (),
) -> Path:  # fmt: skip
    """Train, or go on with the run of these settings if there is one.

    Args:
        family: see `start_run`, as for the rest.
        algorithm: likewise.
        train: likewise; threads and shards that it leaves open are those of the run.
        learner: likewise.
        say: is told if there is such a run already.
        callbacks: see `start_run`.

    Returns:
        The run folder.

    Raises:
        TrainingStopped: as `meta_train`; the same call goes on with the run.
    """
    name = find_family(family).name
    run = Path(train.out or default_out(name, algorithm, train.seed))
    train = replace(train, out=str(run))
    try:
        if not has_trained(run):
            return start_run(family, algorithm, train, learner, callbacks)
        return _go_on(run, family, algorithm, train, learner, say, callbacks)
    except TrainingStopped as stop:
        raise stop.for_the_same_command() from None


def _go_on(
    run: Path, family: str, algorithm: str, train: TrainConfig, learner: object,
    say: Callable[[str], object], callbacks: Sequence[Callback | IterationFunction],
) -> Path:  # fmt: skip
    """Go on with a run that has a checkpoint, if its settings are these; see `train_or_resume`."""
    checkpoint = checkpoints.load(
        checkpoints.newest(run),
        family=family if plugin_file(family) else None,  # files that the caller names may be run
        algorithm=algorithm if plugin_file(algorithm) else None,
    )
    refuse_other(checkpoint, family, algorithm)
    saved = train_config(checkpoint)
    train = replace(
        train, threads=train.threads or saved.threads,
        task_shards=train.task_shards or saved.task_shards,
    )  # fmt: skip
    refuse_changes(checkpoint, train, learner)
    if finished(checkpoint, train):
        say(f"{run} has finished training; testing it")
        return run
    say(f"going on with {run} from iteration {checkpoint.step}")
    return resume_run(checkpoint, train, learner, callbacks)


@contextmanager
def _sharing(
    train: TrainConfig, recorded: int | None = None
) -> Iterator[tuple[Ranks, TrainConfig]]:
    """Join the other ranks if there are some, and give this one its threads.

    Yields:
        The ranks, and the settings with the number of shards in them.
    """
    ranks = distributed.ranks(train.task_shards)
    count = None if ranks.shards == 1 else ranks.shards
    train = replace(train, task_shards=count, progress=train.progress and ranks.leads)
    if ranks.size > 1:
        recorded = distributed.share_of_cores(available_cores())
    with using(train.threads or recorded, one_for_torch=bool(count)):  # for initial weights, too
        yield ranks, train


def _device_of_rank(name: str) -> str:
    """Return the device of a name as `resolve_device` does; each rank of a machine has its own."""
    device = resolve_device(name)
    several = device == "cuda" and distributed.world_size() > 1
    return f"cuda:{distributed.local_rank()}" if several else device


def _default_callbacks(train: TrainConfig) -> list[Callback]:
    from metarl.callbacks import default_callbacks  # draws charts: slow to load, and only for this

    return default_callbacks(train)


def train_config(checkpoint: Checkpoint) -> TrainConfig:
    """Return the settings of the run that a checkpoint belongs to, with `out` where it lies now."""
    saved = TrainConfig.from_json(checkpoint.meta.get("train"), checkpoint.path)
    return replace(saved, out=str(run_of(checkpoint)))


def run_of(checkpoint: Checkpoint) -> Path:
    """Return the run folder that a checkpoint lies in."""
    return Path(checkpoint.path).parent.parent


def load_run(
    run: str,
    device: str,
    threads: int | None,
    *,
    family: str | None = None,
    algorithm: str | None = None,
    trust_code: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> tuple[Checkpoint, TaskFamily, Learner]:
    """Load the newest checkpoint of a run folder, or the checkpoint `run` is, for use.

    Args:
        run: the folder.
        device: auto, cpu or cuda.
        threads: CPU threads; None for every core. They stay set in this process, for what comes
            next; load in ``with metarl.base.threads.using(threads):`` to have the old ones back.
        family: see `metarl.learning.checkpoint.load`, as for the rest.
        algorithm: likewise.
        trust_code: likewise.
        settings: of the learner, in place of those that it was trained with.

    Returns:
        The checkpoint, its family and its learner.
    """
    set_threads(threads)
    checkpoint = checkpoints.load(
        checkpoints.newest(Path(run)), family=family, algorithm=algorithm, trust_code=trust_code
    )
    checkpoint = checkpoints.with_settings(checkpoint, settings)
    found = find_family(checkpoint.family)
    return checkpoint, found, checkpoints.restore(checkpoint, device=resolve_device(device))


def worlds_for(
    family: TaskFamily, learner: Learner, num_worlds: int, threads: int | None,
    physics: Physics = NATIVE,
) -> VecWorlds:  # fmt: skip
    """Make worlds that fit a loaded learner. Raises UserError if the family has changed."""
    worlds = make_worlds(family, num_worlds, threads, physics)
    check_spec(learner, worlds)
    return worlds


def worlds_per_task(checkpoint: Checkpoint, wanted: int | None, tasks: int) -> int:
    """Return how many worlds each of `tasks` tasks gets: as wanted, or else as in training."""
    count = train_config(checkpoint).rollouts_per_task if wanted is None else wanted
    if not isinstance(count, int) or count < 1:
        raise UserError(f"rollouts_per_task must be a whole number from 1, not {count!r:.40}")
    if tasks * count > MAX_WORLDS:
        raise UserError(
            f"tasks x rollouts_per_task is {tasks * count} worlds; the limit is {MAX_WORLDS}"
        )
    return count


def refuse_other(checkpoint: Checkpoint, family: str, algorithm: str) -> None:
    """Raise UserError if a run is of another family, or of another algorithm, than it should be.

    A product of variations may be named otherwise: in another order, or a file without its digest.
    """
    given = ("FAMILY", checkpoint.family, family), ("ALGORITHM", checkpoint.algorithm, algorithm)
    for what, old, new in given:
        product = what == "FAMILY" and "+" in new and reference(find_family(new)) == old
        if old not in (new, absolute(new)) and not product:
            raise UserError(
                f"{what} cannot change when a run goes on: '{run_of(checkpoint)}' has {old}, not "
                f"{new}; start another run with --out"
            )


def refuse_changes(checkpoint: Checkpoint, train: TrainConfig, learner_config: Any) -> None:
    """Raise UserError if a setting differs that a run cannot change on the way.

    Args:
        checkpoint: of the run.
        train: see `resume_run`.
        learner_config: an instance of the algorithm's Config, or None for no opinion.
    """
    wanted = {k: v for k, v in asdict(train).items() if k not in MAY_CHANGE}
    wanted |= {} if learner_config is None else asdict(learner_config)
    had = asdict(train_config(checkpoint)) | asdict(checkpoints.learner_config(checkpoint))
    for name, new in wanted.items():
        before, after = _plain(had.get(name)), _plain(new)
        if before != after:
            raise UserError(
                f"{name} cannot change when a run goes on: '{run_of(checkpoint)}' has {before}, "
                f"not {after}; leave it out, or start another run with --out"
            )


def _plain(value: object) -> object:
    """A setting as it comes back from JSON, where a tuple is a list."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _worlds(family: TaskFamily, train: TrainConfig) -> VecWorlds:
    count = train.tasks_per_iteration * train.rollouts_per_task // (train.task_shards or 1)
    return make_worlds(family, count, train.threads, physics_of(train))


def physics_of(train: TrainConfig) -> Physics:
    """Return what computes the physics of a run, on the learner's device."""
    return Physics(train.simulator, train.simulator_room, _device_of_rank(train.device)).require()


def physics_for(checkpoint: Checkpoint, simulator: str | None, device: str) -> Physics:
    """Return what computes the physics for an agent: as in its training if `simulator` is None.

    Raises:
        UserError: it is not installed.
    """
    # one that was saved from Python has no settings of a training
    trained = train_config(checkpoint) if checkpoint.meta.get("train") else TrainConfig()
    chosen = Physics(simulator or trained.simulator, trained.simulator_room, resolve_device(device))
    try:
        return chosen.require()
    except UserError as error:
        other = "" if simulator else "; or --simulator mujoco, though it was trained on warp"
        raise UserError(f"{error}{other}") from None


def check_spec(learner: Learner, worlds: VecWorlds) -> None:
    """Raise UserError if worlds have not the sizes that a loaded learner was made for."""
    other = learner.privileged and learner.spec.training != worlds.spec.training
    if other or learner.spec.acting != worlds.spec.acting:
        raise UserError(
            f"family '{worlds.family.name}' has changed since training: it has "
            f"{worlds.spec}, the checkpoint {learner.spec}"
        )


def _check_ranges(checkpoint: Checkpoint, distribution: TaskDistribution) -> None:
    """Raise UserError if a family's tasks are no longer those that a run began with."""
    now = distribution.ranges()
    had = checkpoint.meta.get("ranges", now)  # checkpoints of earlier versions do not say
    for name in (*had, *now):
        if had.get(name) != now.get(name):
            raise UserError(
                f"family '{distribution.family.name}' has changed since training: parameter "
                f"'{name}' was {_drawn(had.get(name))} and is {_drawn(now.get(name))} now; change "
                f"it back, or start another run"
            )


def _drawn(ranges: str | None) -> str:
    return "not there" if ranges is None else f"drawn from {ranges}"


def _prepare_folder(checkpoint: Checkpoint, out: Path) -> None:
    """Refuse to overwrite newer checkpoints; for another folder, copy the history so far."""
    run = run_of(checkpoint)
    if out.resolve() == run.resolve():
        newest = checkpoints.newest(run)
        if newest.resolve() != Path(checkpoint.path).resolve():
            raise UserError(
                f"'{checkpoint.path}' is not the newest checkpoint of its run ({newest.name} is): "
                f"give --out for a new folder that goes on from it"
            )
        return
    if any((out / "checkpoints").glob("step_*")):
        raise UserError(f"'{out}' already holds a run: choose another --out")
    with file_errors(out):
        (out / "evaluation").mkdir(parents=True, exist_ok=True)
        for name in ("metrics.csv", "curve.json"):
            if (run / name).is_file():
                shutil.copy(run / name, out / name)
        for report in (run / "evaluation").glob("heldout_step_*.json"):
            shutil.copy(report, out / "evaluation" / report.name)

"""meta_train() and Runner: the training loop.

Every draw is keyed by (seed, iteration), and a learner's `meta_step` is a pure function of its
weights, the tasks and the key. So a run is its weights and an iteration number: a run that was
killed goes on from its newest checkpoint to the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metarl.base.errors import UserError, check_kinds, quoted
from metarl.base.files import file_errors, write_json
from metarl.base.keys import Key
from metarl.base.plugins import reference
from metarl.base.threads import physics_threads, using
from metarl.base.trust import remember
from metarl.base.versions import versions
from metarl.curriculum import make_sampler
from metarl.evaluation.divergence import DivergenceWatch, nonfinite_metrics, refuse_nonfinite
from metarl.learning import checkpoint as checkpoints
from metarl.learning.learner import Learner
from metarl.runs.callback import Callback, check_callbacks
from metarl.runs.config import Position, TrainConfig, default_out, goal
from metarl.runs.progress import TrainingProgress, closing_lines, evaluation_line, opening_line
from metarl.runs.run_folder import RunFolder, has_trained
from metarl.runs.shards import evaluate_shards, meet, refuse_apart, refuse_other_worlds
from metarl.runs.signals import IterationAborted, StopSignals, TrainingStopped
from metarl.tasks.distribution import TaskDistribution
from metarl.worlds.factory import SizedWorlds
from metarl.worlds.reward_terms import mean_terms, terms_in_words
from metarl.worlds.vector import VecWorlds

__all__ = ["Callback", "IterationFunction", "Runner", "TrainConfig", "meta_train"]

if TYPE_CHECKING:
    from stable_baselines3.common.logger import Logger

    from metarl.evaluation.protocol import Report
    from metarl.tasks.distribution import Tasks
    from metarl.tasks.sampler import TaskSampler

IterationFunction = Callable[[int, "Learner", dict[str, float]], None]
"""Called after every iteration with its number (from 1), the learner and its metrics."""

SNAPSHOT_BYTES = 256 * 2**20
"""Learners with more state than this (a replay memory) are not copied after every iteration."""

INTACT = "; the checkpoints written before are intact"


def meta_train(
    learner: Learner,
    worlds: VecWorlds,
    distribution: TaskDistribution,
    config: TrainConfig,
    callbacks: Sequence[Callback | IterationFunction] = (),
    *,
    resume: checkpoints.Checkpoint | None = None,
    sampler: TaskSampler | None = None,
) -> Path:
    """Meta-train `learner` over a task distribution.

    Args:
        learner: is changed in place.
        worlds: tasks_per_iteration x rollouts_per_task worlds.
        distribution: where tasks come from.
        config: how long, how often, where to. Its number of threads holds until this returns.
        callbacks: functions called after every iteration, and `Callback`s (`metarl.callbacks`).
        resume: a loaded checkpoint of such a run to go on from, to the same bits.
        sampler: of the training tasks, tasks_per_iteration each time; None: what `config` asks for.

    Returns:
        The run folder.

    Raises:
        UserError: the folder holds another run or cannot be written, the worlds do not fit, or
            the weights stop being finite. The newest checkpoint is good in each case.
        TrainingStopped: SIGINT, SIGTERM or SIGHUP; the state is saved.
    """
    check_kinds(distribution=(distribution, TaskDistribution), config=(config, TrainConfig),
                learner=(learner, Learner), worlds=(worlds, VecWorlds))  # fmt: skip
    check_callbacks(callbacks)
    kind, sharded = Runner, learner.ranks.shards > 1
    if not learner.ranks.leads:
        kind = importlib.import_module("metarl.runs.follower").Follower
    recorded = None if resume is None else resume.meta.get("threads")
    threads = physics_threads() if sharded else config.threads or recorded
    with using(threads, one_for_torch=sharded):
        return kind(
            learner, worlds, distribution, config, callbacks, resume=resume, sampler=sampler
        ).learn()


class Runner:
    """One training run: `learn` is the loop, and callbacks see the public attributes."""

    logger: Logger
    """Writes to metrics.csv and TensorBoard, from the beginning of `learn`."""

    def __init__(
        self, learner: Learner, worlds: VecWorlds, distribution: TaskDistribution,
        config: TrainConfig, callbacks: Sequence[Callback | IterationFunction] = (), *,
        resume: checkpoints.Checkpoint | None = None, sampler: TaskSampler | None = None,
    ) -> None:  # fmt: skip
        """Take what `meta_train` takes; threads are those that the process uses now."""
        self.ranks = learner.ranks
        refuse_other_worlds(worlds, config, self.ranks.shards)
        self.sampler = sampler or make_sampler(distribution, config, learner.num_train_tasks)
        worlds.returns = {} if self.sampler.reports else None
        self.learner, self.worlds, self.distribution = learner, worlds, distribution
        self.family, self.config, self.resume = worlds.family, config, resume
        learner.plan(worlds, config.iterations, config.env_steps)
        self.callbacks = [one for one in callbacks if isinstance(one, Callback)]
        self.functions = [one for one in callbacks if not isinstance(one, Callback)]
        self.position = Position() if resume is None else Position.to_resume(resume)
        self.divergence = DivergenceWatch(self.position)
        self.threads = physics_threads()
        own = default_out(self.family.name, learner.name, config.seed)
        self.folder, self._terms = RunFolder(config.out or own), []
        self.stop, self._agreed_to_stop = StopSignals(), False
        self.progress = TrainingProgress(
            total=goal(config), done=self.position.done(config),
            print_every=config.print_every, show=config.progress,
        )  # fmt: skip
        self.eval_tasks = distribution.split("heldout", config.evaluate_tasks)
        self.eval_worlds = SizedWorlds(
            self.family, config.rollouts_per_task, config.threads, worlds.physics
        )
        self._snapshot: dict[str, Tensor] | None = None

    def learn(self) -> Path:
        """Train to the goal of the configuration, once. Returns the run folder.

        Raises:
            UserError: see `meta_train`.
            TrainingStopped: likewise.
        """
        position, config = self.position, self.config
        meet(self.learner, config, position.iteration)
        with self.folder, self.stop, self.open():
            with self.saving():
                self.evaluate_if_due()
                while not self.ended() and not self.agree_to_stop():
                    tasks = self.sampler.sample(position.iteration, Key(config.seed))
                    metrics, steps_per_second = self.update(tasks)
                    self.log(metrics, steps_per_second)
                    for function in self.functions:
                        function(position.iteration, self.learner, metrics)
                    if position.iteration % config.checkpoint_every == 0:
                        self.save()
                    if not self.stopped:
                        for callback in self.callbacks:
                            callback.on_iteration(self, metrics)
                    self.evaluate_if_due()
            for callback in self.callbacks:
                callback.on_end(self)
            if self.stop.signum is not None:
                raise TrainingStopped(*self.how_to_resume(), self.stop.signum, self.folder.path)
        self.summarise()
        return self.folder.path

    # --- what callbacks use --------------------------------------------------------------------

    def say(self, line: str) -> None:
        """Print a line above the progress bar."""
        self.progress.say(line)

    def interruptible(self) -> contextlib.AbstractContextManager[None]:
        """Return the context of work that a signal may break off; see `StopSignals`."""
        return self.stop.may_leave()

    @property
    def stopped(self) -> bool:
        """Whether a signal has come; among several ranks, one that all of them know of."""
        return self._agreed_to_stop if self.ranks.size > 1 else self.stop.signum is not None

    def agree_to_stop(self) -> bool:
        """Return `stopped`, after asking the other ranks whether a signal has come to them."""
        came = [signum for signum in self.ranks.objects(self.stop.signum) if signum is not None]
        self._agreed_to_stop = bool(came)
        if came and self.stop.signum is None:
            self.stop.signum = came[0]
        return self.stopped

    # --- the beginning -------------------------------------------------------------------------

    def open(self) -> contextlib.AbstractContextManager[Any]:
        """Take over the resumed state, and write the first files, line and checkpoint.

        Returns:
            The progress bar, a context.
        """
        position, config, resume = self.position, self.config, self.resume
        if resume is None and has_trained(self.folder.path):
            raise UserError(
                f"'{self.folder.path}' already holds a run: go on with "
                f"`metarl train --resume {quoted(self.folder.path)}`, or choose another --out"
            )
        remember((reference(self.family), reference(self.learner)))
        if resume is not None:
            self.learner.load_state_dict(resume.tensors)
            self.sampler.load_state(resume.meta.get("sampler", {}))
        self.take_snapshot()
        with file_errors(self.folder.path, INTACT):
            if resume is None:
                self.folder.clear()
            self.folder.write_config(self.describe())
            self.folder.drop_after(position.iteration)
            self.folder.write_curve(position.curve)
            self.logger = self.folder.logger(upto=position.iteration, env_steps=position.env_steps)
        self.say(opening_line(self, position.iteration if resume else None))
        for callback in self.callbacks:
            callback.on_start(self)
        had = TrainConfig(**resume.meta["train"]) if resume else config
        # A kill must not lose a new goal, which a resume reads from the checkpoint.
        self.save(again=(had.iterations, had.env_steps) != (config.iterations, config.env_steps))
        return self.progress

    def describe(self) -> dict[str, Any]:
        """Return what config.json holds."""
        return {
            "family": reference(self.family), "algorithm": reference(self.learner),
            "train": asdict(self.config), "learner": asdict(self.learner.config),
            "threads": self.threads, "device": str(self.learner.device), "versions": versions(),
        } | ({} if self.ranks.size == 1 else {"ranks": self.ranks.size})  # fmt: skip

    # --- an iteration --------------------------------------------------------------------------

    def ended(self) -> bool:
        """Whether the goal is reached."""
        return self.position.done(self.config) >= goal(self.config)

    def update(self, tasks: Tasks) -> tuple[dict[str, float], float]:
        """Make one meta-update and check it. Returns its metrics and its env steps per second."""
        number, key = self.position.iteration, Key(self.config.seed)
        began, steps, sent = time.monotonic(), self.worlds.env_steps, self.ranks.bytes_sent
        self.worlds.term_sums.clear()
        with self.interruptible(), _global_draws(key.fold("global", number), self.learner.device):
            metrics = self.learner.meta_step(self.worlds, tasks, key.fold("meta", number))
            self.worlds.settle()
        seconds, steps = time.monotonic() - began, self.worlds.env_steps - steps
        refuse_nonfinite(self.learner, self.worlds, number + 1, self.folder.checkpoints)
        metrics |= (terms := mean_terms(self.worlds, self.learner))
        self._terms = terms_in_words(terms)
        if self.ranks.size > 1:
            steps = sum(self.ranks.objects(steps))
            refuse_apart(self.learner, number + 1)
            metrics["megabytes_sent"] = (self.ranks.bytes_sent - sent) / 1e6
        for line in self.divergence.note(metrics.get("diverged", 0), steps, self.worlds):
            self.say(line)
        self.position.iteration += 1
        self.position.env_steps += steps
        self.position.seconds += seconds
        self.report_returns(number)
        metrics |= self.sampler.metrics(tasks)
        self.take_snapshot()
        return metrics, steps / max(seconds, 1e-9)

    def report_returns(self, iteration: int) -> None:
        """Tell the sampler how the tasks of an iteration went, if it wants to know."""
        if self.worlds.returns is not None:
            mine = [self.worlds.returns[first] for first in sorted(self.worlds.returns)]
            returns = self.ranks.rows(torch.cat(mine)).cpu().numpy()
            self.sampler.report(iteration, returns, Key(self.config.seed))
            self.worlds.returns.clear()

    def log(self, metrics: dict[str, float], steps_per_second: float) -> None:
        """Append a row to metrics.csv and TensorBoard, and show it."""
        position = self.position
        row = {
            "iteration": position.iteration, "env_steps": position.env_steps,
            "seconds": round(position.seconds, 3), "env_steps_per_second": round(steps_per_second),
        }  # fmt: skip
        with file_errors(self.folder.path, INTACT):
            for name, value in (row | metrics).items():
                self.logger.record(name, value)
            self.logger.dump(position.env_steps)
        done = position.done(self.config)
        self.progress.update(position.iteration, done, steps_per_second, metrics)
        if bad := nonfinite_metrics(metrics):
            self.say(f"warning: iteration {position.iteration}: not finite: {', '.join(bad)}")

    def evaluate_if_due(self) -> None:
        """Evaluate the present weights, if that is due, not done and no signal has come."""
        position = self.position
        due = position.iteration % self.config.evaluate_every == 0 or self.ended()
        due = due or position.iteration in position.ends
        if due and not position.evaluated() and not self.stopped:
            self.evaluate()

    def evaluate(self) -> None:
        """Evaluate on held-out tasks, in worlds of their own; append to the curve."""
        position, config = self.position, self.config
        with self.interruptible():
            report = evaluate_shards(self.learner, self.eval_worlds, self.eval_tasks, config)
        self.record(report)
        if position.iteration == 0:
            self.progress.restart_clock()

    def record(self, report: Report) -> None:
        """Append an evaluation to the curve; write and show it."""
        position = self.position
        position.record(report)
        with file_errors(self.folder.path, INTACT):
            write_json(self.folder.evaluation_path(position.iteration), report.to_json())
            self.folder.write_curve(position.curve)
            self.logger.record("heldout/before", report.mean[0], exclude="csv")
            self.logger.record("heldout/after", report.mean[-1], exclude="csv")
            self.logger.dump(position.env_steps)
        for callback in self.callbacks:
            callback.on_evaluation(self, report)
        self.say(evaluation_line(position.env_steps, report))

    # --- what is saved -------------------------------------------------------------------------

    def take_snapshot(self) -> None:
        """Copy the learner's state, so that an unfinished iteration can be undone."""
        state = self.learner.state_dict()
        small = sum(tensor.nbytes for tensor in state.values()) <= SNAPSHOT_BYTES
        self._snapshot = {k: v.detach().clone() for k, v in state.items()} if small else None

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Save at the end of the block: also if it is left half-way or fails, the last snapshot."""
        try:
            yield
            self.save()
        except IterationAborted:
            self.save_snapshot()
        except (Exception, SystemExit):
            with contextlib.suppress(UserError):  # a full disk must not hide what went wrong
                self.save_snapshot()
            raise

    def save_snapshot(self) -> None:
        """Go back to the end of the last whole iteration, and save that."""
        if self._snapshot is not None:
            self.learner.load_state_dict(self._snapshot)
            self.save()

    def save(self, *, again: bool = False) -> None:
        """Write a checkpoint of the present state, unless there is one or it is to be replaced."""
        position = self.position
        there = (self.folder.checkpoints / f"step_{position.iteration:08d}").exists()
        if there and not again:
            return
        meta = asdict(position) | {
            "seed": self.config.seed, "train": asdict(self.config), "threads": self.threads,
            "device": str(self.learner.device), "ranges": self.distribution.ranges(),
        }  # fmt: skip
        if state := self.sampler.state():
            meta["sampler"] = state
        with file_errors(self.folder.path, INTACT):
            path = checkpoints.save(
                self.folder.checkpoints, self.learner, family=reference(self.family),
                step=position.iteration, meta=meta,
            )  # fmt: skip
            checkpoints.prune(self.folder.checkpoints, keep=self.config.keep_checkpoints)
        for callback in self.callbacks:
            callback.on_checkpoint(self, path)

    # --- the end --------------------------------------------------------------------------------

    def how_to_resume(self) -> tuple[str, str]:
        """Return what is saved, and how to go on."""
        kept = checkpoints.newest(self.folder.path)
        return (
            f"stopped after iteration {self.position.iteration}; saved {kept}",
            f"go on with: metarl train --resume {quoted(self.folder.path)}",
        )

    def summarise(self) -> None:
        """Print where everything is, the adaptation curve, and what to try next."""
        nominal, tasks = self.distribution.nominal(), self.eval_tasks.counted("held-out task")
        named = f"{nominal.names[0]}={nominal.values[0, 0]:.4g}" if nominal.names else ""
        notes = (*self._terms, *self.divergence.closing())
        for line in closing_lines(self.folder.path, self.position, tasks, named, notes):
            self.say(line)


@contextlib.contextmanager
def _global_draws(key: Key, device: torch.device) -> Iterator[None]:
    """Key torch's global generator, too, and put it back: libraries draw from it unasked.

    A learner that draws from it by accident is reproducible all the same.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(key.seed())
        yield

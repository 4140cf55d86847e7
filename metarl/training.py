"""meta_train(): the training loop, a function.

Every draw is keyed by (seed, iteration), and a learner's `meta_step` is a pure function of its
weights, the tasks and the key. So a run is its weights and an iteration number: a run that was
killed goes on from its newest checkpoint to the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metarl import checkpoint as checkpoints
from metarl.divergence import DivergenceWatch, nonfinite_metrics, refuse_nonfinite
from metarl.errors import UserError, quoted
from metarl.evaluation import evaluate
from metarl.files import file_errors
from metarl.interrupt import Left, StopSignals, TrainingStopped
from metarl.keys import Key
from metarl.plugins import reference
from metarl.progress import TrainingProgress, closing_lines, counted, shown, si
from metarl.run_folder import RunFolder, has_trained, write_json
from metarl.sampler import task_sampler
from metarl.threads import set_threads
from metarl.train_config import Position, TrainConfig, default_out, goal
from metarl.trust import remember
from metarl.versions import versions
from metarl.world_factory import make_worlds

__all__ = ["Callback", "TrainConfig", "meta_train"]

if TYPE_CHECKING:
    from metarl.evaluation import Report
    from metarl.learner import Learner
    from metarl.tasks import TaskDistribution
    from metarl.vector import VecWorlds

Callback = Callable[[int, "Learner", dict[str, float]], None]
"""Called after every iteration with its number (from 1), the learner and its metrics."""

SNAPSHOT_BYTES = 256 * 2**20
"""Learners with more state than this (a replay memory) are not copied after every iteration."""


INTACT = "; the checkpoints written before are intact"


def meta_train(
    learner: Learner,
    worlds: VecWorlds,
    distribution: TaskDistribution,
    config: TrainConfig,
    callbacks: Sequence[Callback] = (),
    *,
    resume: checkpoints.Checkpoint | None = None,
) -> Path:
    """Meta-train `learner` over a task distribution.

    Args:
        learner: is changed in place.
        worlds: tasks_per_iteration x rollouts_per_task worlds.
        distribution: where tasks come from.
        config: how long, how often, where to.
        callbacks: called after every iteration, in order.
        resume: a loaded checkpoint of such a run to go on from, to the same bits.

    Returns:
        The run folder.

    Raises:
        UserError: the folder holds another run or cannot be written, the worlds do not fit, or
            the weights stop being finite. The newest checkpoint is good in each case.
        TrainingStopped: SIGINT, SIGTERM or SIGHUP; the state is saved.
    """
    run = _Run(learner, worlds, distribution, config, resume)
    with run.folder, StopSignals() as stop, run.open():
        try:
            run.iterate_to_the_end(stop, callbacks)
            run.save()
        except Left:
            run.save_good()
        except (Exception, SystemExit):
            with contextlib.suppress(UserError):  # a full disk must not hide what went wrong
                run.save_good()
            raise
        run.show_report(running=False)
        if stop.signum is not None:
            raise TrainingStopped(run.how_to_resume(), stop.signum, run.folder.path)
    run.summarise()
    return run.folder.path


@contextlib.contextmanager
def _global_draws(key: Key, device: torch.device) -> Iterator[None]:
    """Key torch's global generator, too, and put it back: libraries draw from it unasked.

    A learner that draws from it by accident is reproducible all the same.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(key.seed())
        yield


class _Run:
    """The moving parts of one call of `meta_train`."""

    def __init__(
        self,
        learner: Learner,
        worlds: VecWorlds,
        distribution: TaskDistribution,
        config: TrainConfig,
        resume: checkpoints.Checkpoint | None,
    ) -> None:
        needed = config.tasks_per_iteration * config.rollouts_per_task
        if worlds.num_worlds != needed:
            raise UserError(
                f"worlds must be tasks_per_iteration x rollouts_per_task = {needed}, "
                f"not {worlds.num_worlds}"
            )
        count = config.tasks_per_iteration
        self.sampler = task_sampler(distribution, count, learner.task_pool)
        self.learner, self.worlds, self.distribution = learner, worlds, distribution
        self.config, self.resume = config, resume
        self.position = Position() if resume is None else Position.to_resume(resume)
        self.divergence = DivergenceWatch(self.position)
        recorded = None if resume is None else resume.meta.get("threads")
        self.threads = set_threads(config.threads or recorded)
        name = default_out(worlds.family.name, learner.name, config.seed)
        self.folder = RunFolder(config.out or name)
        self.good: dict[str, Tensor] | None = None
        self.warned = False
        self.eval_tasks = distribution.split("heldout", config.evaluate_tasks)
        self.eval_worlds = make_worlds(
            worlds.family, len(self.eval_tasks) * config.rollouts_per_task, config.threads
        )

    # --- opening and closing -------------------------------------------------------------------

    def open(self) -> TrainingProgress:
        """Take over the resumed state, and make the logger, the first checkpoint and the bar."""
        if self.resume is None and has_trained(self.folder.path):
            raise UserError(
                f"'{self.folder.path}' already holds a run: go on with "
                f"`metarl train --resume {quoted(self.folder.path)}`, or choose another --out"
            )
        remember((reference(self.worlds.family), reference(self.learner)))
        if self.resume is not None:
            self.learner.load_state_dict(self.resume.tensors)
        self.keep_good()
        position, config = self.position, self.config
        with file_errors(self.folder.path, INTACT):
            if self.resume is None:
                self.folder.clear()
            self.folder.write_config(self.describe())
            self.folder.drop_after(position.iteration)
            self.folder.write_curve(position.curve)
            self.logger = self.folder.logger(upto=position.iteration, env_steps=position.env_steps)
        had = TrainConfig(**self.resume.meta["train"]) if self.resume else config
        # A kill must not lose a new goal, which a resume reads from the checkpoint.
        self.save(again=(had.iterations, had.env_steps) != (config.iterations, config.env_steps))
        self.progress = TrainingProgress(
            total=goal(self.config), done=position.done(self.config),
            print_every=self.config.print_every, show=self.config.progress,
        )  # fmt: skip
        self.progress.say(
            f"{self.worlds.family.name}  {self.learner.name}  seed {self.config.seed}  "
            f"{counted(self.worlds.num_worlds, 'world')}  {counted(self.threads, 'thread')}  "
            f"{self.learner.device}  "
            f"→ {self.folder.path}" + f", from iteration {position.iteration}" * bool(self.resume)
        )
        return self.progress

    def describe(self) -> dict[str, Any]:
        """Return what config.json holds."""
        return {
            "family": reference(self.worlds.family),
            "algorithm": reference(self.learner),
            "train": asdict(self.config),
            "learner": asdict(self.learner.config),
            "threads": self.threads,
            "device": str(self.learner.device),
            "versions": versions(),
        }

    # --- an iteration --------------------------------------------------------------------------

    def iterate_to_the_end(self, stop: StopSignals, callbacks: Sequence[Callback]) -> None:
        """Train until the goal or a signal, with what is due after each iteration."""
        config, position = self.config, self.position
        while True:
            if self.evaluation_due() and stop.signum is None:
                self.evaluate(stop)
            if position.done(config) >= goal(config) or stop.signum is not None:
                return
            metrics = self.iterate(stop)
            for callback in callbacks:
                callback(position.iteration, self.learner, metrics)
            if position.iteration % config.checkpoint_every == 0:
                self.save()
            due = config.video_every and position.iteration % config.video_every == 0
            if due and stop.signum is None:
                self.film(stop)

    def iterate(self, stop: StopSignals) -> dict[str, float]:
        """Make one meta-update."""
        number, config = self.position.iteration, self.config
        key = Key(config.seed)
        tasks = self.sampler.sample(number, key)
        began, steps = time.monotonic(), self.worlds.env_steps
        with stop.may_leave(), _global_draws(key.fold("global", number), self.learner.device):
            metrics = self.learner.meta_step(self.worlds, tasks, key.fold("meta", number))
        seconds, steps = time.monotonic() - began, self.worlds.env_steps - steps
        refuse_nonfinite(self.learner, self.worlds, number + 1, self.folder.checkpoints)
        for line in self.divergence.note(metrics.get("diverged", 0), steps, self.worlds):
            self.progress.say(line)
        self.position.iteration += 1
        self.position.env_steps += steps
        self.position.seconds += seconds
        self.keep_good()
        self.log(metrics, steps / max(seconds, 1e-9))
        return metrics

    def keep_good(self) -> None:
        """Copy the learner's state, so that an unfinished iteration can be undone."""
        state = self.learner.state_dict()
        small = sum(tensor.nbytes for tensor in state.values()) <= SNAPSHOT_BYTES
        self.good = {k: v.detach().clone() for k, v in state.items()} if small else None

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
            self.progress.say(
                f"warning: iteration {position.iteration}: not finite: {', '.join(bad)}"
            )

    # --- evaluation and checkpoints ------------------------------------------------------------

    def evaluation_due(self) -> bool:
        """Whether the present weights are to be evaluated and have not been."""
        position, config = self.position, self.config
        last = position.done(config) >= goal(config)
        due = position.iteration % config.evaluate_every == 0 or last
        return (due or position.iteration in position.ends) and not position.evaluated()

    def evaluate(self, stop: StopSignals) -> None:
        """Evaluate on held-out tasks, in worlds of their own; append to the curve."""
        position, config = self.position, self.config
        with stop.may_leave():
            report = evaluate(
                self.learner, self.eval_worlds, self.eval_tasks,
                episodes=config.evaluate_episodes, seed=config.seed, split="heldout",
            )  # fmt: skip
        result = report.to_json()
        mean, interval = result["mean"], result["ci95"]
        position.curve.append(
            {
                "iteration": position.iteration, "env_steps": position.env_steps,
                "seconds": round(position.seconds, 3), "before": mean[0], "after": mean[-1],
                "before_ci": interval[0], "after_ci": interval[-1],
                "experience": result["experience"], "mean": mean,
                "stand_still": result["stand_still"], "diverged": report.diverged,
                "verdict": report.verdict(),
            }
        )  # fmt: skip
        with file_errors(self.folder.path, INTACT):
            write_json(self.folder.evaluation_path(position.iteration), result)
            self.folder.write_curve(position.curve)
            self.logger.record("heldout/before", report.mean[0], exclude="csv")
            self.logger.record("heldout/after", report.mean[-1], exclude="csv")
            self.logger.dump(position.env_steps)
        self.show_report(running=True, latest=report)
        self.progress.say(
            f"held-out tasks at {si(position.env_steps)} env steps: "
            f"return {shown(mean[0], 1)} → {shown(mean[-1], 1)} "
            f"(stand still {shown(result['stand_still'], 1)})"
            + (f"; {report.divergence()}" if report.diverged else "")
        )
        if position.iteration == 0:
            self.progress.restart_clock()

    def film(self, stop: StopSignals) -> None:
        """Show one held-out task before and after adaptation, in TensorBoard and as a file.

        A machine that cannot render is told so, and the training goes on.
        """
        from metarl.video.encode import VideoConfig, render
        from metarl.video.recording import RecordingWorlds, record

        position, config = self.position, self.config
        name = f"step_{position.iteration:08d}.gif"
        worlds = RecordingWorlds(self.worlds.family, config.rollouts_per_task, config.threads)
        with stop.may_leave():
            recording = record(
                self.learner, worlds, self.eval_tasks[:1], episodes=config.evaluate_episodes,
                seed=config.seed,
            )  # fmt: skip
            path = self.folder.path / "videos" / name
            try:
                render(recording, path, VideoConfig(size=240, fps=10), threads=self.threads)
            except UserError as error:
                self.progress.say(f"warning: no video of iteration {position.iteration}: {error}")
                return
        with file_errors(self.folder.path, INTACT):
            self.folder.log_gif("heldout/video", path, position.env_steps)

    def show_report(self, *, running: bool, latest: Report | None = None) -> None:
        """Write report.html anew, and TensorBoard's figure. A picture that fails ends no run."""
        from metarl.report import live

        where = {
            "iteration": self.position.iteration, "env_steps": self.position.env_steps,
            "seconds": self.position.seconds,
        }  # fmt: skip
        problem = live.refresh(self.folder.path, where, running=running)
        if latest is not None:
            problem = live.log_figure(self.logger, latest, self.position.env_steps) or problem
        if problem and not self.warned:
            self.progress.say(f"warning: {problem}; the training goes on")
            self.warned = True

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
        with file_errors(self.folder.path, INTACT):
            checkpoints.save(
                self.folder.checkpoints, self.learner, family=reference(self.worlds.family),
                step=position.iteration, meta=meta,
            )  # fmt: skip
            checkpoints.prune(self.folder.checkpoints, keep=self.config.keep_checkpoints)

    def save_good(self) -> None:
        """Go back to the end of the last whole iteration, and save that."""
        if self.good is not None:
            self.learner.load_state_dict(self.good)
            self.save()

    # --- last words ----------------------------------------------------------------------------

    def how_to_resume(self) -> str:
        """Return one line on what is saved and how to go on."""
        kept = checkpoints.newest(self.folder.path)
        return (
            f"stopped after iteration {self.position.iteration}; saved {kept}; "
            f"go on with: metarl train --resume {quoted(self.folder.path)}"
        )

    def summarise(self) -> None:
        """Print where everything is, the adaptation curve, and what to try next."""
        nominal, tasks = self.distribution.nominal(), self.eval_tasks.counted("held-out task")
        named = f"{nominal.names[0]}={nominal.values[0, 0]:.4g}" if nominal.names else ""
        notes = self.divergence.closing()
        for line in closing_lines(self.folder.path, self.position, tasks, named, notes):
            self.progress.say(line)

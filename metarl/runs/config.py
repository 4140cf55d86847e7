"""TrainConfig: what every learner's training run may be told, and how far such a run has come."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from metarl.base.errors import UserError, did_you_mean
from metarl.base.files import read_text
from metarl.simulation.warp.choice import Physics, SimulatorName
from metarl.worlds import MAX_EPISODES, MAX_WORLDS

if TYPE_CHECKING:
    from metarl.evaluation.protocol import Report
    from metarl.learning.checkpoint import Checkpoint

Curriculum = Literal["uniform", "success", "alp-gmm", "level-replay", "cross-entropy"]
CURRICULA: tuple[str, ...] = get_args(Curriculum)
Track = Literal["none", "wandb", "mlflow"]


@dataclass(frozen=True)
class TrainConfig:
    """How long and on how much to train; the learner's own settings are apart."""

    tasks_per_iteration: int = 20
    """Tasks drawn from the training distribution in each iteration."""
    rollouts_per_task: int = 20
    """Worlds (parallel rollouts) of each task."""
    num_train_tasks: int | None = None
    """Train on so many tasks, the first of the frozen train split, which come back; default: new
    draws in each iteration, or as many as the algorithm keeps data of."""
    iterations: int = 300
    """Meta-updates to make."""
    env_steps: int | None = None
    """Train until this many environment steps instead of a number of iterations."""
    evaluate_every: int = 25
    """Iterations between held-out evaluations; there is one before the first and at the end too."""
    evaluate_tasks: int = 20
    """Held-out tasks in each of those evaluations."""
    evaluate_episodes: int = 2
    """Adaptation rounds in each of those evaluations."""
    checkpoint_every: int = 10
    """Iterations between checkpoints."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints to keep."""
    video_every: int = 0
    """Iterations between videos of a held-out task, in TensorBoard and RUN/videos; 0: none."""
    evaluate_ood: bool = False
    """Whether each of those evaluations is also made on tasks outside the training box."""
    track: Track = "none"
    """Log to Weights & Biases or to MLflow, too (extras `wandb` and `mlflow`)."""
    task_shards: int | None = None
    """Parts that the tasks of an iteration are cut into, for torchrun: each rank owns whole ones,
    and the result depends on their number, not on that of the ranks; default: one a rank."""
    curriculum: Curriculum = "uniform"
    """Which training tasks are drawn; held-out tasks are always those of the family."""
    curriculum_param: str = "difficulty"
    """With --curriculum success: the parameter that becomes harder."""
    curriculum_success: float | None = None
    """With --curriculum success: the return above which a task becomes harder."""
    curriculum_failure: float | None = None
    """With --curriculum success: the return below which it becomes easier; default: half of it, or
    twice where it is negative."""
    seed: int = 0
    """Of everything random: weights, tasks, initial states, actions."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the learner computes; auto is cuda where there is one. So does the simulator warp;
    the physics of mujoco is on the CPU."""
    simulator: SimulatorName = "mujoco"
    """What computes the physics: native MuJoCo, or MuJoCo Warp, which runs on a GPU."""
    simulator_room: float = 1.5
    """With --simulator warp: for how many times the contacts of random actions there is room."""
    threads: int | None = None
    """CPU threads of the physics and of torch; default: every core, or a resumed run's own."""
    out: str | None = None
    """Run folder; the default is runs/FAMILY-ALGORITHM-seedSEED."""
    print_every: int = 10
    """Iterations between printed lines where there is no terminal for a progress bar."""
    progress: bool = True
    """Whether to print anything."""

    def __post_init__(self) -> None:
        """Check every field. Raises UserError."""
        for name in _COUNTS:
            value = getattr(self, name)
            if value is None and name in _MAY_BE_NONE:
                continue
            low = 0 if name in ("seed", "video_every") else 1
            if type(value) is not int or not low <= value < 2**63:
                raise UserError(f"{name} must be a whole number of at least {low}, not {value!r}")
        for one, many in (("tasks_per_iteration", self.tasks_per_iteration),
                          ("evaluate_tasks", self.evaluate_tasks)):  # fmt: skip
            worlds = many * self.rollouts_per_task
            if worlds > MAX_WORLDS:
                raise UserError(
                    f"{one} x rollouts_per_task is {worlds} worlds; the limit is {MAX_WORLDS}"
                )
        if self.tasks_per_iteration % (self.task_shards or 1):
            raise UserError(
                f"tasks_per_iteration is {self.tasks_per_iteration}, which {self.task_shards} task "
                f"shards cannot share evenly"
            )
        if self.evaluate_episodes > MAX_EPISODES:
            raise UserError(
                f"evaluate_episodes must be at most {MAX_EPISODES}, not {self.evaluate_episodes}"
            )
        self._check_curriculum()
        Physics(self.simulator, self.simulator_room)
        for name, allowed in (("device", ("auto", "cpu", "cuda")), ("track", get_args(Track))):
            if (value := getattr(self, name)) not in allowed:
                *some, last = allowed
                raise UserError(f"{name} must be {', '.join(some)} or {last}, not {value!r:.40}")
        is_text = isinstance(self.out, str) and self.out.strip() and "\0" not in self.out
        if self.out is not None and not is_text:
            raise UserError(f"out must be the name of a folder, not {self.out!r}")
        for name in ("progress", "evaluate_ood"):
            if not isinstance(value := getattr(self, name), bool):
                raise UserError(f"{name} must be true or false, not {value!r:.40}")

    def _check_curriculum(self) -> None:
        if self.curriculum not in CURRICULA:
            raise UserError(
                f"curriculum must be {', '.join(CURRICULA[:-1])} or {CURRICULA[-1]}, "
                f"not {self.curriculum!r:.40}"
            )
        for name in ("curriculum_success", "curriculum_failure"):
            value = getattr(self, name)
            if not (value is None or (type(value) in (int, float) and isfinite(value))):
                raise UserError(f"{name} must be a finite number, not {value!r:.40}")

    def curriculum_settings(self) -> dict[str, Any]:
        """Return the settings that the sampler of the curriculum takes."""
        if self.curriculum != "success":
            return {}
        return {
            "param": self.curriculum_param, "success": self.curriculum_success,
            "failure": self.curriculum_failure,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: object, where: object) -> TrainConfig:
        """Read a configuration that a checkpoint holds. Raises UserError naming `where`."""
        if not isinstance(data, dict):
            raise UserError(f"'{where}': its train configuration is missing")
        known = [item.name for item in fields(cls)]
        for name in data:
            if name not in known:
                raise UserError(
                    f"'{where}': unknown train setting '{name}'{did_you_mean(name, known)}"
                )
        try:
            return cls(**data)
        except (TypeError, ArithmeticError) as error:
            raise UserError(f"'{where}': its train configuration is refused: {error}") from None


_MAY_BE_NONE = ("env_steps", "threads", "task_shards", "num_train_tasks")
_COUNTS = (
    "tasks_per_iteration", "rollouts_per_task", "iterations", "env_steps", "evaluate_every",
    "evaluate_tasks", "evaluate_episodes", "checkpoint_every", "keep_checkpoints", "video_every",
    "seed", "threads", "print_every", "task_shards", "num_train_tasks",
)  # fmt: skip


@dataclass
class Position:
    """How far a run has come."""

    iteration: int = 0
    """Meta-updates made."""
    env_steps: int = 0
    """Environment steps of training; evaluation takes none of them."""
    seconds: float = 0.0
    """Wall-clock time of those iterations, over all processes of the run."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """One entry per held-out evaluation."""
    diverged: int = 0
    """Training transitions that diverged, of the `env_steps`."""
    ends: list[int] = field(default_factory=list)
    """Iterations at which the run was once to end: each has an evaluation, as the last one has."""

    @classmethod
    def of(cls, meta: dict[str, Any]) -> Position:
        """Read a checkpoint's meta. Raises UserError if it has none of a training run."""
        if meta.get("exported"):
            raise UserError(
                "this is an exported agent: it can act and adapt, but not go on training, since "
                "the optimiser's state is not in it"
            )
        try:
            return cls(
                int(meta["iteration"]), int(meta["env_steps"]), float(meta["seconds"]),
                [_entry(entry) for entry in meta["curve"]], int(meta.get("diverged", 0)),
                [int(i) for i in meta.get("ends", ())],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise UserError(f"the checkpoint is not one of a training run: {error}") from None

    @classmethod
    def to_resume(cls, checkpoint: Checkpoint) -> Position:
        """Read a checkpoint, and the evaluations that its run made after writing it. Likewise."""
        found = cls.of(checkpoint.meta)
        entries = {entry.get("iteration"): entry for entry in found.curve}
        for entry in _evaluated(checkpoint.path.parent.parent / "curve.json"):
            if entry["iteration"] <= found.iteration:
                entries.setdefault(entry["iteration"], entry)
        found.curve = sorted(entries.values(), key=lambda entry: entry.get("iteration", 0))
        saved = TrainConfig.from_json(checkpoint.meta.get("train"), checkpoint.path)
        if found.done(saved) >= goal(saved) and found.iteration not in found.ends:
            found.ends.append(found.iteration)
        return found

    def evaluated(self) -> bool:
        """Whether the weights of this iteration have been evaluated."""
        return any(entry["iteration"] == self.iteration for entry in self.curve)

    def record(self, report: Report) -> None:
        """Append the held-out evaluation of this iteration's weights to the curve."""
        result = report.to_json()
        mean, interval = result["mean"], result["ci95"]
        self.curve.append(
            {
                "iteration": self.iteration, "env_steps": self.env_steps,
                "seconds": round(self.seconds, 3), "before": mean[0], "after": mean[-1],
                "before_ci": interval[0], "after_ci": interval[-1],
                "experience": result["experience"], "mean": mean,
                "stand_still": result["stand_still"], "diverged": report.diverged,
                "verdict": report.verdict(),
            }
        )  # fmt: skip

    def done(self, config: TrainConfig) -> int:
        """Progress in the unit of `goal`."""
        return self.iteration if config.env_steps is None else self.env_steps


_ENTRY = {"iteration", "env_steps", "before", "after", "experience", "mean", "stand_still"}


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of an entry of a curve. Raises ValueError if it does not say of when it is."""
    if type(entry["iteration"]) is not int:
        raise ValueError(f"its curve has iteration {entry['iteration']!r:.40}")
    return dict(entry)


def _evaluated(path: Path) -> list[dict[str, Any]]:
    """Return the whole entries of a curve.json; none if it cannot be read."""
    try:
        found = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return []
    return [
        entry
        for entry in (found if isinstance(found, list) else ())
        if isinstance(entry, dict) and entry.keys() >= _ENTRY and type(entry["iteration"]) is int
    ]


def goal(config: TrainConfig) -> int:
    """Return where a run ends: a number of env steps if that is set, else of iterations."""
    return config.iterations if config.env_steps is None else config.env_steps


def with_target(config: TrainConfig, argv: Sequence[str]) -> TrainConfig:
    """Return defaults for which ``--iterations``, if it is among the words, is the goal.

    A number of env steps that tuned settings or a saved run have would be one before it.
    """
    named = {word.partition("=")[0].replace("_", "-") for word in argv}
    return replace(config, env_steps=None) if "--iterations" in named else config


def finished(checkpoint: Checkpoint, config: TrainConfig) -> bool:
    """Whether the run of a checkpoint has come to the end of `config`, evaluations included."""
    position = Position.to_resume(checkpoint)
    return position.done(config) >= goal(config) and position.evaluated()


def default_out(family: str, algorithm: str, seed: int) -> str:
    """Return the run folder that is used when none is named."""
    return f"runs/{family}-{algorithm}-seed{seed}"

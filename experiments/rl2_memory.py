"""What a trained RL² policy makes of its memory: ``rl2_memory.py RUN``.

Writes FAMILY-rl2-memory.json and .png: the reward per step within the first two episodes of a trial
on held-out tasks (in the first it rises as the policy finds out which task it is in), and the
return of the second episode with the memory of the first kept, zeroed, or swapped with that of
another task.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metarl.algorithms.rl2 import Rl2, State
from metarl.base.errors import UserError
from metarl.base.files import write_json
from metarl.base.keys import Key
from metarl.cli import guarded
from metarl.evaluation.protocol import stand_still
from metarl.run import load_run, worlds_for
from metarl.tasks.distribution import TaskDistribution
from metarl.worlds.rollout import collect

WORLDS_PER_TASK = 2
COLOURS = {"first episode": "#8a8f98", "kept": "#1f6fb2", "zeroed": "#dd8452", "swapped": "#c44e52"}


def main(argv: list[str]) -> int:
    """Measure, write and draw."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="a run folder, or a checkpoint")
    parser.add_argument("--tasks", type=int, default=40, help="held-out tasks")
    parser.add_argument("--seed", type=int, default=0, help="of initial states")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--results", default="experiments/results", help="folder to write to")
    args = parser.parse_args(argv)
    if args.tasks < 2:
        raise UserError(f"swapping takes at least 2 tasks, not {args.tasks}")
    figures = measure(args.run, args.tasks, args.seed, args.threads)
    path = Path(args.results) / f"{figures['family']}-rl2-memory"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path.with_suffix(".json"), figures)
    draw(figures, path.with_suffix(".png"))
    for name, value in figures["returns"].items():
        print(f"{name:>15}{np.mean(value):>10.1f}")
    print(f"wrote {path}.json and {path}.png")
    return 0


@torch.no_grad()
def measure(run: str, tasks: int, seed: int, threads: int | None) -> dict[str, Any]:
    """Return the rewards per step and the returns per task."""
    checkpoint, family, learner = load_run(run, "auto", threads)
    if not isinstance(learner, Rl2):
        raise UserError(f"'{run}' is a run of {learner.name}, not of rl2")
    split = TaskDistribution(family).split("heldout", tasks)
    worlds = worlds_for(family, learner, tasks * WORLDS_PER_TASK, threads)
    still = stand_still(worlds, split, seed)

    def episode(state: State, number: int) -> tuple[np.ndarray, list[float], State]:
        key = Key(seed, "memory", number)
        worlds.seed(key)
        worlds.reset()
        data, after = collect(worlds, learner, state, worlds.spec.horizon, key, explore=False)
        by_task = data.first_episode_return().reshape(tasks, WORLDS_PER_TASK).mean(1)
        return data.reward.mean(1).cpu().numpy(), by_task.tolist(), learner.adapt(after, data)

    begun = learner.begin(tasks, WORLDS_PER_TASK)
    first, returns, after = episode(begun, 0)
    half = tasks // 2 * WORLDS_PER_TASK
    last = None if after.last is None else after.last.roll(half, 0)
    states = {
        "kept": after,
        "zeroed": begun,
        "swapped": State(tuple(part.roll(half, 0) for part in after.memory), last),
    }
    second = {name: episode(state, 1) for name, state in states.items()}
    return {
        "family": family.name, "algorithm": learner.name, "step": checkpoint.step, "seed": seed,
        "tasks": split.values.tolist(), "stand_still": still,
        "returns": {"first episode": returns, **{k: v[1] for k, v in second.items()}},
        "reward_per_step": {
            "first episode": first.tolist(), **{k: v[0].tolist() for k, v in second.items()},
        },
    }  # fmt: skip


def draw(figures: dict[str, Any], path: Path) -> None:
    """Draw rewards per step on the left, and mean returns on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10.4, 3.9), layout="constrained")
    labels = {name: name if name == "first episode" else f"second, memory {name}"
              for name in figures["returns"]}  # fmt: skip
    for name, rewards in figures["reward_per_step"].items():
        left.plot(rewards, color=COLOURS[name], label=labels[name], lw=1.2)
    left.set(xlabel="step of the episode", ylabel="mean reward on held-out tasks")
    left.legend(fontsize=8, frameon=False)
    names = list(figures["returns"])
    means = [float(np.mean(figures["returns"][name])) for name in names]
    bars = right.bar(
        [labels[n].replace(", ", ",\n") for n in names],
        means,
        color=[COLOURS[name] for name in names],
    )
    right.bar_label(bars, fmt="%.0f", fontsize=8)
    right.axhline(figures["stand_still"], color="k", ls="--", lw=1, label="standing still")
    right.set(ylabel="mean return on held-out tasks")
    right.tick_params(axis="x", labelsize=8)
    right.legend(fontsize=8, frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{figures['family']}, rl2: what the memory is worth", fontsize=11)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))

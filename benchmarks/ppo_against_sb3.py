"""Env steps a second and held-out returns of our PPO, beside those of stable-baselines3's.

    python benchmarks/ppo_against_sb3.py --env-steps 1e6 --seeds 1 2 3 --threads 1 \\
        --json benchmarks/results/ppo_against_sb3.json

For each seed both learn the family in the same process, an iteration (collection and update) each
in turn, so that the ratio of their speeds survives a noisy machine. Both have as many worlds, one
horizon a world in an iteration, the same networks, passes and minibatches, and see observations
and rewards scaled by running statistics (`VecNormalize`; not with --plain). GAE, clipping and the
weights of the losses are the same in both libraries. Step size and initial exploration stay each
library's own: ours follows the divergence; --lr keeps both at one value. After --env-steps both
are tested by the protocol of `metarl evaluate` on the frozen held-out tasks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.append(str(Path(__file__).resolve().parents[1] / "experiments"))

import numpy as np
from common import environment, interleave, paired_ratio, write_json
from witness import Witness, held_out, make_agent

from metarl import Policy, TaskDistribution, TaskFamily, TaskWorlds, UserError, find_family
from metarl.adapters import SB3VecEnv
from metarl.algorithms.ppo import Ppo, PpoConfig
from metarl.base.keys import Key
from metarl.base.threads import set_threads
from metarl.cli import guarded
from metarl.evaluation.statistics import interval_over_seeds
from metarl.runs.progress import bar, say

NAMES = ("metarl", "sb3")
Contender = tuple[Policy, Callable[[], float]]
"""The policy, and what makes one iteration of its training and returns env steps a second."""


def ours(family: TaskFamily, args: argparse.Namespace, seed: int) -> Contender:
    """Return our PPO, with a task of its own in every world."""
    worlds = TaskWorlds(family, args.worlds, args.threads)
    rate = {} if args.lr is None else {"lr": args.lr, "desired_kl": 0.0}
    config = PpoConfig(
        hidden=tuple(args.hidden), epochs=args.epochs, batch_size=args.batch_size, **rate
    )
    learner, distribution = Ppo(worlds.spec, config, seed=seed), TaskDistribution(family)
    done = 0

    def iteration() -> float:
        nonlocal done
        key, start = Key(seed, "iteration", done), time.perf_counter()
        tasks = distribution.sample(args.worlds, key.fold("tasks").numpy())
        learner.meta_step(worlds, tasks, key)
        done += 1
        return args.worlds * family.horizon / (time.perf_counter() - start)

    return learner, iteration


def theirs(family: TaskFamily, args: argparse.Namespace, seed: int) -> Contender:
    """Return the PPO of stable-baselines3 on our VecEnv, with a new task in every episode."""
    from stable_baselines3.common.vec_env import VecNormalize

    envs: Any = SB3VecEnv(args.family, args.worlds, threads=args.threads)
    envs.seed(seed)
    steps = args.worlds * family.horizon
    rate = {} if args.lr is None else {"learning_rate": args.lr}
    model = make_agent(
        "ppo", envs if args.plain else VecNormalize(envs, gamma=0.99), seed,
        n_steps=family.horizon, batch_size=min(args.batch_size, steps), n_epochs=args.epochs,
        policy_kwargs={"net_arch": args.hidden}, **rate,
    )  # fmt: skip

    def iteration() -> float:
        start = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return steps / (time.perf_counter() - start)

    return Witness(model, "sb3-ppo"), iteration


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train and test both with every seed; write what there is after each of them."""
    args.threads = set_threads(args.threads)
    family = find_family(args.family)
    if min(args.worlds, args.tasks) < 1:
        raise UserError("--worlds and --tasks must be at least 1")
    each = args.worlds * family.horizon
    if not each < args.env_steps < np.inf:
        raise UserError(
            f"--env-steps must be more than the {each} of the first iteration, which is not timed"
        )
    iterations = int(np.ceil(args.env_steps / each))
    rows, result = [], {}
    for seed in args.seeds:
        made = {"metarl": ours(family, args, seed), "sb3": theirs(family, args, seed)}
        figures = train(made, iterations, f"seed {seed}")
        tested = {n: held_out(policy, family, args.tasks, args.threads)
                  for n, (policy, _) in made.items()}  # fmt: skip
        row = {"seed": seed, "env_steps": iterations * each}
        row |= {"rounds": figures, "ratio": paired_ratio(*(figures[n] for n in NAMES))}
        row["returns"] = {
            n: {split: [task[0] for task in report.to_json()["returns"]]
                for split, report in reports.items()} for n, reports in tested.items()
        }  # fmt: skip
        row["stand_still"] = tested["metarl"]["heldout"].stand_still
        rows.append(row)
        result = summary(rows, args)
        write_json(args.json, result)
    return result


def train(made: dict[str, Contender], iterations: int, what: str) -> dict[str, list[float]]:
    """Return the speeds of all iterations but the first, which the contenders make in turn."""
    done = 0
    with bar(what) as show:

        def shown(iteration: Callable[[], float]) -> float:
            nonlocal done
            figure, done = iteration(), done + 1
            show(done, iterations * len(made))
            return figure

        turns = {name: lambda it=iteration: shown(it) for name, (_, iteration) in made.items()}
        return {name: figures[1:] for name, figures in interleave(turns, iterations).items()}


def summary(rows: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Return the result file of the seeds so far."""
    speeds = {n: [f for row in rows for f in row["rounds"][n]] for n in NAMES}
    heldout = {}
    for name in NAMES:
        returns = np.array([row["returns"][name]["heldout"] for row in rows], np.float64)
        iqm, low, high = interval_over_seeds(returns, Key(0, "bootstrap").numpy())
        heldout[name] = {
            "iqm": iqm, "ci95": [low, high], "mean_by_seed": np.nanmean(returns, axis=1).tolist(),
        }  # fmt: skip
    settings = ("family", "worlds", "hidden", "epochs", "batch_size", "lr", "plain", "tasks")
    return {
        "benchmark": "ppo_against_sb3",
        **{name: getattr(args, name) for name in settings},
        "env_steps": rows[0]["env_steps"],
        "env_steps_per_second": {n: statistics.median(f) for n, f in speeds.items()},
        "speedup": paired_ratio(speeds["metarl"], speeds["sb3"]),
        "heldout": heldout,
        "results": rows,
        **environment(args.threads),
    }


def main(argv: list[str]) -> int:
    """Parse the flags, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", default="half-cheetah-dynamics")
    parser.add_argument("--env-steps", type=float, default=1e6, help="of each run (default: 1e6)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--worlds", type=int, default=40, help="of both (default: 40)")
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--lr", type=float, help="constant; default: each library's own")
    parser.add_argument("--plain", action="store_true", help="stable-baselines3 unscaled")
    parser.add_argument("--tasks", type=int, default=30, help="held-out tasks (default: 30)")
    parser.add_argument("--threads", type=int, default=None, help="default: every core")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    args = parser.parse_args(argv)
    result, plural = measure(args), "s" * (len(args.seeds) > 1)
    for name, speed in result["env_steps_per_second"].items():
        tested = result["heldout"][name]
        low, high = tested["ci95"]
        say(
            f"{name:<8}{speed:8.0f} env steps/s   held-out return {tested['iqm']:.1f} "
            f"[{low:.1f}, {high:.1f}]"
        )
    say(
        f"metarl is {result['speedup']:.2f}x as fast; {len(args.seeds)} seed{plural}, "
        f"{result['env_steps']} env steps each"
    )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))

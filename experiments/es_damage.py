"""Does a robot recover from damage without gradients: ``es_damage.py --told RUN --blind RUN``.

``RUN`` of --told is of ppo on FAMILY+told, and of --blind on FAMILY. ES-MAML begins with the policy
of the first, to which what it was told is a context to try others in its place, and looks for a
good one by hill climbing: 20 rollouts a round. Writes results/es-maml/FAMILY-seedN.json.

    metarl train half-cheetah-crippled+told ppo --preset ladder/ppo --env-steps 500000 --seed 1
    metarl train half-cheetah-crippled ppo --preset ladder/ppo --env-steps 500000 --seed 1
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np

from metarl import TaskDistribution, TaskFamily, TaskWorlds, evaluate
from metarl.algorithms import EsMaml, EsMamlConfig
from metarl.base.errors import UserError
from metarl.base.files import finite, write_json
from metarl.base.threads import set_threads
from metarl.base.versions import hardware, versions
from metarl.cli import guarded
from metarl.evaluation.statistics import gain_interval
from metarl.learning.learner import Learner
from metarl.run import load_run
from metarl.runs.progress import say

RESULTS = Path(__file__).resolve().parent / "results" / "es-maml"


def main(argv: list[str]) -> int:
    """Measure and write."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--told", required=True, help="run of ppo on FAMILY+told")
    parser.add_argument("--blind", required=True, help="run of ppo on FAMILY")
    parser.add_argument("--tasks", type=int, default=20, help="rows of each split")
    parser.add_argument("--rollouts", type=int, default=20, help="of a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sigma", type=float, default=1.0, help="of the contexts that are tried")
    parser.add_argument("--seed", type=int, default=0, help="of initial states and queries")
    args = parser.parse_args(argv)
    set_threads(1)
    blind_checkpoint, family, blind = load_run(args.blind, "cpu", 1)
    told_checkpoint, told_family, told = load_run(args.told, "cpu", 1)
    seed = int(told_checkpoint.meta["seed"])
    result: dict[str, Any] = {
        "family": family.name, "seed": seed, "settings": vars(args) | {"told": "", "blind": ""},
        "env_steps": {"told": told_checkpoint.meta["env_steps"],
                      "blind": blind_checkpoint.meta["env_steps"]},
        "versions": versions(), "hardware": hardware(),
    }  # fmt: skip
    searching = searcher(family, told, args)
    for split in ("heldout", "ood"):
        result[split] = {
            "blind": scored(blind, family, split, args, 0),
            "told": scored(told, told_family, split, args, 0),
            "context": scored(searching, family, split, args, args.rounds),
        }
        means = {name: [round(x) for x in part["mean"]] for name, part in result[split].items()}
        say(f"{split}: {means}, gain of the context {result[split]['context']['gain']}")
    path = RESULTS / f"{family.name}-seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, finite(result))
    say(f"wrote {path}")
    return 0


def searcher(family: TaskFamily, told: Learner, args: Namespace) -> EsMaml:
    """Return ES-MAML as it begins from a told policy."""
    worlds = TaskWorlds(family, 1, threads=1)
    context = told.spec.observation_size - worlds.spec.observation_size
    if context < 1:
        raise UserError(f"'{args.told}' was told nothing that a run on {family.name} is not")
    config = EsMamlConfig(
        adaptation="hill-climb", hidden=told.config.hidden, context=context,
        context_sigma=args.sigma, action_scale=1.0, start=args.told,
    )  # fmt: skip
    learner = EsMaml(worlds.spec, config, seed=args.seed)
    learner.plan(worlds, 1, None)
    return learner


def scored(
    learner: Learner, family: TaskFamily, split: str, args: Namespace, rounds: int
) -> dict[str, Any]:
    """Return the returns of a policy on a split, before and after rounds of adaptation."""
    worlds = TaskWorlds(family, args.tasks * args.rollouts, threads=1)
    tasks = TaskDistribution(family).split(split, args.tasks)
    report = evaluate(learner, worlds, tasks, episodes=rounds, seed=args.seed)
    returns = np.asarray(report.returns)
    gains = [gain_interval(returns[:, k] - returns[:, 0], tasks.values, 0)
             for k in range(1, returns.shape[1])]  # fmt: skip
    return {
        "tasks": tasks.values.tolist(), "returns": returns.tolist(),
        "mean": [float(x) for x in returns.mean(0)], "gain": gains,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))

"""Does a robot recover from damage without gradients: ``es_damage.py --told RUN --blind RUN``.

``RUN`` of --told is of ppo on FAMILY+told, and of --blind on FAMILY. ES-MAML begins with the policy
of the first, to which what it was told is a context to try others in its place, and looks for a
good one by hill climbing: 20 rollouts a round. Writes results/es-maml/FAMILY-seedN.json, with N
the seed of training, and the table that the page of ES-MAML has (``--write``: only that). The page
has the commands that trained these runs.
"""

import itertools
import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
from result_files import filled

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

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results" / "es-maml"
SHOWN = "*-crippled-seed*.json"
PAGE = ROOT / "docs" / "algorithms" / "es-maml.md"
SPLITS = {"heldout": "as in training", "ood": "never in training"}


def main(argv: list[str]) -> int:
    """Measure and write."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="only write the table of the page")
    parser.add_argument("--told", help="run of ppo on FAMILY+told")
    parser.add_argument("--blind", help="run of ppo on FAMILY")
    parser.add_argument("--tasks", type=int, default=20, help="rows of each split")
    parser.add_argument("--rollouts", type=int, default=20, help="of a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sigma", type=float, default=1.0, help="of the contexts that are tried")
    parser.add_argument("--seed", type=int, default=0, help="of initial states and queries")
    args = parser.parse_args(argv)
    if not args.write:
        if not (args.told and args.blind):
            raise UserError("give --told RUN and --blind RUN, or --write")
        measure(args)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), "es damage", table()), "utf-8")
    say(f"wrote {PAGE}")
    return 0


def measure(args: Namespace) -> None:
    """Measure, and write the result."""
    set_threads(1)
    blind_checkpoint, family, blind = load_run(args.blind, "cpu", 1)
    told_checkpoint, told_family, told = load_run(args.told, "cpu", 1)
    seed = int(told_checkpoint.meta["seed"])
    result: dict[str, Any] = {
        "family": family.name, "seed": seed,
        "settings": {k: v for k, v in vars(args).items() if k not in ("write", "told", "blind")},
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


def table() -> str:
    """Return the page's table: a row for each split and seed, and gains of a round and two."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob(SHOWN))]
    results.sort(key=lambda result: result["family"], reverse=True)
    each = results[0]["settings"]["rollouts"]
    rows = [
        "| family | damage | seed | blind | told | context: before "
        f"| after {each} rollouts | after {2 * each} "
        f"| gain of {each} rollouts | gain of {2 * each} |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for family in dict.fromkeys(result["family"] for result in results):
        of_it = [result for result in results if result["family"] == family]
        for split, result in itertools.product(SPLITS, of_it):
            found = result[split]
            means = [found[name]["mean"][0] for name in ("blind", "told")]
            means += found["context"]["mean"]
            gains = ["{:+.0f} [{:+.0f}, {:+.0f}]".format(*g) for g in found["context"]["gain"]]
            named = (family, SPLITS[split], str(result["seed"]))
            cells = (*named, *(f"{mean:.0f}" for mean in means), *gains)
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


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

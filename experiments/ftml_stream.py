"""What following the leader is worth in a stream: ``ftml_stream.py``, ten minutes of a thread.

Trains FTML's prior on point-goal, and lets it act in streams of tasks that change without notice:
with the prior frozen, with the prior that goes on learning, and beside PPO from scratch and FTML
from an untrained prior. All meet the same tasks at the same steps. Writes each seed into
results/streams/point-goal-ftml.json, and the table that the page of FTML has of it
(``--write``: only that).
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from result_files import filled

from metarl import TaskDistribution, TaskWorlds, evaluate
from metarl.algorithms import Finetune, FinetuneConfig, Ftml, FtmlConfig
from metarl.base.files import finite, write_json
from metarl.base.keys import Key
from metarl.base.threads import set_threads
from metarl.base.versions import hardware, versions
from metarl.cli import guarded
from metarl.evaluation.statistics import gain_interval
from metarl.evaluation.stream import Stream, stream
from metarl.learning.learner import Learner
from metarl.runs.progress import say

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "experiments" / "results" / "streams" / "point-goal-ftml.json"
PAGE = ROOT / "docs" / "algorithms" / "ftml.md"
TRAINED = FtmlConfig(inner_lr=0.5, lr=0.004)
TASKS, WORLDS = 20, 10
ONLINE = {"lr": 0.001, "updates": 3}
"""Smaller steps than in training: a round of a stream is one task."""
WORDS = {
    "frozen": "this prior, frozen",
    "online": "this prior, online (`lr` 0.001, `updates` 3)",
    "scratch-anew": "PPO from scratch, which begins anew every 5 episodes",
    "scratch": "PPO from scratch, which goes on",
    "untrained": "untrained prior, online (`lr` 0.004)",
}


def main(argv: list[str]) -> int:
    """Measure, and write file and table."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="only write the table of the page")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2], help="of trainings and their streams"
    )
    parser.add_argument("--iterations", type=int, default=10, help="of a training")
    parser.add_argument("--streams", type=int, default=8, help="of each seed")
    parser.add_argument("--episodes", type=int, default=60, help="of each stream")
    parser.add_argument("--every", type=float, default=5.0, help="mean episodes between changes")
    args = parser.parse_args(argv)
    set_threads(1)
    for seed in () if args.write else args.seeds:
        add(measured(args, seed), args)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(filled(text, "ftml streams", table()), encoding="utf-8")
    say(f"wrote {PAGE}")
    return 0


def add(found: dict[str, Any], args: Namespace) -> None:
    """Write what a seed gave into the file, beside the other seeds of the same settings."""
    settings = {k: v for k, v in vars(args).items() if k not in ("write", "seeds")}
    settings |= {"tasks": TASKS, "worlds": WORLDS}
    seeds = {found["seed"]: found}
    if RESULT.exists() and (old := json.loads(RESULT.read_text("utf-8")))["settings"] == settings:
        seeds = {one["seed"]: one for one in old["seeds"]} | seeds
    ordered = [seeds[seed] for seed in sorted(seeds)]
    about = {"family": "point-goal", "settings": settings, "seeds": ordered, **summary(ordered)}
    write_json(RESULT, finite(about | {"versions": versions(), "hardware": hardware()}))
    say(f"wrote {RESULT}")


def measured(args: Namespace, seed: int) -> dict[str, Any]:
    """Train a prior; return its returns on held-out tasks, and what each policy earns in streams.

    Returns:
        ``curve`` (K+1) means before and after rounds; and ``returns`` of a policy's name -> (M,)
        mean returns of an episode in each stream.
    """
    worlds = TaskWorlds("point-goal", TASKS * WORLDS, threads=1)
    distribution = TaskDistribution(worlds.family)
    learner = Ftml(worlds.spec, TRAINED, seed=seed)
    for i in range(args.iterations):
        tasks = distribution.sample(TASKS, Key(seed, i, "tasks").numpy())
        learner.meta_step(worlds, tasks, Key(seed, i))
    heldout = distribution.split("heldout", TASKS)
    curve = evaluate(learner, worlds, heldout, episodes=3, seed=0).mean
    returns = {}
    for name, (policy, forget) in policies(learner, seed).items():
        found = streamed(policy, args, seed, forget)
        returns[name] = found.windows(found.horizon).mean(0)
        say(f"seed {seed}  {name}: {returns[name].mean():.2f}")
    return {
        "seed": seed,
        "curve": list(curve),
        "returns": {k: v.tolist() for k, v in returns.items()},
    }


def policies(trained: Ftml, seed: int) -> dict[str, tuple[Learner, int | None]]:
    """Return who acts in the streams, and after how many episodes it begins anew."""

    def with_prior(**settings: Any) -> Ftml:
        other = Ftml(trained.spec, replace(TRAINED, **settings), seed=seed)
        other.load_state_dict(trained.state_dict())
        return other

    scratch = Finetune(trained.spec, FinetuneConfig(scratch=True), seed=seed)
    return {
        "frozen": (with_prior(online=False), None), "online": (with_prior(**ONLINE), None),
        "scratch-anew": (scratch, TRAINED.restart), "scratch": (scratch, None),
        "untrained": (Ftml(trained.spec, TRAINED, seed=seed), None),
    }  # fmt: skip


def streamed(policy: Learner, args: Namespace, seed: int, forget: int | None) -> Stream:
    """Return how a policy fares; the streams are those of the seed."""
    worlds = TaskWorlds("point-goal", args.streams * WORLDS, threads=1)
    tasks = TaskDistribution(worlds.family).split("heldout", 30)
    return stream(
        policy, worlds, tasks, streams=args.streams, rounds=args.episodes,
        every=args.every * worlds.spec.horizon, seed=seed, forget=forget,
    )  # fmt: skip


def summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of each policy, and the interval of its paired difference from ``frozen``.

    Streams of all seeds are the units; an interval is that of the interquartile mean.
    """
    joined = {name: np.concatenate([one["returns"][name] for one in seeds]) for name in WORDS}
    rows = np.arange(len(joined["frozen"]))[:, None]
    return {
        "mean": {name: float(part.mean()) for name, part in joined.items()},
        "against_frozen": {
            name: gain_interval(part - joined["frozen"], rows, 0)
            for name, part in joined.items() if name != "frozen"
        },
    }  # fmt: skip


def table() -> str:
    """Return the page's table of the file."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    rows = [
        "| policy | mean return of an episode | against the frozen prior (IQM, 95 %) |",
        "|---|---|---|",
    ]
    for name, words in WORDS.items():
        against = "—"
        if name in result["against_frozen"]:
            centre, low, high = (number(x) for x in result["against_frozen"][name])
            against = f"{centre} [{low}, {high}]"
        rows.append(f"| {words} | {number(result['mean'][name])} | {against} |")
    return "\n".join(rows)


def number(value: float) -> str:
    """Return a number with two decimals and a true minus."""
    return f"{value:.2f}".replace("-", "−")


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))

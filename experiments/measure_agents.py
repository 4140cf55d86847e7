"""Evaluate shipped agents anew, as their result files say: ``measure_agents.py [AGENT …]``.

An agent keeps its weights while the way in which it adapts may become better. This writes its
result.json and curve.png, and the result file of its seed in experiments/results/ with the plot;
`summarise.py --write` then makes the tables and the model cards. Curve and settings of the training
stay as they are.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metarl.base.files import read_json, write_json
from metarl.cli import guarded
from metarl.commands.training.experiment import write_result
from metarl.evaluation.protocol import Report, evaluate
from metarl.report.charts import plot_results
from metarl.report.run_summary import RESULT
from metarl.run import load_run, worlds_for
from metarl.tasks.distribution import TaskDistribution

HERE = Path(__file__).parent


def measured(agent: Path, threads: int | None) -> dict[str, Any]:
    """Return the agent's result file with its reports made anew."""
    result = read_json(agent / RESULT)
    _, family, learner = load_run(str(agent), "cpu", threads)
    new: dict[str, Any] = {}
    for split in ("heldout", "ood"):
        old = result if split == "heldout" else result["ood"]
        if old is None:
            continue
        report = Report.from_json(old, agent)
        tasks = TaskDistribution(family).split(split, len(report.tasks))
        worlds = worlds_for(family, learner, len(tasks) * report.rollouts_per_task, threads)
        found = evaluate(
            learner, worlds, tasks, episodes=len(report.experience) - 1, seed=report.seed,
            split=split,
        )  # fmt: skip
        print("\n".join(found.summary()), flush=True)
        new[split] = found.to_json()
    config = result["config"] | {"learner": asdict(learner.config)}
    return result | new["heldout"] | {"ood": new.get("ood"), "config": config}


def main(argv: list[str]) -> int:
    """Evaluate the agents that are named, or all."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    agents = sorted(path.parent.name for path in (HERE / "agents").glob(f"*/{RESULT}"))
    parser.add_argument("agents", nargs="*", metavar="AGENT", default=agents)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args(argv)
    for name in args.agents:
        agent = HERE / "agents" / name
        result = measured(agent, args.threads)
        write_json(agent / RESULT, result)
        plot_results([result], agent / "curve.png")
        seed = result["config"]["train"]["seed"]
        own = read_json(HERE / "results" / f"{name}-seed{seed}.json")
        kept = {key: own[key] for key in ("curve", "config", "settings", "command") if key in own}
        config = kept["config"] | {"learner": result["config"]["learner"]}
        write_result(result | kept | {"config": config}, HERE / "results")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))

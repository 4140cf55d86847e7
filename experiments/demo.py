"""``make demo``: meta-train a half-cheetah on velocities, and let it adapt to unseen ones."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from half_cheetah_vel import SETTINGS

from metarl.cli import guarded
from metarl.evaluation import evaluate
from metarl.experiment import train_or_resume
from metarl.launch import open_run, worlds_for
from metarl.report.plots import plot_adaptation
from metarl.tasks import TaskDistribution

FAMILY, ALGORITHM, TASKS = "half-cheetah-vel", "maml-trpo", 30
RUN = Path("runs/demo")


def demo(argv: list[str]) -> int:
    """Train briefly, adapt to 30 held-out tasks, and show what adaptation gained."""
    argparse.ArgumentParser(description=demo.__doc__).parse_args(argv)
    tuned = SETTINGS[ALGORITHM]
    train = replace(tuned.train, iterations=60, evaluate_every=15, out=str(RUN))
    train_or_resume(FAMILY, ALGORITHM, train, tuned.learner)
    _, family, learner = open_run(str(RUN), train.device, train.threads)
    tasks = TaskDistribution(family).split("heldout", TASKS)
    worlds = worlds_for(family, learner, TASKS * train.rollouts_per_task, train.threads)
    report = evaluate(learner, worlds, tasks, episodes=2, seed=0)
    print()
    for line in report.summary():
        print(line)
    report.save(RUN / "demo.json")
    print(f"wrote {RUN / 'demo.json'} and {plot_adaptation([report], RUN / 'demo.png')}")
    _, low, _ = report.difference()
    if low <= 0:
        print("the interval includes zero: this run did not learn to adapt")
    return 0 if low > 0 else 1


if __name__ == "__main__":
    sys.exit(guarded(demo, sys.argv[1:]))

"""``make demo``: meta-train a half-cheetah for a minute, and let it adapt to held-out velocities.

An agent of this repository that was trained for longer does the same, and is filmed at it.
"""

import argparse
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

from metarl.base.errors import UserError
from metarl.cli import guarded
from metarl.commands.viewing.render import render
from metarl.evaluation.protocol import Report, evaluate
from metarl.report.charts import plot_adaptation
from metarl.report.text import first_column
from metarl.run import load_run, train_or_resume, worlds_for, worlds_per_task
from metarl.runs.presets import presets
from metarl.runs.progress import bar
from metarl.tasks.distribution import TaskDistribution

FAMILY, ALGORITHM, SHIPPED = "half-cheetah-vel", "maml-trpo", "half-cheetah-vel-pearl"
TASKS = 20
RUN = Path("runs/demo")
TRAIN, LEARNER = presets()[f"{FAMILY}/{ALGORITHM}"].configs()
TRAIN = replace(
    TRAIN, iterations=16, evaluate_every=16, evaluate_tasks=5, print_every=4, out=str(RUN)
)  # fmt: skip


def demo(argv: list[str]) -> int:
    """Train for about a minute, adapt to 20 held-out tasks, and film an agent that is shipped.

    All of it takes less than two minutes on two cores that have nothing else to do.
    """
    argparse.ArgumentParser(description=demo.__doc__).parse_args(argv)
    began = time.monotonic()
    print(
        f"1. meta-train {ALGORITHM} on {FAMILY}, where only the reward tells how fast to run: "
        f"1 minute\n2. let it adapt to {TASKS} velocities that it has not seen, and the agent "
        f"{SHIPPED}, which comes with metarl, too: 20 s\n3. film that agent on the first of them: "
        "20 s\nTimes are those of two cores that have nothing else to do.\n",
        flush=True,
    )
    shutil.rmtree(RUN, ignore_errors=True)
    train_or_resume(FAMILY, ALGORITHM, TRAIN, LEARNER)
    reports = [adapted(str(RUN), rounds=2), adapted(SHIPPED, rounds=3)]
    for line in table(reports):
        print(line)
    print(f"\nwrote {plot_adaptation(reports[:1], RUN / 'demo.png')}", flush=True)
    try:
        render([SHIPPED, "--size", "360", "--fps", "15", "--out", str(RUN / "demo.mp4")])
    except UserError as error:  # a machine that cannot draw
        print(f"no video: {error}")
    print(f"done in {time.monotonic() - began:.0f} s")
    if reports[0].difference()[1] <= 0:
        print("the interval includes zero: this run did not learn to adapt")
        return 1
    return 0


def adapted(run: str, rounds: int) -> Report:
    """Evaluate a run, or the agent of that name, on the held-out tasks."""
    checkpoint, family, learner = load_run(run, "cpu", None)
    tasks = TaskDistribution(family).split("heldout", TASKS)
    worlds = worlds_for(family, learner, TASKS * worlds_per_task(checkpoint, None, TASKS), None)
    with bar(f"evaluating {Path(run).name}") as show:
        return evaluate(learner, worlds, tasks, episodes=rounds, seed=0, progress=show)


def table(reports: list[Report]) -> list[str]:
    """Return the one table: each agent at first and after it has adapted, and standing still."""
    first = first_column(reports)
    wide = max(8, len(first) + 2)
    lines = [
        f"\n{TASKS} held-out tasks of {FAMILY}, mean return (0 would be perfect):",
        f"{'':<26}{first:>{wide}}{'after':>8}   {'gain (IQM), 95 % interval':<27}episodes seen",
        f"{'standing still':<26}{reports[0].stand_still:>{wide}.0f}",
    ]
    for name, report in zip(("just trained", "shipped"), reports, strict=True):
        gain, low, high = report.difference()
        lines.append(
            f"{f'{report.algorithm}, {name}':<26}{report.mean[0]:>{wide}.0f}{report.mean[-1]:>8.0f}"
            f"   {f'{gain:+.0f} [{low:+.0f}, {high:+.0f}]':<27}{report.experience[-1]:>13}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(guarded(demo, sys.argv[1:]))

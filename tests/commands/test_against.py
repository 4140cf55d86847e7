"""`metarl evaluate --against`: whose scores are whose."""

from dataclasses import replace

import numpy as np

from metarl.commands.evaluating.against import comparison
from metarl.evaluation.protocol import Report


def report(family: str, algorithm: str, *means: float) -> Report:
    """Return what an evaluation on eight tasks would say, spread by one around these means."""
    spread = np.linspace(-0.5, 0.5, 8)
    returns = [[mean + one for mean in means] for one in spread]
    rounds = len(means)
    return Report(
        family=family, algorithm=algorithm, split="heldout", seed=0, rollouts_per_task=1,
        task_names=["goal"], tasks=[[float(k)] for k in range(8)], returns=returns,
        experience=list(range(rounds)), iqm=list(means), ci95=[[m - 1, m + 1] for m in means],
        mean=list(means), stand_still=-9.0, env_steps=1, seconds=0.0,
    )  # fmt: skip


BLIND, ORACLE = report("toy", "ppo", 0.0), report("toy+told", "ppo", 10.0)


def test_two_runs_of_one_learner_have_scores_of_their_own() -> None:
    one, two = report("toy", "rl2", 2.0, 4.0), report("toy", "rl2", 6.0, 8.0)
    runs = ("runs/one", "runs/two", "runs/blind", "runs/oracle")
    lines, found = comparison(one, [two, BLIND, ORACLE], runs)
    scores = {name: [round(row[0], 6) for row in rows] for name, rows in found["scores"].items()}
    assert scores == {"rl2 on toy (runs/one)": [0.2, 0.4], "rl2 on toy (runs/two)": [0.6, 0.8]}
    assert [line.split()[-1] for line in lines[1:5]] == list(runs)
    _, same = comparison(one, [one, BLIND, ORACLE], ("a", "a", "b", "c"))
    assert list(same["scores"]) == ["rl2 on toy (a)", "rl2 on toy (a) [2]"]
    _, alone = comparison(one, [BLIND, ORACLE], runs[1:])
    assert list(alone["scores"]) == ["rl2 on toy"]


def test_what_is_missing_is_named_though_the_first_run_is_told() -> None:
    lines, found = comparison(ORACLE, [report("toy", "rl2", 3.0)], ("a", "b"))
    assert (
        lines[-1] == "no adaptation score: add a run of ppo on toy (the blind policy) to --against"
    )
    assert not found
    told = replace(ORACLE, algorithm="rl2")
    lines, _ = comparison(told, [], ("a",))
    assert "ppo on toy (the blind policy) and of ppo on toy+told (the oracle)" in lines[-1]

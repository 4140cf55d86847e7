"""The benchmarks measure what they say: counts of divergences, and the same states replayed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from metarl import TaskDistribution, TaskWorlds, find_family

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

FAILING = '''
import torch
from envs.point import PointGoal
from metarl import Choices, Interval, Param


class Failing(PointGoal):
    """A point whose reward is not a number in the tasks with the value 1."""

    horizon = 4
    params = (Param("bad", Choices((0, 1))), Param("x", Interval(0, 1), ood=(Interval(1, 2),)))

    def reward(self, sim, before, action, task):
        return torch.where(task["bad"] == 1, torch.nan, sim.qpos[:, 0])
'''


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "common", raising=False)

    def load(name: str):
        monkeypatch.delitem(sys.modules, name, raising=False)
        return __import__(name)

    return load


@pytest.mark.parametrize("split", ["train", "ood"])
def test_every_divergence_is_counted(benchmark, tmp_path, split: str) -> None:
    """Ten worlds for 30 env steps are 3 steps: each bad world fails at each of them."""
    divergence = benchmark("divergence")
    (tmp_path / "failing.py").write_text(FAILING)
    name = f"{tmp_path / 'failing.py'}:Failing"
    row = divergence.count_divergences(name, split, 30, 10, 1)
    tasks = divergence.draw(TaskDistribution(find_family(name)), split, 10, 0)
    bad = int(tasks.column("bad").sum())
    assert 0 < bad < 10
    assert (row["env_steps"], row["diverged"], row["tasks"]) == (30, 3 * bad, 10)
    assert row["per_million_steps"] == pytest.approx(1e6 * 3 * bad / 30)
    assert all("bad=1" in label for label in row["examples"])


def test_each_round_has_other_tasks(benchmark) -> None:
    divergence = benchmark("divergence")
    distribution = TaskDistribution(find_family("half-cheetah-dynamics"))
    for split in ("train", "ood"):
        rounds = [divergence.draw(distribution, split, 5, part).values for part in range(3)]
        assert len({row.tobytes() for values in rounds for row in values}) == 15


def test_counts_of_other_families_stay_in_the_file(benchmark, tmp_path, monkeypatch) -> None:
    divergence, path = benchmark("divergence"), tmp_path / "divergence.json"
    for family in ("point-goal", "half-cheetah-dir", "point-goal"):
        words = ["--families", family, "--steps", "20", "--worlds", "10", "--threads", "1"]
        monkeypatch.setattr(sys, "argv", ["divergence.py", *words, "--json", str(path)])
        divergence.main()
    rows = json.loads(path.read_text())["results"]
    assert [(row["family"], row["split"]) for row in rows] == [
        ("half-cheetah-dir", "train"), ("point-goal", "ood"), ("point-goal", "train"),
    ]  # fmt: skip
    assert {row["diverged"] for row in rows} == {0}


def test_the_engine_replays_the_states_of_the_worlds(benchmark) -> None:
    """After its step k the engine is where the worlds were before step k + 1, to the bit."""
    simulation = benchmark("simulation")
    worlds = TaskWorlds("hopper-params", 4, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("heldout", 4), 1)
    worlds.reset()
    replay = simulation.Replay(worlds, torch.rand(simulation.POOL, 4, 3), 6)
    for k in range(5):
        replay.step(k)
        np.testing.assert_array_equal(replay.batch.state, replay.states[k + 1])
    for contender in simulation.family_pair("point-goal", 4, 1, 3):
        assert contender.measure_steps(3) > 0


def test_the_figures_of_the_pages_are_those_of_the_files(benchmark) -> None:
    """`python benchmarks/summarise.py --write` would change no page."""
    summarise = benchmark("summarise")
    for name, (page, _) in summarise.BLOCKS.items():
        text = (summarise.ROOT / page).read_text(encoding="utf-8")
        assert summarise.filled(name, text) == text
    assert "SyncVectorEnv, 400 environments in one process | 21 | 6.16 |" in summarise.text("speed")

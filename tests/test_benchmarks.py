"""The benchmarks measure what they say: counts of divergences, and the same states replayed."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from metarl import TaskDistribution, TaskWorlds, UserError, cli, find_family
from metarl.modules import batched_ppo as ppo

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


POINT = ["--family", "point-goal", "--worlds", "4", "--tasks", "5", "--threads", "1"]


def test_both_libraries_of_ppo_are_timed_and_tested(benchmark, tmp_path, capsys) -> None:
    against, path = benchmark("ppo_against_sb3"), tmp_path / "ppo.json"
    flags = [*POINT, "--env-steps", "81", "--seeds", "3", "4", "--epochs", "2"]
    assert against.main([*flags, "--hidden", "8", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert (result["env_steps"], result["threads"]) == (160, 1)  # whole iterations of 4 x 20
    assert [row["seed"] for row in result["results"]] == [3, 4]
    for row in result["results"]:
        assert {name: len(rates) for name, rates in row["rounds"].items()} == {
            "metarl": 1, "sb3": 1,
        }  # fmt: skip
        assert all(len(row["returns"][name]["heldout"]) == 5 for name in ("metarl", "sb3"))
    means = result["heldout"]["sb3"]["mean_by_seed"]
    assert means[0] != means[1]
    assert "2 seeds, 160 env steps each" in capsys.readouterr().out


def test_both_libraries_of_ppo_do_the_same_work(benchmark, monkeypatch) -> None:
    """As many env steps, and gradient steps, on networks of as many parameters."""
    against = benchmark("ppo_against_sb3")
    args = argparse.Namespace(
        family="point-goal", worlds=4, threads=1, lr=1e-3, hidden=[8, 8], epochs=3, batch_size=40,
        plain=False,
    )  # fmt: skip
    family = find_family("point-goal")
    learner, our_iteration = against.ours(family, args, 1)
    witness, their_iteration = against.theirs(family, args, 1)
    steps = {"ours": 0, "theirs": 0}
    step, adam = ppo.Adam.step, witness.model.policy.optimizer

    def counted(*given):
        steps["ours"] += 1
        return step(*given)

    def count(*_):
        steps["theirs"] += 1

    monkeypatch.setattr(ppo.Adam, "step", counted)
    adam.register_step_post_hook(count)
    for _ in range(2):
        assert our_iteration() > 0
        assert their_iteration() > 0
    assert steps == {"ours": 12, "theirs": 12}
    assert learner.ppo.env_steps == witness.model.num_timesteps == 160
    theirs = sum(p.numel() for p in witness.model.policy.parameters())
    assert learner.params.numel() == theirs + 1  # an std that the critic does not use
    assert float(learner.lr) == adam.param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize(
    "flags", [["--env-steps", "80"], ["--env-steps", "nan"], ["--worlds", "0"]]
)
def test_too_little_to_time_is_one_line(benchmark, flags: list[str]) -> None:
    with pytest.raises(UserError, match="must be"):
        benchmark("ppo_against_sb3").main([*POINT, *flags])


def test_chunks_of_tasks_make_the_same_meta_update(benchmark) -> None:
    args = argparse.Namespace(samples=60, inner_steps=1)
    whole, chunked = (benchmark("maml_memory").measure(6, chunk, args) for chunk in (0, 2))
    assert whole["accepted"] == chunked["accepted"] == 1.0
    assert whole["prior"] == chunked["prior"]


def test_the_model_of_many_ranks_is_that_of_its_page(benchmark, monkeypatch, tmp_path) -> None:
    """By hand: 8 s of computing on 4 ranks, 100 messages of 4 steps of 50 µs each, 1.5 of 1 MB."""
    growth, summarise = benchmark("growth"), benchmark("summarise")
    row = {"seconds_sampling": 6.0, "seconds_update": 2.0, "messages": 100, "bytes": 1e6}
    assert growth.model(row, 4, 1e6) == pytest.approx(8 / 4 + 100 * 4 * 50e-6 + 1.5)
    assert growth.model(row, 1, 1e6) == 8.0
    more = {"algorithm": "rl2", "tasks": 64, "rollouts_per_task": 1, "peak_memory_mib": 300.0}
    more |= {"memory_at_start_mib": 290.0}
    ranks = [row | more | {"ranks": 1, "messages": 0, "bytes": 0}, row | more | {"ranks": 2}]
    result = {"tasks": [row | more], "ranks": ranks, "command": "growth", "date": "today"}
    result |= {"family": "point-goal", "horizon": 5, "rounds": 1, "threads": 1}
    result |= {"hardware": {"cores": 2, "cpu": "a CPU"}}
    page = summarise.growth(result)
    assert "| RL², 1 × 5 steps a task and round | 8 s, 300 MiB |" in page
    ratio = 8 / growth.model(row, 64, 125e6)
    assert page.splitlines()[-2].startswith("| RL² | 1 Gbit/s | 2.0 |")
    assert page.splitlines()[-2].endswith(f"| {ratio:.1f} |")
    assert summarise.growth(result | {"ranks": []}).endswith("By ranks: not measured yet.")
    monkeypatch.setattr(summarise, "RESULTS", tmp_path)
    assert summarise.growth().startswith("Not measured yet")


def test_a_training_from_nothing_is_timed_and_tested(benchmark, tmp_path, monkeypatch) -> None:
    """The command is one that `metarl train` takes, and the page says what it led to."""
    from_nothing, summarise = benchmark("from_nothing"), benchmark("summarise")
    monkeypatch.setattr(type(find_family("half-cheetah-vel")), "horizon", 20)
    small = ["--tasks-per-iteration", "2", "--evaluate-tasks", "2", "--units", "4", "--hidden", "4"]

    def run(command: list[str], *, check: bool) -> argparse.Namespace:
        assert (command[1:3], check) == (["-m", "metarl"], False)
        return argparse.Namespace(returncode=cli.main([*command[3:], *small]))

    monkeypatch.setattr(from_nothing.subprocess, "run", run)
    path = tmp_path / "result.json"
    words = ["--env-steps", "1", "--tasks", "3", "--threads", "1", "--json", str(path)]
    assert from_nothing.main([*words, "--seeds", "4", "5"]) == 0
    result = json.loads(path.read_text())
    assert [(row["seed"], row["env_steps"]) for row in result["results"]] == [(4, 40), (5, 40)]
    assert all(len(row["returns"]) == 2 and row["seconds"] > 0 for row in result["results"])
    result |= {"seconds": 150, "threads": 2, "hardware": {"cpu": "a CPU"}}
    result["results"] = [{"seed": seed, "returns": [-40.0 - seed]} for seed in (1, 2)]
    assert summarise.from_nothing(result) == [
        "`metarl train` with the preset half-cheetah-vel/rl2-fast takes 2.5 minutes on 2 threads "
        "of: a CPU, from nothing to held-out returns of −41, −42 (seeds 1, 2)."
    ]
    with pytest.raises(UserError, match="unknown preset 'none'"):
        from_nothing.main(["--preset", "none"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["throughput", "pearl-update", "iterations", "pearl"])
def test_what_waits_for_a_gpu_runs_without_one(
    name: str, benchmark, tmp_path, monkeypatch, capsys
) -> None:
    """Its least sizes, on Warp's CPU device; a second time it has nothing left to measure."""
    pytest.importorskip("mujoco_warp")
    gpu = benchmark("gpu")
    monkeypatch.chdir(tmp_path)
    argv = ["gpu.py", "--device", "cpu", "--tiny", "--piece", name]
    monkeypatch.setattr(sys, "argv", argv)
    assert gpu.main() == 0
    (got,) = json.loads(Path("gpu-tiny.json").read_text()).values()
    assert got["environment"]["gpu"] is None
    found = {
        "throughput": lambda: got["point-goal"].keys() == {"4", "16"},
        "pearl-update": lambda: got["speedup"],
        "iterations": lambda: {len(row) for row in (got["rl2"], got["maml-trpo"])} == {2},
        "pearl": lambda: got["seconds"] is None and len(got["curve"]) == 2,
    }
    assert found[name]()
    if name in ("throughput", "iterations"):
        capsys.readouterr()
        assert gpu.main() == 0
        assert len(capsys.readouterr().out.splitlines()) == 1
        (again,) = json.loads(Path("gpu-tiny.json").read_text()).values()
        assert again | {"environment": 0} == got | {"environment": 0}

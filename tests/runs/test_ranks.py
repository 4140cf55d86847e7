"""Several processes share the tasks of an iteration, and reach the bits of one."""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from helpers import rank_runs, rank_sums
from helpers.forked_ranks import environment_of_ranks, forked_ranks, free_port
from helpers.process import run_forked
from helpers.small_learners import small
from safetensors.torch import load_file

from metarl.base.distributed import LostRankError, Ranks, ranks, says
from metarl.base.errors import UserError
from metarl.cli import main
from metarl.learning import checkpoint as checkpoints
from metarl.learning.registry import find_learner, list_learners
from metarl.run import start_run
from metarl.runs.config import TrainConfig

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
ROOT = Path(__file__).parents[2]


def launched(size: int, *argv: str, **more) -> subprocess.Popen:
    environment = os.environ | environment_of_ranks() | {"PYTHONPATH": str(ROOT)}
    command = [*TORCHRUN, "--nproc-per-node", str(size), *argv]
    return subprocess.Popen(
        command, env=environment | more, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints.newest(run) / "weights.safetensors")


@pytest.mark.slow
def test_two_ranks_reach_the_bits_of_one(tmp_path) -> None:
    """The runs of one process, and those of two: a test, not a fixture, for they take long."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    importlib.import_module("torch._dynamo")  # as every optimizer does: once, not in each rank
    processes = forked_ranks(2, lambda: rank_runs.train_all(shared, 4))
    rank_runs.train_all(alone, 4)
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    for name in list_learners():
        assert_same_run(alone / name, shared / name)


def assert_same_run(alone: Path, shared: Path) -> None:
    one, two = weights(alone), weights(shared)
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == [], alone.name
    curves = [json.loads((run / "curve.json").read_text()) for run in (alone, shared)]
    for entry in (entry for curve in curves for entry in curve):
        entry.pop("seconds")
    assert curves[0] == curves[1], alone.name
    rows = [(run / "metrics.csv").read_text().splitlines() for run in (alone, shared)]
    header, last = (row.split(",") for row in (rows[1][0], rows[1][-1]))
    two_ranks = dict(zip(header, last, strict=True))
    assert float(two_ranks.pop("megabytes_sent")) > 0, alone.name
    one_rank = dict(zip(rows[0][0].split(","), rows[0][-1].split(","), strict=True))
    timed = {name for name in one_rank if "second" in name}
    assert {k: v for k, v in one_rank.items() if k not in timed} == {
        k: v for k, v in two_ranks.items() if k not in timed
    }, alone.name


@pytest.mark.slow
def test_three_ranks_sum_to_the_bits_of_one() -> None:
    processes = forked_ranks(3, rank_sums.main)
    assert [process.communicate()[0] for process in processes] == ["equal\n"] * 3


def test_shards_change_what_is_computed_and_ranks_do_not(tmp_path) -> None:
    """One shard is what a run without ranks does: the shards are recorded in the run."""
    train = dict(
        tasks_per_iteration=4, rollouts_per_task=1, iterations=1, evaluate_tasks=2, device="cpu",
        progress=False,
    )  # fmt: skip
    config = find_learner("ppo").Config(**small("ppo", 4))
    runs = [
        start_run(
            "point-goal", "ppo",
            TrainConfig(**train, out=str(tmp_path / str(shards)), task_shards=shards), config,
        )
        for shards in (None, 1, 2)
    ]  # fmt: skip
    none, one, two = (weights(run)["params"] for run in runs)
    assert torch.equal(none, one)
    assert not torch.equal(none, two)
    assert json.loads((runs[2] / "config.json").read_text())["train"]["task_shards"] == 2


def test_shards_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="6, which 4 task shards cannot share evenly"):
        TrainConfig(tasks_per_iteration=6, task_shards=4)
    with pytest.raises(UserError, match="4 ranks need at least as many task shards, not 2"):
        Ranks(2, 0, 4)


def test_every_shard_is_owned_once_and_slices_cover_the_tasks() -> None:
    for size in (1, 2, 3, 5):
        every = [Ranks(8, rank, size) for rank in range(size)]
        assert [shard for one in every for shard in one.owned] == list(range(8))
        parts = [part for one in every for part in one.slices(20)]
        assert [i for part in parts for i in range(20)[part]] == list(range(20))


@pytest.mark.parametrize(("shards", "size"), [(5, 3), (8, 4)])
def test_ranks_that_add_up_a_slice_each_reach_the_bits_of_one(shards, size, monkeypatch) -> None:
    """Threads in place of processes; a test of torchrun does it with processes."""
    meet, told = threading.Barrier(size), [torch.empty(0)] * size

    class Dist(NamedTuple):
        rank: int

        def all_gather(self, found: list[torch.Tensor], mine: torch.Tensor) -> None:
            told[self.rank] = mine
            meet.wait()
            for here, there in zip(found, told, strict=True):
                here.copy_(there)
            meet.wait()

        def all_to_all_single(self, found: torch.Tensor, sent: torch.Tensor) -> None:
            told[self.rank] = sent
            meet.wait()
            found.copy_(torch.stack([there[self.rank] for there in told]))
            meet.wait()

    parts = [part.reshape(5, 5) for part in torch.randn(shards, 25).unbind()]
    expected = parts[0].clone()
    for part in parts[1:]:
        expected += part
    assert torch.equal(Ranks(shards).sum(parts), expected)
    monkeypatch.setattr("metarl.base.distributed.SLICED", 25)
    every = [Ranks(shards, rank, size) for rank in range(size)]
    for one in every:
        monkeypatch.setattr(one, "_exchange", lambda call, _, rank=one.rank: call(Dist(rank)))
    with ThreadPoolExecutor(size) as pool:
        sums = list(pool.map(lambda one: one.sum([parts[shard] for shard in one.owned]), every))
    assert all(torch.equal(found, expected) for found in sums)


def test_what_a_rank_tells(monkeypatch) -> None:
    """The first rank speaks for all, and another one of what happened to itself alone."""
    own, lost = UserError("a reward is NaN"), LostRankError("another rank has ended")
    assert says(own)
    assert says(lost)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert not says(own)  # both found it before they met
    assert says(lost)  # it cannot reach the others, who know nothing of that
    monkeypatch.setattr("metarl.base.distributed._joined", True)
    assert [says(e) for e in (own, lost, KeyboardInterrupt())] == [True, False, False]


def test_a_timeout_must_be_seconds(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("METARL_RANK_TIMEOUT", "soon")
    with pytest.raises(UserError, match="must be a number of seconds"):
        ranks(2)


def test_a_learner_with_a_meta_step_of_its_own_is_not_shared(tmp_path) -> None:
    cls = find_learner("ppo")

    class Own(cls):
        def meta_step(self, worlds, tasks, key):
            return super().meta_step(worlds, tasks, key)

    from metarl import TaskDistribution, meta_train
    from metarl.worlds.factory import make_worlds

    worlds = make_worlds("point-goal", 2)
    learner = Own(worlds.spec, Own.Config(), seed=0)
    learner.ranks = Ranks(2)
    config = TrainConfig(
        tasks_per_iteration=4, rollouts_per_task=1, task_shards=2, out=str(tmp_path / "run")
    )
    with pytest.raises(UserError, match="has a meta_step"):
        meta_train(learner, worlds, TaskDistribution(worlds.family), config)


TRAINED = (
    "train", "point-goal", "reptile", "--tasks-per-iteration", "4", "--rollouts-per-task", "2",
    "--iterations", "90", "--evaluate-every", "90", "--evaluate-tasks", "2", "--checkpoint-every",
    "1", "--task-shards", "2", "--device", "cpu", "--hidden", "8",
)  # fmt: skip
"""Of a learner whose process imports little: each rank is one, and each that starts again."""
KILLED = (str(ROOT / "tests" / "helpers" / "command_without_pages.py"), *TRAINED)


def rank_processes(agent: subprocess.Popen) -> list[int]:
    """The processes that torchrun runs now."""
    path = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
    return [int(word) for word in path.read_text().split()]


def newest_step(run: Path) -> int:
    """The iteration of the newest checkpoint, 0 before there is one."""
    return max((int(path.name[5:]) for path in run.glob("checkpoints/step_*")), default=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run of one rank that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    done = run_forked(lambda: main([*TRAINED, "--out", str(run)]))
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
def test_two_launchers_meet_by_rendezvous_and_reach_the_bits_of_one(whole, tmp_path) -> None:
    """As on two machines: each starts torchrun with the same line, and ranks of its own."""
    line = (
        "--nnodes", "2", "--rdzv-id", "test", "--rdzv-backend", "c10d", "--rdzv-endpoint",
        f"127.0.0.1:{free_port()}", "-m", "metarl", *TRAINED, "--out", str(tmp_path / "run"),
    )  # fmt: skip
    machines = [launched(1, *line) for _ in range(2)]
    outputs = [machine.communicate()[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outputs
    assert sum("wrote" in output for output in outputs) == 1  # rank 0 alone tells of the run
    one, two = weights(whole), weights(tmp_path / "run")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_the_run_ends_with_the_same_bits(
    whole, tmp_path
) -> None:
    killed = tmp_path / "killed"
    process = launched(2, "--max-restarts", "2", *KILLED, "--out", str(killed))
    known: list[int] = []
    for rank in (1, 0):
        goal, ranks = newest_step(killed) + 3, known
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:
            ranks = rank_processes(process)  # of before, none, or those started again
            if newest_step(killed) >= goal and len(ranks) == 2 and not set(ranks) & set(known):
                break
            time.sleep(0.005)
        assert process.poll() is None, process.communicate()[0]
        os.kill(ranks[rank], signal.SIGKILL)
        known = ranks
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert " MB sent" in output
    one, two = weights(whole), weights(killed)
    assert all(torch.equal(one[name], two[name]) for name in one)
    curves = [json.loads((run / "curve.json").read_text()) for run in (whole, killed)]
    assert [c["mean"] for c in curves[0]] == [c["mean"] for c in curves[1]]


@pytest.mark.slow
def test_a_rank_that_hangs_is_noticed(tmp_path) -> None:
    process = launched(2, *KILLED, "--out", str(tmp_path / "run"), METARL_RANK_TIMEOUT="5")
    while not list(tmp_path.glob("run/checkpoints/step_00000002")) and process.poll() is None:
        time.sleep(0.05)
    hanging = rank_processes(process)[1]
    os.kill(hanging, signal.SIGSTOP)
    line = "metarl: error: rank 0 stops: another rank did not answer within 5 s"
    seen = ""
    for text in process.stdout or ():
        seen += text
        if line in text:
            break
    os.kill(hanging, signal.SIGKILL)
    seen += process.communicate()[0]
    assert line in seen
    assert process.returncode != 0


def test_rows_that_go_to_other_ranks_are_counted(monkeypatch) -> None:
    sizes: list[int] = []
    ranks = Ranks(3, 0, 3)
    monkeypatch.setattr(ranks, "_exchange", lambda call, size: sizes.append(size))
    ranks.objects([torch.zeros(1000)])
    assert 2 * 4000 < sizes[0] < 2 * 5000  # float32, to two others

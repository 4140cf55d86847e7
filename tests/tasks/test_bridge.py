"""Environments of another interpreter, which is this one, with a suite that is on its path."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from metarl import UserError, cli, evaluate, find_family
from metarl.evaluation.measures import SUCCESS_RATE
from metarl.tasks.bridge import known, worker
from metarl.tasks.bridge.client import Worker, shared_worker
from metarl.worlds.factory import make_worlds

pytestmark = pytest.mark.filterwarnings("ignore:.*AsyncVectorEnv")
SUITE = Path(__file__).parents[1] / "helpers" / "fake_suite"


@pytest.fixture(autouse=True)
def _bridged(monkeypatch, tmp_path):
    monkeypatch.setenv("METARL_BRIDGE_PYTHON", sys.executable)
    monkeypatch.setenv("METARL_BRIDGE_PYTHONPATH", str(SUITE))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_messages_survive_the_crossing():
    sent = {"a": np.arange(6.0).reshape(2, 3), "b": [1, 0.1, None, {"c": np.array([True])}]}
    whole = worker.packed(sent)
    _, text, _ = worker.HEAD.unpack(whole[: worker.HEAD.size])
    got = worker.unpacked(whole[worker.HEAD.size :][:text], whole[worker.HEAD.size + text :])
    assert np.array_equal(got["a"], sent["a"])
    assert got["b"][:3] == sent["b"][:3]
    assert got["b"][3]["c"].tolist() == [True]


def rollout(processes: int) -> tuple[torch.Tensor, torch.Tensor]:
    family = find_family("metaworld:ML10")
    worlds = make_worlds(family, 4, processes)
    worlds.set_tasks(family.distribution.split("train", 4), 1)
    worlds.reset()
    got = [worlds.step(torch.full((4, 2), 0.3)) for _ in range(8)]
    worlds.close()
    return torch.stack([g.next_obs for g in got]), torch.stack([g.reward for g in got])


def test_splits_success_and_bits():
    family = find_family("metaworld:ML10")
    train, heldout = (family.distribution.split(name, 50).values for name in ("train", "heldout"))
    assert {family.tasks_of[int(v)][0] for v in train[:, 0]} == {"reach-v3", "push-v3"}
    assert {family.tasks_of[int(v)][0] for v in heldout[:, 0]} == {"pull-v3"}
    assert heldout[:4, 0].tolist() == [8, 9, 10, 11]  # each once before any occurs twice
    assert [family.tasks_of[int(v)][0] for v in train[:3, 0]] == ["reach-v3", "push-v3", "reach-v3"]
    one, two = rollout(1), rollout(2)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    vector = family.distribution.task_vector(family.distribution.split("train", 3))
    assert vector.shape == (3, 5)  # three environments, two coordinates of the goal

    reach = find_family("metaworld:ML1-reach-v3")
    tasks = reach.distribution.split("heldout", 4)
    worlds = make_worlds(reach, 4, 1)
    goals = torch.tensor([reach.tasks_of[int(v)][1] for v in tasks.values[:, 0]]).float()
    report = evaluate(lambda obs: 2 * (goals - obs[:, :2]), worlds, tasks, episodes=0, seed=1)
    assert report.diagnostics[SUCCESS_RATE] == [[1.0] * 4]
    away = evaluate(lambda obs: obs[:, :2] - goals, worlds, tasks, episodes=0, seed=1)
    assert away.diagnostics[SUCCESS_RATE] == [[0.0] * 4]
    assert "success rate: 1" in "\n".join(report.summary())
    worlds.close()


TRAIN = ["train", "metaworld:ML1-reach-v3", "maml-trpo", "--iterations", "3", "--hidden", "4",
         "--tasks-per-iteration", "2", "--rollouts-per-task", "2", "--evaluate-tasks", "2",
         "--evaluate-episodes", "1", "--evaluate-every", "3", "--no-progress", "--threads", "1",
         "--video-every", "0"]  # fmt: skip


def test_a_killed_worker_is_one_line_and_resumes_to_the_same_bits(tmp_path, monkeypatch, capsys):
    from helpers.runs import digest

    pids = tmp_path / "pids"
    monkeypatch.setenv("FAKE_SUITE_PIDS", str(pids))
    assert cli.main([*TRAIN, "--out", str(tmp_path / "whole")]) == 0
    steps = len(pids.read_text().splitlines())
    pids.unlink()
    monkeypatch.setenv("FAKE_SUITE_DIES", str(steps * 2 // 3))
    capsys.readouterr()
    assert cli.main([*TRAIN, "--out", str(tmp_path / "killed")]) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("metarl: error")]
    assert len(lines) == 1
    assert "SIGKILL" in lines[0]
    monkeypatch.delenv("FAKE_SUITE_DIES")
    assert cli.main(["train", "--resume", str(tmp_path / "killed"), "--no-progress"]) == 0
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def test_what_goes_wrong_is_one_line(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="interpreter '/nowhere' cannot be started"):
        Worker("/nowhere", "metaworld")
    monkeypatch.setenv("METARL_BRIDGE_PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match=r"metaworld cannot be imported there.*-m pip install"):
        Worker(sys.executable, "metaworld")
    with pytest.raises(UserError, match="ended in 'hello' with exit code 0"):
        Worker("/bin/true", "metaworld")
    monkeypatch.delenv("METARL_BRIDGE_PYTHON")
    with pytest.raises(UserError, match="metarl bridge metaworld --python PATH"):
        known.interpreter("metaworld")
    with pytest.raises(UserError, match="ML10, ML25, ML45 and ML1-NAME"):
        find_family("metaworld:ML11")


def test_another_protocol_and_a_hang(monkeypatch):
    process = shared_worker(sys.executable, "metaworld")
    os.kill(process.process.pid, signal.SIGSTOP)
    process._timeout = 0.2
    began = time.monotonic()
    with pytest.raises(UserError, match=r"did not answer 'make' for 0.2 s and was killed"):
        process.ask("make", name="ML10", render_mode=None)
    assert time.monotonic() > began
    assert not process.alive
    monkeypatch.setattr(worker, "PROTOCOL", 2)
    with pytest.raises(UserError, match="speaks protocol 1, and this metarl 2"):
        Worker(sys.executable, "metaworld")


def test_the_command_checks_remembers_and_lists(capsys, monkeypatch):
    monkeypatch.delenv("METARL_BRIDGE_PYTHON")
    assert cli.main(["bridge", "metaworld", "--python", sys.executable]) == 0
    assert "metaworld:ML1-reach-v3" in capsys.readouterr().out
    assert known.interpreter("metaworld") == sys.executable
    assert cli.main(["bridge"]) == 0
    assert sys.executable in capsys.readouterr().out
    assert cli.main(["bridge", "gymnasium", "Pendulum-v1", "--python", sys.executable]) == 0
    assert "200 steps" in capsys.readouterr().out
    assert find_family("gymnasium:Pendulum-v1").horizon == 200

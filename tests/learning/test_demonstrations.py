"""Demonstrations: what is recorded, the file, and who is shown them."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.demonstrations import demonstrated, demonstrations_file, goes_there
from helpers.refusals import refused
from helpers.teacher import teacher

from envs.point import PointGoal
from metarl import Demonstrations, Key, TaskWorlds, UserError, collect, evaluate, find_learner
from metarl.cli import main
from metarl.learning.adaptation import load_adapted
from metarl.learning.checkpoint import save
from metarl.learning.demonstrations import DEMONSTRATED, KEY
from metarl.learning.demonstrator import first_episodes, record
from metarl.learning.imitation import Shown, pairs
from metarl.worlds.policy import as_policy


@pytest.fixture(autouse=True)
def _short(monkeypatch) -> None:
    monkeypatch.setattr(PointGoal, "horizon", 8)


def test_an_oracle_is_recorded_as_the_plain_family_observes() -> None:
    """The same actions in the plain family's worlds, from the same states, give the same file."""
    found = demonstrated("train", 3, 3)
    assert found.tasks.family == "point-goal"
    assert found.about["agent"] == {"family": "point-goal+told", "algorithm": "function"}
    worlds = TaskWorlds("point-goal", 9, 1)
    tasks = worlds.family.distribution.split("train", 3)
    assert np.array_equal(tasks.values, found.tasks.values)
    worlds.set_tasks(tasks, 3)
    worlds.seed(Key(Key("demonstrations", 0).seed(), "evaluate").fold("score", 0))
    obs, total = [worlds.reset()], torch.zeros(9, dtype=torch.float64)
    for t in range(8):
        got = worlds.step(found.action.flatten(0, 1)[:, t])
        obs.append(got.next_obs)
        total += got.reward.float()
    assert torch.equal(torch.stack(obs, 1), found.obs.flatten(0, 1))
    torch.testing.assert_close(total, found.returns.flatten())
    assert (found.length == 8).all()
    assert not found.terminated.any()


def test_nobody_is_tested_on_the_episode_that_was_shown() -> None:
    found, worlds = demonstrated("train", 3, 3), TaskWorlds("point-goal", 9, 1)
    starts = []
    evaluate(
        lambda obs: starts.append(obs) or torch.zeros(9, 2), worlds, found.tasks, episodes=0, seed=0
    )
    assert not (starts[0] == found.obs[:, :, 0].flatten(0, 1))[:, :2].any()


def test_only_the_first_episode_counts_up_to_its_end_or_divergence() -> None:
    """World 0 fails at step 2, world 1 diverges at step 5, world 2 goes on to the horizon."""
    worlds = TaskWorlds("point-goal", 3, 1)
    tasks = worlds.family.distribution.split("train", 1)
    worlds.set_tasks(tasks, 3)
    worlds.seed(Key(0))
    worlds.reset()
    data = collect(worlds, goes, None, 8, Key(0), explore=False)[0]
    data.terminated[2, 0] = data.diverged[5, 1] = True
    found = first_episodes(data, tasks, "train", 4, {})
    assert found.length.tolist() == [[3, 5, 8]]
    assert found.terminated.tolist() == [[True, False, False]]
    assert torch.equal(found.obs[0, 0, :3], data.obs[:3, 0])
    assert torch.equal(found.obs[0, 0, 3], data.next_obs[2, 0])
    assert not found.obs[0, 0, 4:].any()
    assert not found.action[0, 1, 5:].any()
    torch.testing.assert_close(found.returns[0, 1], data.reward[:5, 1].double().sum())
    shown = found.rollout([0], torch.tensor([[1, 0]]))
    assert shown.extras[DEMONSTRATED].sum(0).tolist() == [5, 3]
    assert torch.equal(shown.next_obs[:3, 1], data.next_obs[:3, 0])
    assert (shown.terminated.sum(0).tolist(), shown.truncated.sum(0).tolist()) == ([0, 1], [1, 0])
    data.diverged[0, 2] = True
    with pytest.raises(UserError, match="diverged at the first step of 1 episode"):
        first_episodes(data, tasks, "train", 4, {})


def goes(obs: torch.Tensor) -> torch.Tensor:
    return torch.full((len(obs), 2), 2.0)


def test_the_file_survives_a_round_trip(tmp_path) -> None:
    found = demonstrated("heldout", 2, 2)
    path = found.save(tmp_path / "new" / "demos.safetensors")
    again = Demonstrations.load(path)
    assert again.tasks == found.tasks
    assert (again.split, again.about) == (found.split, dict(found.about))
    assert all(torch.equal(t, found.tensors()[name]) for name, t in again.tensors().items())
    with safetensors.safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[KEY])
    assert header["returns"] == found.returns.tolist()
    assert (header["horizon"], header["observation_size"], header["action_size"]) == (8, 4, 2)
    assert header["sha256"] == again.digest
    assert found.save(tmp_path / "two").read_bytes() == path.read_bytes()


def written(path, header=None, **tensors):
    """A file whose header and tensors are changed by hand, without a right digest."""
    found = demonstrated("heldout", 2, 2)
    body = found.header() | {"sha256": "0"} | (header or {})
    path.write_bytes(safetensors.torch.save(found.tensors() | tensors, {KEY: json.dumps(body)}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: None, "is missing"),
        (lambda p: p.write_bytes(b""), "not a file of demonstrations"),
        (lambda p: p.write_bytes(b"\xff" * 100), "not a file of demonstrations"),
        (lambda p: os.mkfifo(p), "no regular file"),
        (lambda p: p.write_bytes(safetensors.torch.save({"a": torch.zeros(1)})), "metadata hold"),
        (lambda p: written(p), "changed after it was written"),
        (lambda p: written(p, {"format": 9}), "its format is 9"),
        (lambda p: written(p, {"horizon": 10**9}), "obs has shape .* and its header says"),
        (lambda p: written(p, {"tasks": {"values": 3}}), "not a file of demonstrations"),
        (lambda p: written(p, more=torch.zeros(1)), "its tensors are"),
        (lambda p: written(p, obs=torch.zeros(2, 2, 9, 4).half()), "obs is of type F16"),
    ],
)  # fmt: skip
def test_a_strangers_file_is_refused_in_one_line(tmp_path, spoil, message: str) -> None:
    path = tmp_path / "demos"
    spoil(path)
    with refused(match=message):
        Demonstrations.load(path)


def test_one_changed_bit_and_a_cut_file_are_found(tmp_path) -> None:
    path = demonstrated("heldout", 2, 2).save(tmp_path / "demos")
    whole = path.read_bytes()
    for spoiled in (whole[:-1], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]):
        path.write_bytes(spoiled)
        with pytest.raises(UserError, match=r"demos' is not a file|cannot be used"):
            Demonstrations.load(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("obs", torch.full((2, 2, 9, 4), torch.nan), "obs holds numbers that are not finite"),
        ("obs", torch.zeros(2, 2, 8, 4), "obs has shape"),
        ("action", torch.full((2, 2, 8, 2), 2.0), "an action is not in"),
        ("action", torch.zeros(0, 2, 8, 2), "have shapes"),
        ("length", torch.full((2, 2), 9), "an episode's length is not from 0 to 8"),
        ("terminated", torch.zeros(2, 2), "terminated is of torch.float32"),
        ("split", "test", "is none of train, heldout, ood, chosen"),
    ],
)
def test_wrong_numbers_are_refused(name: str, value, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(demonstrated("heldout", 2, 2), **{name: value})


def test_each_world_is_shown_another_demonstration_each_round() -> None:
    """Round k shows world e demonstration e + k; then its own episodes follow."""
    learner = find_learner("mil")(TaskWorlds("point-goal", 1, 1).spec, find_learner("mil").Config())
    found, seen = demonstrated("heldout", 2, 2), []
    learner.adapt = lambda state, rollout: seen.append(rollout) or state
    worlds = TaskWorlds("point-goal", 6, 1)
    report = evaluate(Shown(learner, found, found.tasks), worlds, found.tasks, episodes=3, seed=0)
    assert report.experience == [0, 1, 2, 3]
    for k in range(2):
        for m in range(2):
            for e in range(3):
                expected = found.action[m, (e + k) % 2]
                assert torch.equal(seen[k].action[:, 3 * m + e], expected)
    assert DEMONSTRATED not in seen[2].extras


def test_what_cannot_be_shown_is_refused() -> None:
    found = demonstrated("heldout", 2, 2)
    mil, ppo = (
        find_learner(n)(TaskWorlds(f, 1, 1).spec, find_learner(n).Config())
        for n, f in (("mil", "half-cheetah-vel"), ("ppo", "point-goal"))
    )
    with pytest.raises(UserError, match="ppo does not adapt to demonstrations"):
        Shown(ppo, found, found.tasks)
    with pytest.raises(UserError, match="with 4 observed numbers and 2 actions, and mil is for 17"):
        Shown(mil, found, found.tasks)
    with pytest.raises(UserError, match="2 heldout tasks of point-goal, and not of goal_x="):
        found.rows_of(demonstrated("train", 3, 3).tasks)


def test_pairs_are_of_two_and_those_of_a_task_do_not_depend_on_the_others() -> None:
    whole = pairs(Key(1), 0, 4, 30, 3)
    assert (whole[..., 0] != whole[..., 1]).all()
    assert torch.equal(pairs(Key(1), 2, 2, 30, 3), whole[:, 2:])
    assert set(whole.flatten().tolist()) == {0, 1, 2}


def test_from_the_command_line(tmp_path, capsys) -> None:
    """Record with an oracle, train on it, evaluate and adapt with demonstrations."""
    train, heldout, chosen = (str(tmp_path / f"{name}.safetensors") for name in "abc")
    oracle = teacher(hidden=(8,))
    how = ["--threads", "1"]
    small = ["--tasks", "2", "--episodes", "2", *how]
    assert main(["demos", oracle, *small, "--out", train]) == 0
    assert f"wrote {train}: " in capsys.readouterr().out
    assert main(["demos", oracle, *small, "--split", "heldout", "--out", heldout]) == 0
    assert main(["demos", oracle, "--set", "goal_x=0.5", *how, "--out", chosen]) == 0
    run = str(tmp_path / "run")
    words = ["--tasks-per-iteration", "2", "--rollouts-per-task", "1", "--iterations", "1"]
    words += ["--evaluate-tasks", "2", "--hidden", "8", "--no-progress", "--out", run, *how]
    files = ["--demos", train, "--heldout-demos", heldout]
    assert main(["train", "point-goal", "mil", *words, *files]) == 0
    entry = json.loads((tmp_path / "run" / "curve.json").read_text())[-1]
    assert entry["before"] != entry["after"]
    out = tmp_path / "report.json"
    words = [run, "--tasks", "2", "--episodes", "1", *how, "--demos", heldout]
    assert main(["evaluate", *words, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["demonstrations"]["sha256"] == Demonstrations.load(heldout).digest
    assert report["mean"][0] != report["mean"][1]
    words = [run, "--set", "goal_x=0.5", *how, "--demos", chosen, "--out", str(tmp_path / "policy")]
    assert main(["adapt", *words]) == 0
    assert load_adapted(tmp_path / "policy")[1].shown > 0
    capsys.readouterr()
    assert main(["evaluate", run, "--tasks", "3", *how, "--demos", heldout]) == 2
    assert "2 heldout tasks of point-goal, and not of" in capsys.readouterr().err
    words = [oracle, "--tasks", "2", "--rollouts-per-task", "1", *how, "--demos", heldout]
    assert main(["evaluate", *words]) == 2
    assert "does not adapt to demonstrations" in capsys.readouterr().err


def test_an_agent_that_adapts_first_demonstrates_its_last_round() -> None:
    worlds = TaskWorlds("point-goal", 4, 1)
    tasks = worlds.family.distribution.split("train", 2)
    cls, steps = find_learner("maml-trpo"), []
    learner = cls(worlds.spec, cls.Config(hidden=(8,), inner_lr=5.0))
    one, two = (
        record(learner, worlds, tasks, rounds=k, progress=lambda done, total: steps.append(total))
        for k in (0, 2)
    )
    assert not torch.allclose(one.action, two.action, atol=1e-2)
    assert steps == [8] * 8 + [40] * 40


def test_the_learner_in_python_adapts_to_demonstrations(tmp_path) -> None:
    found, cls = demonstrated("heldout", 1, 2), find_learner("mil")
    learner = cls(TaskWorlds("point-goal", 1, 1).spec, cls.Config(hidden=(8,)))
    how = {"family": PointGoal(), "episodes": 1, "num_envs": 2}
    policy = learner.adapted(found.tasks[0], **how, demonstrations=found)
    assert policy.state.shown == 1
    assert learner.adapted(found.tasks[0], **how).state.shown == 0
    assert save(tmp_path, learner, family="point-goal", step=0, meta={}).is_dir()
    assert demonstrations_file()


def test_records_are_the_same_on_any_number_of_threads() -> None:
    worlds = TaskWorlds("point-goal+told", 9, 4)
    tasks = worlds.family.distribution.split("train", 3)
    again = record(as_policy(goes_there), worlds, tasks, split="train")
    one = demonstrated("train", 3, 3)
    assert all(torch.equal(t, one.tensors()[name]) for name, t in again.tensors().items())


def test_the_first_tasks_are_those_of_the_file() -> None:
    found = Demonstrations.load(demonstrations_file(tasks=3))
    two = found.first(2)
    assert len(two.tasks) == 2
    assert np.array_equal(two.tasks.values, found.tasks.values[:2])
    assert torch.equal(two.obs, found.obs[:2])
    assert two.returns.shape == (2, found.per_task)
    with refused("of 3 tasks, and not of 4: record more with `metarl demos --tasks 4`"):
        found.first(4)

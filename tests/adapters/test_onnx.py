"""Policies as ONNX models: the same actions, over an episode, with memory and statistics."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.refusals import refused
from helpers.small_learners import small

from metarl import TaskWorlds, UserError, find_family, find_learner
from metarl.adapters.onnx import one_world, outside, write_onnx
from metarl.base.keys import Key
from metarl.cli import main
from metarl.learning.adaptation import load_adapted
from metarl.learning.registry import list_learners
from metarl.worlds.rollout import collect
from metarl.worlds.vector import Step

onnxruntime = pytest.importorskip("onnxruntime")
LOOP = Path(__file__).parents[2] / "docs" / "examples" / "robot_loop.py"
OWN = str(LOOP.with_name("own_robot.py")) + ":OwnRobot"
STEPS = 30
PLANNERS = ("grbal", "mole", "rebal")
NOT_TRACED = (*PLANNERS, "amago")  # whose memory is a transformer
VARIANTS = [(name, {}) for name in list_learners() if name not in NOT_TRACED] + [
    ("amago", {"memory": "gru"}),
    ("ppo", {"history": 3}),
    *(("rl2", {"memory": memory}) for memory in ("lstm", "mingru")),
]


def loop(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The control loop of the docs, on a model."""
    monkeypatch.chdir(path.parent)
    names: dict = {}
    exec(LOOP.read_text(encoding="utf-8"), names)
    return names


ALIKE = ("contextual-bc", "es-maml", "finetune", "ftml", "mil", "reptile", "promp")
"""Learners whose adapted policy is what that of another one is, too."""


@pytest.mark.parametrize(
    ("name", "settings"),
    [pytest.param(*one, marks=[pytest.mark.slow] if one[0] in ALIKE else []) for one in VARIANTS],
    ids=lambda value: str(value),
)
def test_a_model_acts_as_the_policy_does(name, settings, tmp_path, monkeypatch) -> None:
    """Over an episode and the beginning of the next, the rewards told; controls are those given."""
    family = find_family("half-cheetah-vel")
    monkeypatch.setattr(type(family), "horizon", STEPS - 5)
    acts_as_in_the_worlds(TaskWorlds(family, 1, 1), name, settings, tmp_path, monkeypatch)


def acts_as_in_the_worlds(worlds, name, settings, tmp_path, monkeypatch) -> None:
    cls = find_learner(name)
    learner = cls(worlds.spec, cls.Config(**settings), seed=1)
    write_onnx(learner, learner.begin(1, 1), worlds.family, tmp_path / "policy.onnx")
    controls = []
    rollout, _ = collect(
        worlds, learner, learner.begin(1, 1), STEPS, Key(0), explore=False,
        on_step=lambda _: controls.append(worlds.simulator.ctrl[0].clone()),
    )  # fmt: skip
    robot = loop(tmp_path / "policy.onnx", monkeypatch)
    for t in range(STEPS):
        robot["reward"] = float(rollout.prev_reward[t, 0])
        robot["first"] = bool(rollout.first[t, 0])
        if not t:
            robot["action"] = rollout.prev_action[0].numpy()
        elif rollout.first[t, 0]:  # what the worlds tell of the last episode
            robot["action"] = rollout.prev_action[t].numpy()
        control = robot["step"](rollout.obs[t, 0].numpy())
        expected = rollout.action[t, 0].clamp(-1, 1).numpy()
        np.testing.assert_allclose(robot["action"][0], expected, rtol=0, atol=1e-5)
        # where an episode ends, the world has begun the next one
        if not rollout.done[t, 0] and not outside(worlds.family):
            np.testing.assert_allclose(control, controls[t].numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["quadruped-vel", "quadruped-vel+history+push"])
def test_what_the_controller_has_to_do_is_named(name, tmp_path) -> None:
    """The family's own `act` is; pushes are the simulator's, and a history is observed."""
    worlds, cls = TaskWorlds(name, 1, 1), find_learner("ppo")
    learner = cls(worlds.spec, cls.Config(hidden=(4,)), seed=0)
    about = write_onnx(learner, learner.begin(1, 1), worlds.family, tmp_path / "a.onnx")
    assert about["outside"] == ["QuadrupedVel.act"]
    assert outside(find_family("half-cheetah-vel")) == []


@pytest.mark.parametrize(("family", "name", "settings"), [
    (OWN, "rl2", {"units": 16}), (OWN, "ppo", {"history": 3}), ("quadruped-vel", "rma", {}),
])  # fmt: skip
def test_a_robot_under_pd_control_acts_as_in_the_worlds(
    family, name, settings, tmp_path, monkeypatch
) -> None:
    worlds = TaskWorlds(find_family(family), 1, 1)
    acts_as_in_the_worlds(worlds, name, settings, tmp_path, monkeypatch)


def test_what_the_metadata_says(tmp_path) -> None:
    assert main(["export", "half-cheetah-vel-rl2", "--onnx", str(tmp_path / "a.onnx")]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
    about = json.loads(session.get_modelmeta().custom_metadata_map["metarl"])
    family = find_family("half-cheetah-vel")
    assert about["dt"] == pytest.approx(0.05)
    assert about["actuators"] == ["bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"]
    assert about["commands"]["high"] == family.command_map.high.tolist()
    memory = about["state"]["state.memory.0"]
    assert np.shape(memory["begin"]) == tuple(memory["shape"]) == (1, 128)


def test_an_adapted_policy_has_the_weights_that_it_adapted_to(tmp_path, trained_run) -> None:
    adapted = str(tmp_path / "adapted")
    argv = ["--set", "goal_x=0.5", "--set", "goal_y=0", "--episodes", "1", "--threads", "1"]
    assert main(["adapt", str(trained_run), *argv, "--out", adapted]) == 0
    assert main(["export", adapted, "--onnx", str(tmp_path / "a.onnx")]) == 0
    learner, state = load_adapted(adapted)
    obs = torch.ones(1, 4)
    step = Step(obs, torch.zeros(1, 2), torch.zeros(1), torch.ones(1, dtype=torch.bool))
    other = state._replace(params=state.params + 0.1)
    write_onnx(learner, other, find_family("point-goal"), tmp_path / "b.onnx")
    for one, path in ((state, "a.onnx"), (other, "b.onnx")):
        session = onnxruntime.InferenceSession(str(tmp_path / path))
        assert [part.name for part in session.get_inputs()] == ["obs"]
        action = session.run(["action"], {"obs": obs.numpy()})[0]
        expected = learner.act(step, one, explore=False, noise=None)[0]
        np.testing.assert_allclose(action, expected.detach().numpy(), rtol=0, atol=1e-5)


def test_a_state_of_several_worlds_is_cut_to_the_first() -> None:
    cls = find_learner("rl2")
    learner = cls(TaskWorlds("point-goal", 1, 1).spec, cls.Config(units=8), seed=0)
    state = learner.begin(1, 3)
    state = state._replace(memory=(torch.arange(24.0).reshape(3, 8),))
    assert one_world(learner, state).memory[0].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, {}) for name in NOT_TRACED]
    + [("rl2", {"memory": memory}) for memory in ("s5", "transformer", "snail")],
)
def test_what_plans_or_looks_back_is_refused_in_one_line_alone(
    name, settings, tmp_path, capfd
) -> None:
    """Torch prints the whole graph of s5, from C++."""
    worlds, cls = TaskWorlds("half-cheetah-vel", 1, 1), find_learner(name)
    learner = cls(worlds.spec, cls.Config(**(settings or small(name, 1))), seed=0)
    capfd.readouterr()
    with refused("cannot be written to ONNX"):
        write_onnx(learner, learner.begin(1, 1), worlds.family, tmp_path / "a.onnx")
    print("after")
    assert capfd.readouterr() == ("after\n", "")


class Jumping(find_learner("ppo")):  # type: ignore[misc]
    """Python decides by what it has seen, which a trace cannot."""

    name = "jumping"

    def act(self, step, state, *, explore, noise):
        action, state = super().act(step, state, explore=explore, noise=noise)
        return (action if float(step.obs.sum()) > 0 else -action), state


def test_what_cannot_be_traced_is_refused_and_leaves_no_file(tmp_path) -> None:
    worlds = TaskWorlds("point-goal", 1, 1)
    learner = Jumping(worlds.spec, Jumping.Config(hidden=(4,)), seed=0)
    with pytest.raises(UserError, match="the actions of the model differ"):
        write_onnx(learner, learner.begin(1, 1), worlds.family, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["--onnx", "a.txt"], "name the model such as policy.onnx"),
     (["--onnx", "a.onnx", "--out", "b"], "writes a model and no folder")],
)  # fmt: skip
def test_bad_input(argv, words, capsys, trained_run) -> None:
    assert main(["export", str(trained_run), *argv]) == 2
    assert words in capsys.readouterr().err


def test_without_the_extra_a_line_names_it(monkeypatch, capsys, trained_run) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(trained_run), "--onnx", "a.onnx"]) == 2
    assert "pip install 'metarl-toolkit[onnx]'" in capsys.readouterr().err

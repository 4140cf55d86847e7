"""The short way in Python."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers.refusals import refused
from stable_baselines3.common.evaluation import evaluate_policy

import metarl
from metarl import UserError
from metarl.adapters import SB3VecEnv
from metarl.algorithms import DistilConfig, MamlTrpo, MamlTrpoConfig, Pearl, Rl2, Rl2Config
from metarl.base import threads
from metarl.learning.registry import find_learner
from metarl.modules.settings import Settings, for_others

SMALL = {
    "tasks_per_iteration": 2, "rollouts_per_task": 2, "evaluate_tasks": 2, "evaluate_episodes": 1,
    "threads": 1, "device": "cpu", "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> metarl.Run:
    out = str(tmp_path_factory.mktemp("api") / "run")
    return metarl.train(
        "point-goal", "maml-trpo", iterations=2, env_steps=None, hidden=(8,), out=out, **SMALL
    )


def test_a_run_has_its_learner_and_its_report(run) -> None:
    assert isinstance(run.learner, MamlTrpo)
    assert run.learner.config.hidden == (8,)
    assert run.learner.family == "point-goal"
    assert len(run.report.mean) == 2
    assert (run.path / "checkpoints" / "step_00000002").is_dir()


def test_a_number_of_steps_may_be_written_as_a_float(tmp_path) -> None:
    run = metarl.train(
        "point-goal", "maml-trpo", env_steps=1e3, hidden=(8,), out=str(tmp_path / "run"), **SMALL
    )
    assert len(run.report.mean) == 2


def test_a_learner_may_have_a_setting_that_is_called_paths() -> None:
    @dataclass(frozen=True)
    class Config(Settings):
        paths: int = 8

    assert for_others(Config()) == {"paths": 8}


def test_a_path_that_no_file_can_have_is_kept_as_it_is() -> None:
    assert DistilConfig(teacher="x" * 5000).teacher == "x" * 5000


def test_a_setting_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(UserError, match=r"maml-trpo has no setting 'iner_lr' \(did you mean"):
        metarl.train("point-goal", "maml-trpo", iner_lr=0.1)


def test_a_run_a_folder_and_an_agent_are_evaluated_alike(run) -> None:
    one = metarl.evaluate(run, tasks=3, episodes=1, threads=1)
    two = metarl.evaluate(str(run.path), tasks=3, episodes=1, threads=1)
    assert one.returns == two.returns
    assert (one.split, len(one.tasks), one.rollouts_per_task) == ("heldout", 3, 2)
    shipped = metarl.evaluate(
        "half-cheetah-vel-rl2", tasks=1, episodes=0, rollouts_per_task=1, split="ood", threads=1
    )
    assert (shipped.algorithm, shipped.split) == ("rl2", "ood")


def test_training_and_evaluating_give_the_thread_counts_back(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(threads, "_threads", None)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        metarl.evaluate(run, tasks=1, episodes=0, threads=1)
        out = str(tmp_path / "run")
        metarl.train("point-goal", "maml-trpo", iterations=1, hidden=(8,), out=out, **SMALL)
        assert torch.get_num_threads() == 3
        assert threads.physics_threads() == threads.available_cores()
    finally:
        torch.set_num_threads(before)


def test_a_function_is_evaluated_in_worlds_of_ones_own() -> None:
    worlds = metarl.make_worlds("point-goal", 4, 1)
    report = metarl.evaluate(lambda obs: torch.zeros(len(obs), 2), worlds, 2, episodes=1)
    assert report.mean == pytest.approx([report.stand_still] * 2, abs=0.5)
    with pytest.raises(UserError, match="needs worlds"):
        metarl.evaluate(lambda obs: obs)


def test_what_load_returns_adapts_and_predicts(run) -> None:
    learner = metarl.load(run.path)
    policy = learner.adapted({"goal_x": 0.5}, episodes=2, rollouts=4)
    assert len(policy.returns) == 3
    action, state = policy.predict(np.zeros(policy.learner.spec.observation_size))
    assert action.shape == (2,)
    assert state is None
    assert policy.predict(np.zeros((3, learner.spec.observation_size)))[0].shape == (3, 2)
    with pytest.raises(UserError, match="deterministic"):
        policy.predict(np.zeros(learner.spec.observation_size), deterministic=False)


@pytest.mark.parametrize("name", ["maml-trpo", "rl2", "pearl"])
def test_an_adapted_policy_acts_in_sb3_as_in_its_own_worlds(name: str) -> None:
    cls = find_learner(name)
    learner = cls(metarl.make_worlds("point-goal", 1, 1).spec, cls.Config(), seed=0)
    task = {"goal_x": 0.5, "goal_y": -0.5}
    policy = learner.adapted(task, family="point-goal", episodes=1, num_envs=2, rollouts=2)
    env = SB3VecEnv("point-goal", 2, task=task, threads=1)
    env.seed(3)
    mean, _ = evaluate_policy(policy, env, n_eval_episodes=2, callback=policy.sb3_callback)
    again = learner.adapted(task, family="point-goal", episodes=1, num_envs=2, rollouts=2)
    env = SB3VecEnv("point-goal", 2, task=task, threads=1)
    env.seed(3)
    obs, reward, done, total = env.reset(), None, None, np.zeros(2)
    for _ in range(learner.spec.horizon):
        action, _ = again.predict(obs, reward, done)
        obs, reward, done, _ = env.step(action)
        total += reward
        if done.all():
            break
    assert mean == pytest.approx(float(total.mean()), rel=1e-5)


def test_algorithms_are_imported_by_their_class() -> None:
    assert (MamlTrpo.Config, Rl2.Config) == (MamlTrpoConfig, Rl2Config)
    assert Pearl.name == "pearl"


POINT = {"goal_x": 0.1, "goal_y": 0.1}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metarl.train(None, "rl2"), "family: give a name, or 'file.py:Class'"),  # type: ignore[arg-type]
        (lambda: metarl.train("point-goal", metarl.TaskWorlds), "algorithm: give a name, or"),  # type: ignore[arg-type]
        (lambda: metarl.train("point-goal", "maml-trpo", hidden=64), "hidden must be a tuple of"),
        (lambda: metarl.train("point-goal", "maml-trpo", gamma=(0.9,)), "gamma must be one number"),
        (lambda: metarl.train("point-goal", "maml-trpo", out="a\0b"), "out must be the name of a"),
        (lambda: metarl.train("point-goal", "maml-trpo", first_order="no"), "first_order must be"),
        (lambda: metarl.evaluate(5), "evaluate needs worlds"),  # type: ignore[arg-type]
        (lambda: metarl.load(5), "give a run's folder or an agent's name, not 5"),  # type: ignore[arg-type]
        (lambda: metarl.load("a" * 5000), "File name too long"),
        (lambda: metarl.load("half-cheetah-vel-rl2", device="gpu"), "device must be auto, cpu or"),
        (
            lambda: metarl.TaskWorlds("point-goal", 10**12),
            "must be at least 1 and at most 1000000, not",
        ),
        (
            lambda: metarl.TaskWorlds("point-goal", "4"),
            "must be at least 1 and at most 1000000, not '4'",
        ),  # type: ignore[arg-type]
        (lambda: metarl.TaskWorlds(5, 2), "a family is its name or a TaskFamily, not 5"),  # type: ignore[arg-type]
        (lambda: metarl.adapters.SB3VecEnv("point-goal", 10**12), "must be at least 1 and at most"),
    ],
)
def test_a_wrong_argument_is_one_sentence(call, words: str) -> None:
    with refused(words):
        call()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"worlds": "point-goal"},
            "evaluate needs worlds to let a policy act in, not 'point-goal'",
        ),
        ({"tasks": [1, 2]}, "tasks must be Tasks, such as family.distribution.split"),
        ({"tasks": 2.0}, "tasks must be Tasks"),
        ({"tasks": 10**12}, "the number of tasks must be at least 1 and at most 1000000"),
        ({"split": None}, "unknown split 'None'"),
        (
            {"episodes": 1.5},
            "episodes must be a whole number of at least 0 and at most 10000, not 1.5",
        ),
        ({"episodes": 10**12}, "episodes must be a whole number of at least 0 and at most 10000"),
        ({"policy": lambda obs: None}, "the policy returned NoneType, and not a tensor"),
        ({"policy": lambda obs: obs.numpy()}, "the policy returned ndarray"),
        ({"policy": type("P", (), {})}, "a policy is a learner, or a function of observations"),
    ],
)
def test_what_evaluate_cannot_use_is_named(arguments: dict, words: str) -> None:
    worlds = metarl.TaskWorlds("point-goal", 2, 1)
    given = {"policy": lambda obs: obs[:, :2], "worlds": worlds, "tasks": 2, **arguments}
    with pytest.raises(metarl.UserError, match=re.escape(words)):
        metarl.evaluate(**given)


@pytest.mark.parametrize(
    "task", [None, 5, [0.1], "goal_x=1", {5: 1}, {"goal_x": "a"}, {"goal_x": [1]}]
)
def test_what_is_no_task_is_named(task: object) -> None:
    learner = Rl2(metarl.TaskWorlds("point-goal", 1, 1).spec, Rl2Config())
    learner.family = "point-goal"
    with pytest.raises(
        metarl.UserError, match=r"a task is a dictionary|must be finite, and a number"
    ):
        learner.adapted(task)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["load_state_dict", "load_policy_state_dict"])
def test_weights_of_whole_numbers_are_refused(method: str) -> None:
    learner = MamlTrpo(metarl.TaskWorlds("point-goal", 1, 1).spec, MamlTrpoConfig())
    weights = {name: tensor.int() for name, tensor in learner.policy_state_dict().items()}
    with pytest.raises(UserError, match=r"expected .*, found .* of whole numbers"):
        getattr(learner, method)(weights)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: metarl.load(run, devise="cpu"), "no argument 'devise' (did you mean 'device'"),
        (lambda run: metarl.load(run).adapted({}, episode=1), "no argument 'episode' (did you"),
        (lambda run: metarl.load(run).adapted({}, episodes="1"), "episodes must be a whole number"),
        (lambda run: metarl.load(run).adapted({}, family=5), "family: give a name"),
        (lambda run: metarl.evaluate(run, tasks=2, progress=5), "progress must be a function"),
        (lambda run: metarl.evaluate(run, rollouts_per_task="2"), "rollouts_per_task must be a"),
        (lambda run: metarl.evaluate(run, threads="2"), "threads must be a whole number"),
    ],
)
def test_a_wrong_argument_of_a_run_is_one_sentence(trained_run, call, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        call(trained_run)

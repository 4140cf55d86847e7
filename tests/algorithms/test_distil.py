"""Distillation: whose states, whose actions, how far the gradient goes, and which teachers fit."""

import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.refusals import refused
from helpers.robots import ARM, robot
from helpers.teacher import EitherWay, teacher, trained

from metarl import Key, TaskDistribution, TaskWorlds, UserError, collect, evaluate
from metarl.algorithms import Distil, DistilConfig
from metarl.algorithms.distil import _Advised, stretches
from metarl.base.trust import CodeError
from metarl.learning import checkpoint as checkpoints
from metarl.run import resume_run, start_run, train_config
from metarl.runs.config import TrainConfig
from metarl.tasks.composition import compose
from metarl.worlds.policy import ZeroPolicy

TASKS, EACH = 2, 2
SMALL = {"units": 8, "hidden": 8}


def ready(family: str = "half-cheetah-vel") -> TaskWorlds:
    worlds = TaskWorlds(family, TASKS * EACH, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", TASKS), EACH)
    worlds.seed(Key(0))
    worlds.reset()
    return worlds


def student(worlds: TaskWorlds, **settings) -> Distil:
    return Distil(worlds.spec, DistilConfig(**SMALL | settings), seed=0)


def advised(learner: Distil, worlds: TaskWorlds, parts: list) -> torch.Tensor:
    """What the teacher says in episodes in which the student does what was done in others."""
    both = _Advised(learner, learner.agent, worlds if learner.told else None)
    state, advice = both.begin(TASKS, EACH), []
    for k, part in enumerate(parts):
        if k or len(parts) > 1:
            worlds.reset()
        replayed = iter(part.action)
        learner.act = lambda step, state, replayed=replayed, **_: (next(replayed), state)
        got, state = collect(worlds, both, state, len(part.action), Key(0), explore=False)
        state = both.adapt(state, got)
        assert torch.equal(got.action, part.action)
        advice.append(got.extras["advice"])
    return torch.cat(advice)


def test_stretches_are_a_plain_loop() -> None:
    x = torch.arange(1.0, 22.0).view(7, 3, 1)
    found = stretches(x, 3)
    assert found.shape == (3, 9, 1)
    for world in range(3):
        for n in range(3):
            wanted = [float(x[t, world]) if t < 7 else 0.0 for t in range(3 * n, 3 * n + 3)]
            assert found[:, 3 * world + n, 0].tolist() == wanted


def test_a_stretch_goes_on_from_the_memory_and_the_gradient_does_not() -> None:
    worlds = ready("point-goal")
    net, size = student(worlds).net, 4 + 2 + 2
    x = torch.randn(7, 4, size, generator=torch.Generator().manual_seed(0))
    state, heads = net.memory.begin(4), []
    for t in range(7):
        head, state = net.step(x[t], state)
        heads.append(head)
    rows = stretches(x, 3).requires_grad_()
    found = net(rows, (net.before(x, 3),))
    whole = found.detach().unflatten(1, (4, 3)).movedim(2, 0).flatten(0, 1)[:7]
    torch.testing.assert_close(whole, torch.stack(heads).detach())
    found[:, 1].sum().backward()  # the second stretch of the first world
    moved = rows.grad.abs().sum((0, 2)) > 0
    assert moved.nonzero().tolist() == [[1]]


@pytest.mark.parametrize(
    ("family", "settings"),
    [("half-cheetah-vel", {"history": 3}), ("half-cheetah-terrain", {})],
)
def test_a_told_teacher_says_what_it_does_where_it_is_told(family: str, settings: dict) -> None:
    """Its own actions in the told family, replayed in the plain one, are its advice there.

    Of a terrain it is told the ground ahead, which changes with each step.
    """
    plain, told = (ready(family + more) for more in ("", "+told"))
    learner = student(plain, teacher=teacher("ppo", f"{family}+told", hidden=(8,), **settings))
    learner.plan(plain, 1, None)
    agent = learner.agent
    agent.ppo.actor.split(agent.params[:, : agent.ppo.actor.num_params])[-3].mul_(300.0)
    state = agent.begin(TASKS, EACH)
    own = collect(told, agent, state, 30, Key(1), explore=False)[0]
    assert (own.action.abs() > 1).any()
    advice = advised(learner, plain, [own])
    assert torch.equal(advice, own.action.clamp(-1, 1))
    assert not torch.equal(advice[:, 0], advice[:, EACH])


def test_a_teacher_remembers_and_adapts_through_the_episodes_of_the_trial() -> None:
    worlds = ready("point-goal")
    learner, again = (
        student(worlds, teacher=teacher("rl2", "point-goal", **SMALL)),
        ready("point-goal"),
    )
    learner.plan(worlds, 1, None)
    agent, parts = learner.agent, []
    state = agent.begin(TASKS, EACH)
    for k in range(2):
        worlds.reset()
        part, state = collect(worlds, agent, state, 20, Key(k), explore=False)
        state = agent.adapt(state, part)
        parts.append(part)
    advice = advised(learner, again, parts)
    assert torch.equal(advice, torch.cat([part.action for part in parts]).clamp(-1, 1))


def test_a_teacher_that_adapts_by_exploring_explores_first() -> None:
    worlds, settings = ready("point-goal"), {"hidden": (8,), "inner_lr": 5.0}
    learner = student(worlds, teacher=teacher("maml-trpo", "point-goal", **settings))
    steps = worlds.env_steps
    data = learner.collect(worlds, worlds.tasks, Key(1))
    assert worlds.env_steps - steps == 3 * 20 * TASKS * EACH
    prior = learner.agent.begin(TASKS, EACH)
    action, _ = learner.agent.act(ready("point-goal").current, prior, explore=False, noise=None)
    assert not torch.allclose(data.rollout.extras["advice"][0], action, atol=1e-3)


def test_the_student_acts_and_the_teacher_is_left_as_it_is() -> None:
    worlds = ready("point-goal")
    learner = student(worlds, teacher=teacher())
    data = learner.collect(worlds, worlds.tasks, Key(3))
    worlds.seed(Key(3).fold("reset"))
    worlds.reset()
    own = collect(
        worlds, learner, learner.begin(TASKS, EACH), 20, Key(3).fold("noise", 0), explore=True
    )[0]
    assert torch.equal(data.rollout.action[:20], own.action)
    assert not torch.allclose(data.rollout.extras["advice"][:20], own.action, atol=0.1)
    kept = {name: t.clone() for name, t in learner.agent.state_dict().items()}
    first, last = (learner.update([data], Key(4, i))["loss"] for i in (0, 40))
    for i in range(1, 40):
        last = learner.update([data], Key(4, i))["loss"]
    assert last < 0.5 * first
    assert all(torch.equal(t, learner.agent.state_dict()[name]) for name, t in kept.items())


@pytest.mark.parametrize(
    ("family", "agent", "message"),
    [
        ("point-goal", lambda: None, "needs a teacher: give --teacher"),
        ("point-goal", lambda: "nowhere", "no run or checkpoint 'nowhere'"),
        ("point-goal", lambda: "a\0b", "give a run's folder"),
        ("point-goal", lambda: 3, "teacher must be a path or a name, not 3"),
        ("point-goal", lambda: teacher("maml-trpo", hidden=(8,)), "told its task as well"),
        ("point-goal", lambda: teacher("es-maml", hidden=(8,)), "told its task as well"),
        ("half-cheetah-vel", teacher, "was trained on 'point-goal.told'"),
        (
            "half-cheetah-vel+dynamics",
            lambda: teacher(family="half-cheetah-vel+told"),
            "was trained on 'half-cheetah-vel.told'",
        ),
        ("half-cheetah-vel+told", lambda: teacher(family="half-cheetah-vel"), "was trained on"),
        ("walker2d-params", lambda: teacher(family="half-cheetah-dir"), "was trained on"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(family: str, agent, message: str) -> None:
    worlds = ready(family)
    with refused(match=message):
        student(worlds, teacher=agent()).plan(worlds, 1, None)


@pytest.mark.parametrize(
    ("family", "of", "said"),
    [
        ("half-cheetah-dynamics", "half-cheetah-vel", 1),
        ("half-cheetah-vel+told", "half-cheetah-vel+told", 0),
        ("half-cheetah-vel+latency", "half-cheetah-vel+latency+told", 0),
        ("half-cheetah-vel+sensor-bias", "half-cheetah-vel+sensor-bias+told", 0),
    ],
)
def test_teachers_of_what_is_observed_alike_fit(family: str, of: str, said: int) -> None:
    """One that moves the same robot for another purpose is named in a warning."""
    worlds = ready(family)
    learner = student(worlds, teacher=teacher(family=of, hidden=(8,)))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        learner.plan(worlds, 1, None)
    words = f"the teacher was trained on '{of}', and not on '{family}'"
    assert [words in str(one.message) for one in told] == [True] * said
    assert learner.told == (of.endswith("told") and not family.endswith("told"))


def test_a_teacher_of_another_robot_is_refused_though_it_observes_as_many_numbers() -> None:
    """Two joints and two motors each: a cart on a table, and an arm."""
    table = robot(
        ARM.replace('name="shoulder"', 'name="x"').replace('joint="shoulder"', 'joint="x"')
    )
    worlds = TaskWorlds(table(), 1, 1)
    with pytest.raises(UserError, match=r"the teacher was trained on '.*give one that was"):
        student(worlds).teach(ZeroPolicy(), robot(ARM)(), worlds)
    student(worlds).teach(ZeroPolicy(), table(), worlds)


def test_a_teacher_runs_no_code_unasked(tmp_path) -> None:
    """Unless it is the file that the user named as the student's family."""
    mine, theirs = tmp_path / "robot.py", tmp_path / "theirs.py"
    for file in (mine, theirs):
        file.write_text("from envs.point import PointGoal\nclass Robot(PointGoal):\n    pass\n")
    path = teacher("ppo", f"{mine}:Robot+told")
    worlds = ready(f"{mine}:Robot")
    learner = student(worlds, teacher=path)
    learner.plan(worlds, 1, None)
    assert learner.told
    with pytest.raises(CodeError):
        checkpoints.load(Path(path))
    worlds = ready("point-goal")
    with pytest.raises(UserError, match="nothing was trained on this machine") as refusal:
        student(worlds, teacher=path).plan(worlds, 1, None)
    assert not isinstance(refusal.value, CodeError)


def test_a_run_goes_on_to_the_same_bits_with_the_same_teacher_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(teacher(), "agent")
    train = TrainConfig(
        tasks_per_iteration=2, rollouts_per_task=2, iterations=3, evaluate_every=3,
        evaluate_tasks=2, checkpoint_every=1, threads=1, device="cpu", progress=False, out="whole",
    )  # fmt: skip
    whole = start_run("point-goal", "distil", train, DistilConfig(teacher="agent", **SMALL))
    half = shutil.copytree(whole, "half")
    for path in checkpoints.checkpoints(Path(half) / "checkpoints")[-2:]:
        shutil.rmtree(path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = checkpoints.load(checkpoints.newest(tmp_path / half))
    resume_run(found, train_config(found))
    one, two = (checkpoints.load(checkpoints.newest(tmp_path / run)).tensors for run in
                (whole, half))  # fmt: skip
    assert all(torch.equal(one[name], two[name]) for name in one)
    shutil.rmtree(tmp_path / "agent")
    shutil.copytree(teacher("ppo", "point-goal+told", hidden=(8,)), tmp_path / "agent")
    found = checkpoints.load(checkpoints.newest(tmp_path / half))
    with pytest.raises(UserError, match="has changed since this run began"):
        resume_run(found, replace(train_config(found), iterations=4))
    evaluated = checkpoints.restore(found)  # acting needs no teacher
    assert evaluated.agent is None


@pytest.mark.slow
def test_the_student_of_an_oracle_beats_the_blind_policy() -> None:
    """Whatever keeps nothing in mind gets 0 on average; it is the best of two evaluations."""
    told = compose(EitherWay, ["told"])()
    oracle, _ = trained("ppo", told, 15, hidden=(32,), lr=3e-3)
    worlds, scores = TaskWorlds(EitherWay(), 40, 1), []
    learner = student(worlds, units=32, hidden=32, lr=3e-3, epochs=4)
    learner.teach(oracle, told, worlds)
    distribution = TaskDistribution(worlds.family)
    tasks = distribution.split("heldout", 20)
    for i in range(12):
        learner.meta_step(worlds, distribution.sample(20, Key(0, i).numpy()), Key(0, i))
        if i in (7, 11):
            scores.append(evaluate(learner, worlds, tasks, episodes=0, seed=0).mean[0])
    assert max(scores) > 3

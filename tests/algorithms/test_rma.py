"""RMA: the convolution, the histories, who acts when, what is frozen, and the boundary."""

import shutil

import pytest
import torch
from helpers.teacher import EitherWay, trained
from torch.nn.functional import leaky_relu

from metarl import Key, TaskDistribution, TaskWorlds, UserError, collect, evaluate, find_family
from metarl.algorithms import Rma, RmaConfig
from metarl.algorithms.rma import _Teacher, without_time
from metarl.learning import checkpoint as checkpoints
from metarl.networks.history import HistoryEncoder, windows
from metarl.run import check_spec, resume_run, start_run, train_config
from metarl.runs.config import TrainConfig
from metarl.tasks.family import replace_attributes
from metarl.worlds.vector import Spec, Step

TASKS, EACH = 2, 2


def ready(name: str = "hopper-params", *, privileged: bool = False) -> TaskWorlds:
    """Worlds whose episodes end early; the family may show critics the height of the body."""
    family = replace_attributes(
        find_family(name), horizon=40, terminated=lambda sim: sim.qpos[:, 1] < 1.22
    )
    if privileged:
        family = replace_attributes(family, privileged=lambda sim, task: sim.qpos[:, 1:2])
    worlds = TaskWorlds(family, TASKS * EACH, 1)
    worlds.set_tasks(TaskDistribution(family).split("train", TASKS), EACH)
    worlds.seed(Key(0))
    worlds.reset()
    return worlds


def small(spec: Spec, *, teacher_iterations: int = 1, **settings) -> Rma:
    return Rma(
        spec, RmaConfig(hidden=(8,), teacher_iterations=teacher_iterations, epochs=2, **settings),
        seed=0,
    )  # fmt: skip


def loud(learner: Rma) -> Rma:
    """Let z and its estimate matter: random layers in the place of small and zero ones."""
    size = learner.ppo.actor.num_params
    learner.ppo.actor.split(learner.params[:, :size])[-3].mul_(50.0)
    with torch.no_grad():
        learner.student.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    return learner


def in_phase(learner: Rma, phase: int) -> Rma:
    learner.iteration.fill_(int(learner.switch) if phase == 2 else 0)
    return learner


@pytest.mark.parametrize("steps", [1, 7, 50, 53])
def test_the_convolution_is_a_plain_loop(steps: int) -> None:
    """Over time and not over channels, and never without the newest step."""
    torch.manual_seed(0)
    net, history = HistoryEncoder(3, 2, steps).double(), torch.randn(4, steps, 3).double()
    net.head.weight.data.normal_()
    for b in range(4):
        rows = [leaky_relu(net.embed(history[b, t])) for t in range(steps)]
        for layer, (kernel, stride) in zip(net.layers, ((8, 4), (5, 1), (5, 1)), strict=True):
            kernel = min(kernel, len(rows))
            ends = range(len(rows) - 1, kernel - 2, -stride)  # backwards from the newest
            rows = [
                leaky_relu(layer.bias + sum(
                    layer.weight[:, :, k] @ rows[end - kernel + 1 + k] for k in range(kernel)
                )) for end in reversed(ends)
            ]  # fmt: skip
        flat = torch.stack(rows, 1).flatten()  # a channel's times side by side
        torch.testing.assert_close(net(history)[b], net.head.weight @ flat + net.head.bias)
    changed = history.clone()
    changed[:, -1] += 1
    assert (net(changed) != net(history)).all()


def test_estimates_are_zero_before_anything_is_learned() -> None:
    assert not HistoryEncoder(3, 2, 50)(torch.randn(4, 50, 3)).any()


def test_windows_are_a_plain_loop() -> None:
    """Two worlds of six steps; a new episode begins in the second with its fourth."""
    steps = torch.arange(1.0, 13.0)[:, None]
    age = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2, 0, 1, 2])
    ids = torch.tensor([2, 5, 6, 9, 11])
    found = windows(steps, age, ids, 4)[..., 0]
    assert found.tolist() == [
        [0, 1, 2, 3], [3, 4, 5, 6], [0, 0, 0, 7], [0, 0, 0, 10], [0, 10, 11, 12],
    ]  # fmt: skip


@pytest.mark.parametrize("see_reward", [True, False])
def test_the_student_learns_from_the_histories_that_it_acted_on(see_reward: bool) -> None:
    worlds = ready()
    learner = loud(in_phase(small(worlds.spec, history=6, see_reward=see_reward), 2))
    learner.ppo.obs_moments.update(torch.randn(50, worlds.spec.observation_size))
    learner.reward_moments.update(torch.randn(50, 1))
    acted: list[torch.Tensor] = []
    learner.student.register_forward_hook(lambda net, got, out: acted.append(got[0]))
    rollout = learner.collect(worlds, worlds.tasks, Key(3))
    assert rollout.first[1:].any()
    steps, age = (
        part.transpose(0, 1).flatten(0, 1)
        for part in (learner._seen(rollout), rollout.episode_time())
    )
    found = windows(steps, age, torch.arange(len(steps)), 6)
    assert torch.equal(found.unflatten(0, (4, -1)).transpose(0, 1), torch.stack(acted))


def test_the_student_acts_in_phase_2_and_the_teacher_in_phase_1() -> None:
    worlds = ready()
    learner = loud(small(worlds.spec))
    actions = {}
    for phase in (1, 2):
        actions[phase] = in_phase(learner, phase).collect(worlds, worlds.tasks, Key(3)).action
        worlds.seed(Key(3).fold("reset"))
        worlds.reset()
        policy = _Teacher(learner.ppo, learner.params) if phase == 1 else learner
        again = collect(
            worlds, policy, policy.begin(TASKS, EACH), 40, Key(3).fold("noise"),
            explore=phase == 1, privileged=phase == 1,
        )[0]  # fmt: skip
        assert torch.equal(actions[phase], again.action)
    assert not torch.equal(actions[1], actions[2])


@pytest.mark.parametrize("privileged", [True, False])
def test_ppo_sees_the_z_that_the_teacher_acted_on(privileged: bool) -> None:
    """Log-probabilities of the batch are those of the noise that chose the actions."""
    worlds = ready(privileged=privileged)
    learner = loud(in_phase(small(worlds.spec), 1))
    rollout = learner.collect(worlds, worlds.tasks, Key(3))
    batch = learner.ppo.batch(rollout, learner.params)
    policy = learner.ppo.policy(learner.params, batch.inputs)
    noise = Key(3).fold("noise").normal(TASKS, 40, EACH, 3).transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(
        (batch.action - policy.mean)[0] / policy.log_std.exp()[0], noise, atol=1e-4, rtol=0
    )
    told = without_time(rollout.extras["privileged"], worlds.spec)
    z = learner.ppo.latent(learner.params, told.flatten(0, 1)[None])[0].unflatten(0, (40, -1))
    assert (z[0] != z[-1]).any() == privileged  # the time left is no part of e
    assert not torch.equal(z[0, 0], z[0, EACH])


def test_gradients_reach_the_encoder_in_phase_1_and_nothing_but_the_student_in_phase_2() -> None:
    worlds = ready()
    learner = small(worlds.spec)
    seen = []
    for _ in range(2):
        before = {name: t.clone() for name, t in learner.state_dict().items()}
        metrics = learner.meta_step(worlds, worlds.tasks, Key(len(seen)))
        now = learner.state_dict()
        seen.append({name for name, t in before.items() if not torch.equal(t, now[name])})
        if metrics["phase"] == 1:
            moved = (now["params"] != before["params"])[0]
            assert moved[: learner.ppo.actor.num_params].any()
            assert moved[learner.ppo.before :].float().mean() > 0.9  # μ, but for its unused log std
    teaching, imitating = seen
    assert not any(name.startswith("student") for name in teaching)
    assert imitating - {"iteration"} == {n for n in now if n.startswith("student")} - {
        "student_adam.lr"
    }
    assert metrics["return_before"] == float(learner.teacher_return)


@pytest.mark.parametrize(
    ("setting", "iterations", "env_steps", "switch"),
    [(None, 300, None, 210), (None, 2, None, 1), (None, 300, 1600, 7), (None, 300, 1601, 8),
     (5, 300, None, 5), (9, 1, 1600, 9)],
)  # fmt: skip
def test_a_run_is_divided(setting, iterations: int, env_steps: int | None, switch: int) -> None:
    worlds = ready()  # 160 steps an iteration
    learner = small(worlds.spec, teacher_iterations=setting)
    if setting is None:
        with pytest.raises(UserError, match="give teacher_iterations"):
            learner.collect(worlds, worlds.tasks, Key(0))
    learner.plan(worlds, iterations, env_steps)
    assert int(learner.switch) == switch


@pytest.mark.parametrize(("setting", "iterations"), [(None, 1), (5, 5), (9, 5)])
def test_a_run_that_leaves_no_student_is_refused(setting: int | None, iterations: int) -> None:
    worlds = ready()
    with pytest.raises(UserError, match=f"of {iterations} iterations .* leaves none"):
        small(worlds.spec, teacher_iterations=setting).plan(worlds, iterations, None)


def test_families_without_anything_privileged_are_refused() -> None:
    with pytest.raises(UserError, match="neither parameters nor privileged"):
        small(Spec(4, 2, 20))
    small(Spec(4, 2, 20, (), 0, 3))
    discrete = small(Spec(4, 5, 20, (2, 3), 1))
    zeros = torch.zeros(3)
    step = Step(torch.randn(3, 4), torch.zeros(3, 5), zeros, zeros.bool())
    action, _ = discrete.act(step, discrete.begin(3, 1), explore=True, noise=torch.randn(3, 5))
    assert action.unique().tolist() == [0, 1]
    assert action.sum(1).tolist() == [2, 2, 2]


def test_what_the_family_shows_cannot_change_on_the_way() -> None:
    with pytest.raises(UserError, match="has changed since training"):
        check_spec(small(ready().spec), ready(privileged=True))


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_run_goes_on_across_the_boundary_to_the_same_bits(tmp_path, at: int, whole) -> None:
    """The student's first iteration of four is the fourth, as that of the whole run was."""
    run = shutil.copytree(whole, tmp_path / "run")
    for path in checkpoints.checkpoints(run / "checkpoints")[at + 1 :]:
        shutil.rmtree(path)
    found = checkpoints.load(checkpoints.newest(run))
    assert found.step == at
    resume_run(found, train_config(found))
    one, two = (checkpoints.load(checkpoints.newest(path)).tensors for path in (whole, run))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    metrics = [(path / "metrics.csv").read_text().splitlines() for path in (whole, run)]
    assert [line.split(",")[4:11] for line in metrics[0]] == [
        line.split(",")[4:11] for line in metrics[1]
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four iterations, of which the default gives the teacher three."""
    train = TrainConfig(
        tasks_per_iteration=2, rollouts_per_task=2, env_steps=320, evaluate_every=4,
        evaluate_tasks=2, checkpoint_every=1, keep_checkpoints=9, threads=1, device="cpu",
        progress=False, out=str(tmp_path_factory.mktemp("rma") / "whole"),
    )  # fmt: skip
    run = start_run("point-goal", "rma", train, RmaConfig(hidden=(8,), history=10))
    lines = (run / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("phase")
    assert [line.split(",")[column] for line in lines[1:]] == ["1.0", "1.0", "1.0", "2.0"]
    return run


@pytest.mark.slow
def test_the_student_finds_out_what_the_blind_policy_cannot_know() -> None:
    """Whatever keeps nothing in mind gets 0 on average; it is the best of two evaluations."""
    scores: list[float] = []

    def score(learner, worlds) -> None:
        tasks = TaskDistribution(worlds.family).split("heldout", 20)
        scores.append(evaluate(learner, worlds, tasks, episodes=0, seed=0).mean[0])

    how = {"hidden": (32,), "lr": 3e-3, "teacher_iterations": 25, "history": 10}
    trained("rma", EitherWay(), 70, **how, at={25: score, 60: score, 70: score})
    assert abs(scores[0]) < 3  # the student has learned nothing yet
    assert max(scores[1:]) > 6

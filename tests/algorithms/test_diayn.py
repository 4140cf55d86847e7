"""DIAYN: what is paid, what is not, and skills that can be told apart."""

import math

import pytest
import torch
from torch.nn import functional

from envs.point import PointGoal
from metarl import TaskDistribution, TaskWorlds, UserError, collect
from metarl.algorithms.diayn import Diayn, DiaynConfig, State
from metarl.base.keys import Key
from metarl.worlds.vector import Spec

SKILLS = 4


def point(family: object = "point-goal", tasks: int = 10, **changes: object):
    worlds = TaskWorlds(family, 40, 1)
    settings = {"skills": SKILLS, "skill_inputs": (0, 1), "hidden": (32,)}
    agent = Diayn(worlds.spec, DiaynConfig(**(settings | changes)))
    return agent, worlds, TaskDistribution(worlds.family).split("train", tasks)


def test_skills_are_drawn_alike_and_last_for_the_rollout() -> None:
    agent, worlds, tasks = point()
    drawn = torch.cat([agent.collect(worlds, tasks, Key(i))[1] for i in range(10)])
    counts = torch.bincount(drawn, minlength=SKILLS)
    assert counts.sum() == 400
    assert (counts - 100).abs().max() < 31  # three and a half standard deviations
    half = agent.collect(TaskWorlds("point-goal", 20, 1), tasks[5:], Key(3))[1]
    assert torch.equal(half, agent.collect(worlds, tasks, Key(3))[1][20:])


def test_what_the_policy_is_paid_by_hand() -> None:
    """log q of the skill that it shows, where the step led, + log K; the family's reward is not."""
    agent, worlds, tasks = point()
    rollout, skill = agent.collect(worlds, tasks, Key(1))
    seen = agent._as_seen(rollout, skill, agent._log_q(rollout.next_obs[..., :2]))
    for t, b in ((0, 0), (7, 13), (19, 39)):
        with torch.no_grad():
            logits = agent.discriminator(rollout.next_obs[t, b, :2])
        log_q = functional.log_softmax(logits, 0)[skill[b]].item()
        assert seen.reward[t, b].item() == pytest.approx(log_q + math.log(SKILLS), abs=1e-5)
        assert seen.obs[t, b, 4:].tolist() == [float(k == skill[b]) for k in range(SKILLS)]
        assert torch.equal(seen.next_obs[t, b, :4], rollout.next_obs[t, b])
        assert torch.equal(seen.next_obs[t, b, 4:], seen.obs[t, b, 4:])


def test_no_reward_of_the_family_teaches_anything() -> None:
    class Other(PointGoal):
        name = "other"

        def reward(self, sim, before, action, task):
            return 5.0 * sim.qpos[:, 0]

    found = []
    for family in ("point-goal", Other()):
        agent, worlds, tasks = point(family)
        for i in range(2):
            agent.meta_step(worlds, tasks, Key(i))
        found.append(agent.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_task_s_policy_is_the_skill_that_earned_most() -> None:
    agent, worlds, tasks = point(tasks=4)
    worlds.set_tasks(tasks, 10)
    state = agent.begin(4, 10)
    assert state.skill.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1] * 4
    worlds.reset()
    data, state = collect(worlds, agent, state, worlds.spec.horizon, Key(0), explore=True)
    after = agent.adapt(state, data)
    returns = data.first_episode_return().reshape(4, 10)
    for m in range(4):
        means = [returns[m, z::SKILLS].mean().item() for z in range(SKILLS)]
        assert int(agent._best(after)[m]) == max(range(SKILLS), key=means.__getitem__)
    assert after.skill.tolist() == [2, 3, 0, 1, 2, 3, 0, 1, 2, 3] * 4
    best = agent.diagnostics(after)["skill"].flatten().long()
    told = State(after.total, after.tried, best)
    mean, _ = agent.act(worlds.current, after, explore=False, noise=None)
    shown, _ = agent.act(worlds.current, told, explore=True, noise=torch.zeros(40, 2))
    assert torch.equal(mean, shown)


def test_a_diverged_rollout_counts_for_nothing() -> None:
    agent, worlds, tasks = point(tasks=4)
    worlds.set_tasks(tasks, 10)
    data, state = collect(worlds, agent, agent.begin(4, 10), 20, Key(0), explore=True)
    diverged = data.diverged.clone()
    diverged[3, 0::SKILLS] = True
    after = agent.adapt(state, data._replace(diverged=diverged))
    assert after.total.isfinite().all()
    assert after.tried[0].tolist() == [0.0, 3.0, 2.0, 2.0]


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match="skills must be from 2 to 1000, not 1"):
        DiaynConfig(skills=1)
    with pytest.raises(UserError, match="skill_inputs: the observation has 4 numbers, 0 to 3"):
        Diayn(Spec(4, 2, 20), DiaynConfig(skill_inputs=(4,)))


def test_what_a_step_pays_is_a_mean_over_steps_and_not_over_first_episodes() -> None:
    """Where episodes end in failure, there are several in a horizon."""
    worlds = TaskWorlds("hopper-params", 8, 1)
    agent = Diayn(worlds.spec, DiaynConfig(hidden=(8,), skills=2), seed=1)
    tasks, paid = TaskDistribution(worlds.family).split("train", 2), []
    as_seen = agent._as_seen
    agent._as_seen = lambda *args: paid.append(as_seen(*args)) or paid[-1]
    metrics = agent.meta_step(worlds, tasks, Key(0))
    (rollout,) = paid
    assert rollout.terminated.any()
    assert metrics["skill_reward"] == pytest.approx(float(rollout.reward[rollout.valid].mean()))


@pytest.mark.slow
def test_skills_can_be_told_apart_after_a_short_training() -> None:
    """A quarter is chance; and the tasks that come of it pay what the learner was paid."""
    agent, worlds, tasks = point()
    accuracy = []
    for i in range(15):
        metrics = agent.meta_step(worlds, tasks, Key(i))
        accuracy.append(metrics["accuracy"])
    assert accuracy[0] < 0.4
    assert accuracy[-1] > 0.7
    assert metrics["skill_reward"] > 0.4
    obs = agent.collect(worlds, tasks, Key(99))[0].next_obs[-1]
    found = agent.skill_set().log_q(obs)
    torch.testing.assert_close(found.float(), agent._log_q(obs[:, :2]), atol=1e-4, rtol=1e-4)

"""Rewards of several terms: their sum, what is kept of them, and where it is shown."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.refusals import refused
from helpers.runs import SMALL, TRAIN

from envs.point import PointGoal
from metarl import Key, TaskDistribution, TaskWorlds, collect, find_learner
from metarl.base.distributed import Ranks
from metarl.check.notes import notes
from metarl.check.plain_loop import check_plain_loop
from metarl.check.suite import CheckError, check_finite
from metarl.evaluation.divergence import nonfinite_metrics
from metarl.report.page import render
from metarl.report.run_summary import read_run
from metarl.runs.runner import meta_train
from metarl.video.overlay import Panel, PanelOverlay
from metarl.video.recording import record
from metarl.worlds.reward_terms import RewardTerms, mean_terms


def distance(sim, task):
    return (sim.qpos - torch.stack((task["goal_x"], task["goal_y"]), 1)).norm(dim=1)


class Terms(PointGoal):
    name = "terms"
    reward_weights = {"near": -1, "speed": -0.1}  # noqa: RUF012

    def reward(self, sim, before, action, task):
        near = distance(sim, task)
        return {"near": near, "speed": sim.qvel.square().sum(1), "alive": torch.ones_like(near)}


class Whole(PointGoal):
    """What the terms add up to, in one line."""

    name = "terms"

    def reward(self, sim, before, action, task):
        return -distance(sim, task) - 0.1 * sim.qvel.square().sum(1) + 1.0


def played(family: type[PointGoal], bad: int | None = None):
    """A rollout of 2 tasks with 3 worlds each, and the worlds; one may be given a NaN."""
    worlds = TaskWorlds(family(), 6, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("heldout", 2), 3)
    worlds.reset()

    def policy(obs: torch.Tensor) -> torch.Tensor:
        action = torch.sin(3 * obs[:, :2] + 0.5)
        if bad is not None:
            action[bad] = torch.nan
        return action

    return collect(worlds, policy, None, 20, Key(0), explore=False)[0], worlds


def test_terms_add_up_to_the_bits_of_one_formula() -> None:
    whole, terms = played(Whole)[0], played(Terms)[0]
    for name, part in whole.tensors().items():
        assert part.numpy().tobytes() == getattr(terms, name).numpy().tobytes(), name
    assert whole.extras == {}
    assert list(terms.extras) == ["reward/near", "reward/speed", "reward/alive"]
    torch.testing.assert_close(sum(terms.extras.values()), terms.reward)
    assert {part.dtype for part in terms.extras.values()} == {torch.float32}


def test_a_term_of_weight_0_is_kept_as_it_is_and_not_paid() -> None:
    class Measured(Terms):
        reward_weights = {"near": -1, "speed": -0.1, "alive": 0}  # noqa: RUF012

    class Unpaid(Terms):
        reward_weights = {"near": 0.0, "speed": 0.0, "alive": 0.0}  # noqa: RUF012

    paid, measured, unpaid = played(Terms)[0], played(Measured)[0], played(Unpaid)[0]
    torch.testing.assert_close(measured.reward, paid.reward - 1.0)
    assert (measured.extras["reward/alive"] == 1.0).all()
    assert torch.equal(measured.extras["reward/near"], paid.extras["reward/near"])
    assert not unpaid.reward.any()
    assert torch.equal(unpaid.extras["reward/near"], -paid.extras["reward/near"])


def test_means_leave_diverged_transitions_out() -> None:
    """Over 20 steps of 5 sound worlds, each step worth the same."""
    rollout, worlds = played(Terms, bad=4)
    assert int(rollout.diverged.sum()) == 20
    assert not rollout.extras["reward/alive"][:, 4].any()
    means = mean_terms(worlds, find_learner("maml-trpo")(worlds.spec, SMALL))
    for name, part in rollout.extras.items():
        sound = part[:, [0, 1, 2, 3, 5]].double().numpy()
        assert means[name] == pytest.approx(np.mean(sound), rel=1e-5)
    assert means["reward/alive"] == 1.0
    worlds.term_sums.clear()
    assert mean_terms(worlds, find_learner("maml-trpo")(worlds.spec, SMALL)) == {}


def test_means_are_the_same_for_any_shards() -> None:
    """Two shards, one after the other in the same worlds, and both tasks at once."""
    learner = find_learner("maml-trpo")(TaskWorlds(Terms(), 1, 1).spec, SMALL)
    means = []
    for shards in (1, 2):
        learner.ranks = Ranks(shards)
        worlds = TaskWorlds(Terms(), 6 // shards, 1)
        tasks = TaskDistribution(worlds.family).split("heldout", 2)
        for part in learner.ranks.slices(2):
            worlds.set_tasks(tasks[part], 3)
            worlds.seed(Key(1))
            worlds.reset()
            collect(worlds, lambda obs: obs[:, :2], None, 20, Key(0), explore=False)
        means.append(mean_terms(worlds, learner))
    assert means[0] == means[1]


def test_all_diverged_is_no_news() -> None:
    metrics = {"diverged": 40.0, "reward/near": math.nan, "return_after": math.nan}
    assert nonfinite_metrics(metrics) == []
    assert nonfinite_metrics(metrics | {"diverged": 0.0}) == ["reward/near", "return_after"]


@pytest.mark.parametrize("algorithm", ["maml-trpo", "ppo"])
def test_a_run_logs_and_shows_its_terms(algorithm, tmp_path, capsys) -> None:
    family = Terms()
    worlds = TaskWorlds(family, 4, 1)
    cls = find_learner(algorithm)
    config = SMALL if algorithm == "maml-trpo" else cls.Config()
    train = replace(TRAIN, iterations=2, out=str(tmp_path / "run"), progress=True)
    run = meta_train(cls(worlds.spec, config), worlds, family.distribution, train)
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["reward/alive"]) for row in rows] == [1.0, 1.0]
    assert all(float(row["reward/near"]) < 0 for row in rows)
    assert "reward in a step, last iteration: near -" in capsys.readouterr().out
    summary = read_run(run)
    assert [value for _, value in summary.terms["alive"]] == [1.0, 1.0]
    page = render([summary])
    assert "Terms of the reward" in page
    assert all(f"</i>{name}</li>" in page for name in ("near", "speed", "alive"))


def test_a_video_lists_what_each_step_paid() -> None:
    worlds = TaskWorlds(Terms(), 2, 1)
    tasks = TaskDistribution(worlds.family).split("heldout", 1)
    learner = find_learner("maml-trpo")(worlds.spec, SMALL)
    got = record(learner, worlds, tasks, episodes=1, seed=0)
    episode = got.episodes["score", 1][0]
    assert list(episode.terms) == ["near", "speed", "alive"]
    np.testing.assert_allclose(sum(episode.terms.values()), episode.reward, atol=1e-6)
    panel = Panel("after", "after", "", episode.running, [], "time limit", None, 1)
    blank = np.zeros((480, 480, 3), np.uint8)
    drawn = []
    for terms in ({}, episode.terms, {f"term_{k}": np.ones(20) for k in range(60)}):
        overlay = PanelOverlay(panel._replace(terms=terms), 480, [], 0.1)
        width, height = overlay.picture
        drawn.append(np.asarray(overlay(blank[:height, :width], 3.0)).astype(int))
    for listed, low in ((drawn[1], 38), (drawn[2], 38)):
        rows = (listed != drawn[0]).any((1, 2)).nonzero()[0]
        assert low <= rows.min()
        assert rows.max() < 260  # half the picture at most
    assert (drawn[2] != drawn[0]).sum() > (drawn[1] != drawn[0]).sum()


# --- what is wrong ------------------------------------------------------------------------------


def returning(family_reward, **members: object) -> PointGoal:
    return type("Odd", (PointGoal,), {"name": "odd", "reward": family_reward, **members})()


def odd(**terms):
    """A reward of one sound term and others, functions of the (B,) zeros."""

    def reward(self, sim, before, action, task):
        zeros = sim.qpos[:, 0] * 0
        return {"sound": zeros, **{name: make(zeros) for name, make in terms.items()}}

    return reward


def changing(self, sim, before, action, task):
    return {"a": sim.qpos[:, 0], ("b" if sim.time[0] < 0.15 else "c"): sim.qpos[:, 1]}


def tensor_later(self, sim, before, action, task):
    return {"a": sim.qpos[:, 0]} if sim.time[0] < 0.15 else sim.qpos[:, 0]


def empty(self, sim, before, action, task):
    return {}


def unnamed(self, sim, before, action, task):
    return {"a b": sim.qpos[:, 0]}


def many(self, sim, before, action, task):
    return {f"t{k}": sim.qpos[:, 0] for k in range(65)}


@pytest.mark.parametrize(
    ("reward", "weights", "says"),
    [
        (odd(x=lambda z: z[:2]), {}, "torch.float64, torch.strided, shape (2,)"),
        (odd(x=lambda z: z[:, None]), {}, "shape (3, 1)"),
        (odd(x=lambda z: z > 0), {}, "term 'x' as a tensor of torch.bool"),
        (odd(x=lambda z: z.to(torch.complex64)), {}, "term 'x' as a tensor of torch.complex64"),
        (odd(x=lambda z: z.clone().requires_grad_()), {}, "with a gradient"),
        (odd(x=lambda z: 1.0), {}, "term 'x' as float"),
        (odd(x=lambda z: z / 0), {}, "term 'x' of reward() is not finite in any world"),
        (empty, {}, "returned no terms: an empty dictionary"),
        (unnamed, {}, "a term 'a b': name it with letters"),
        (many, {}, "65 terms, more than 64"),
        (changing, {}, "other terms than before: 'b' was there at the first step"),
        (tensor_later, {}, "instead of terms by name, of which the first step had a"),
        (odd(), {"sond": 2.0}, "no term 'sond' (did you mean 'sound'?)"),
        (PointGoal.reward, {"near": 2.0}, "terms by name, of which reward_weights has near"),
        (odd(), {"sound": "goal_x"}, "finite number, not 'goal_x'; one that is of the task"),
        (odd(), {"sound": math.nan}, "must be a finite number, not nan"),
        (odd(), [1.0], "reward_weights must be a dictionary"),
    ],
    ids=range(17),
)  # fmt: skip
def test_bad_terms_are_one_line_that_names_them(reward, weights, says) -> None:
    def go() -> None:
        worlds = TaskWorlds(returning(reward, reward_weights=weights), 3, 1)
        for _ in range(3):
            worlds.step(torch.ones(3, 2))

    with refused(says) as error:
        go()
    assert str(error.value).startswith("family 'odd'")


def test_check_names_a_term_that_is_not_finite_or_constant() -> None:
    def sometimes(zeros):
        return torch.where(torch.arange(len(zeros)) == 1, torch.nan, zeros)

    with pytest.raises(CheckError, match="term 'x' of reward\\(\\) is not finite in task"):
        check_finite(returning(odd(x=sometimes)))
    found = [note for note in notes(Terms()) if "term" in note]
    assert found == ["term 'alive' of the reward is 1 throughout, times its weight"]
    assert not [note for note in notes(Whole()) if "term" in note]


def test_the_plain_loop_finds_a_sum_at_fault(monkeypatch) -> None:
    check_plain_loop(Terms())
    total = RewardTerms.total
    monkeypatch.setattr(RewardTerms, "total", lambda self, terms: total(self, terms) + 1e-15)
    with pytest.raises(CheckError, match="its terms add up to"):
        check_plain_loop(Terms())

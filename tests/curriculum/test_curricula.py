"""Curricula: what they draw, what they learn from returns, and that a run with one resumes."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metarl import (
    Choices,
    Interval,
    Key,
    Param,
    TaskDistribution,
    TaskWorlds,
    UserError,
    collect,
    find_family,
    find_learner,
)
from metarl.curriculum import CURRICULA, cross_entropy, level_replay, make_sampler
from metarl.curriculum.alp_gmm import FIT, AlpGmm
from metarl.curriculum.cross_entropy import CrossEntropy, weighted_quantile
from metarl.curriculum.level_replay import LevelReplay
from metarl.curriculum.success import LEVELS, SuccessDriven
from metarl.curriculum.unit_sampler import UnitSampler
from metarl.learning import checkpoint as checkpoints
from metarl.report.page import render
from metarl.report.run_summary import read_run
from metarl.run import resume_run, start_run, train_config
from metarl.runs.config import CURRICULA as NAMES
from metarl.runs.config import TrainConfig

KEY = Key(3)


class Box:
    """What a distribution needs of a family."""

    name, split_name = "box", ""

    def __init__(self, *params: Param) -> None:
        self.params = params


def box(*params: Param) -> TaskDistribution:
    return TaskDistribution(Box(*params))  # type: ignore[arg-type]


TWO = box(Param("difficulty", Interval(0.0, 2.0)), Param("mass", Interval(0.5, 2.0, log=True)))


def play(sampler: UnitSampler, rule: Callable, iterations: int, start: int = 0):
    """The tasks of the last iteration, after returns by a rule of the points."""
    tasks = None
    for i in range(start, start + iterations):
        tasks = sampler.sample(i, KEY)
        sampler.report(i, rule(sampler._points), KEY)
    return tasks


def made(name: str, n: int = 16) -> UnitSampler:
    train = TrainConfig(curriculum=name, curriculum_success=1.0, tasks_per_iteration=n)  # type: ignore[arg-type]
    sampler = make_sampler(TWO, train, None)
    assert isinstance(sampler, UnitSampler)
    return sampler


def test_uniform_points_are_the_draws_of_the_family() -> None:
    rng, same = (Key(1).numpy() for _ in range(2))
    points = np.concatenate([same.random((50, 1)), same.random((50, 1))], axis=1)
    assert TWO.sample(50, rng) == TWO.at(points)
    assert TWO.at(np.array([[0.5, 0.5]])).values[0].tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("name", CURRICULA)
def test_one_draws_training_tasks_by_its_state_and_the_key(name: str) -> None:
    sampler, other = made(name), made(name)
    play(sampler, lambda x: x.sum(1), 40)
    other.load_state(json.loads(json.dumps(sampler.state())))
    assert other.state() == sampler.state()
    tasks = sampler.sample(40, KEY)
    assert other.sample(40, KEY) == tasks == sampler.sample(40, KEY)
    assert sampler.sample(41, KEY) != tasks != sampler.sample(40, Key(4))
    assert ((tasks.values >= [0, 0.5]) & (tasks.values <= [2, 2])).all()
    assert {"curriculum/difficulty", "curriculum/mass"} < sampler.metrics(tasks).keys()
    # training tasks have the last bit of their mantissa clear, which held-out ones have set
    assert not (tasks.values.view(np.int64) & 1).any()


@pytest.mark.parametrize("name", CURRICULA)
@pytest.mark.parametrize("damage", [{}, {"fill": "x"}, {"fill": [[1.0], [2.0, 3.0]]}, {"nan": 1}])
def test_a_damaged_state_is_refused(name: str, damage: dict) -> None:
    sampler = made(name)
    play(sampler, lambda x: x.sum(1), 20)
    state = sampler.state()
    bad = {k: damage["fill"] for k in state} if "fill" in damage else {}
    if "nan" in damage:
        bad = {k: np.full(np.shape(v), math.nan).tolist() or "x" for k, v in state.items()}
    with pytest.raises(UserError, match="malformed"):
        sampler.load_state(bad)


def test_success_lifts_and_failure_lowers_each_level() -> None:
    sampler = SuccessDriven(TWO, 4, success=10.0)
    assert sampler.failure == 5.0
    for i, (returns, levels) in enumerate(
        [
            ([11, 4, 7, math.nan], [1, 0, 0, 0]),
            ([11, 11, 7, 11], [2, 1, 0, 1]),
            ([4, 7, 7, 4], [1, 1, 0, 0]),
        ]
    ):
        sampler.sample(i, KEY)
        sampler.report(i, np.array(returns, float), KEY)
        assert sampler.levels.tolist() == levels
    difficulty = sampler.sample(3, KEY).column("difficulty") / 2 * LEVELS
    assert np.floor(difficulty).tolist() == [1, 1, 0, 0]


def test_whoever_passes_the_last_level_goes_on_at_a_random_one() -> None:
    sampler = SuccessDriven(TWO, 200, success=0.0, failure=-1.0)
    play(sampler, lambda x: np.ones(len(x)), LEVELS)
    assert set(sampler.levels.tolist()) == set(range(LEVELS))


def test_a_negative_return_fails_at_twice_as_much() -> None:
    assert SuccessDriven(TWO, 4, success=-10.0).failure == -20.0


def test_cross_entropy_goes_to_the_worst_tail_and_back() -> None:
    sampler = CrossEntropy(TWO, 32)
    play(sampler, lambda x: -x[:, 0], 60)  # the worst tasks are those of high difficulty
    assert sampler.phi[0] > 0.9
    assert 0.3 < sampler.phi[1] < 0.7
    drawn = sampler.sample(60, KEY)
    assert drawn.column("difficulty").mean() > 1.6
    play(sampler, lambda x: x[:, 0], 60)
    assert sampler.phi[0] < 0.1


@pytest.mark.parametrize("n", [1, 2, 6, 20_000])
def test_weights_undo_the_draws(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighted, mean and tail of the drawn points are those of uniform points, n at a time."""
    sampler = CrossEntropy(TWO, n)
    sampler.phi = np.array([0.8, 0.35])
    rng = np.random.default_rng(0)
    points = np.concatenate([sampler.points(i, rng) for i in range(20_000 // n)])
    weights = sampler.weights(points)
    assert points[:, 0].mean() > 0.7
    assert np.average(points, axis=0, weights=weights) == pytest.approx([0.5, 0.5], abs=0.02)
    assert weighted_quantile(points[:, 0], weights, 0.05) == pytest.approx(0.05, abs=0.02)
    monkeypatch.setattr(cross_entropy, "UNIFORM", 1.0)
    assert sampler.weights(points) == pytest.approx(np.ones(len(points)))


@pytest.mark.parametrize(
    ("weights", "share", "expected"), [([1, 1, 1, 1], 0.5, 2), ([1, 1, 1, 5], 0.5, 4),
                                       ([6, 1, 1, 1], 0.5, 3)]
)  # fmt: skip
def test_weighted_quantile(weights: list, share: float, expected: float) -> None:
    assert weighted_quantile(np.array([3.0, 1, 2, 4]), np.array(weights, float), share) == expected


def test_regret_is_to_the_best_nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level_replay, "NEAR", 1)
    sampler = LevelReplay(TWO, 4)
    sampler.levels = np.array([
        [0.0, 0.0, 9.0, 2.0, 0], [0.1, 0.0, 5.0, 5.0, 1], [0.9, 0.9, 1.0, 1.0, 3],
        [0.9, 1.0, 1.0, 0.5, 3],
    ])  # fmt: skip
    assert sampler.regret().tolist() == [7.0, 4.0, 0.0, 0.5]
    rank = np.array([1, 1 / 2, 1 / 4, 1 / 3])
    stale = np.array([4, 3, 1, 1]) / 9
    assert sampler.chances(4) == pytest.approx(rank / rank.sum() / 2 + stale / 2)


def test_levels_come_again_where_the_return_has_fallen() -> None:
    sampler = LevelReplay(TWO, 40)
    play(sampler, lambda x: x[:, 0] * 0 + 1, 20)
    play(sampler, lambda x: np.where(x[:, 0] > 0.8, -5.0, 1.0), 20, 20)  # forgotten
    again = [
        (sampler.points(i, np.random.default_rng(i))[:, 0] > 0.8).mean() for i in range(41, 61)
    ]
    assert np.mean(again) > 0.3  # uniform: 0.2
    assert len(sampler.levels) <= level_replay.LEVELS
    points = sampler.levels[:, :-3]
    assert len(np.unique(points, axis=0)) == len(points)


def test_progress_is_to_the_nearest_earlier_task_and_draws_follow_it() -> None:
    sampler = AlpGmm(TWO, 25)
    sampler._points = np.array([[0.1, 0.1], [0.9, 0.9]])
    sampler.report(0, np.array([1.0, 5.0]), KEY)
    sampler._points = np.array([[0.2, 0.1], [0.8, 0.9]])
    sampler.report(1, np.array([4.0, 5.5]), KEY)
    assert sampler.seen[:, -1].tolist() == [0, 0, 3.0, 0.5]
    sampler = AlpGmm(TWO, 25)
    rng = np.random.default_rng(0)
    play(sampler, lambda x: np.where(x[:, 0] < 0.3, rng.normal(size=len(x)), 0.0), 3 * FIT // 25)
    assert 2 <= len(sampler.means) <= 10
    low = np.mean([(sampler.points(i, rng)[:, 0] < 0.3).mean() for i in range(40)])
    assert low > 0.6  # uniform: 0.3


def test_the_returns_of_the_last_whole_episode() -> None:
    worlds = TaskWorlds(find_family("half-cheetah-vel"), 4, 1)
    tasks = worlds.family.distribution.sample(2, Key(0).numpy())
    worlds.set_tasks(tasks, 2)
    worlds.reset()
    worlds.returns = {}
    rollout, _ = collect(
        worlds, lambda obs: torch.zeros(len(obs), 6), None, 7, Key(0), explore=False
    )
    assert worlds.returns[0] == pytest.approx(rollout.return_by_task())
    ends = torch.zeros(7, 4, dtype=torch.bool)
    ends[2], ends[5, :3] = True, True
    cut = rollout._replace(truncated=ends)
    paid = rollout.reward.double()
    expected = torch.stack([paid[3:6, w].sum() if w < 3 else paid[:3, w].sum() for w in range(4)])
    assert cut.last_return_by_task() == pytest.approx(expected.reshape(2, 2).mean(1))
    failed = torch.zeros_like(ends)
    failed[5, :2] = True
    got = cut._replace(diverged=failed).last_return_by_task()
    assert got.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"curriculum": "success"}, "needs --curriculum-success"),
        ({"curriculum": "success", "curriculum_success": 1.0, "curriculum_param": "dificulty"},
         "did you mean 'difficulty'"),
        ({"curriculum": "success", "curriculum_success": 1.0, "curriculum_failure": 2.0},
         "must be at most"),
        ({"curriculum": "best"}, "curriculum must be uniform, "),
        ({"curriculum_success": math.nan}, "must be a finite number"),
        ({"curriculum_failure": "x"}, "must be a finite number"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_sampler(TWO, TrainConfig(**settings), None)


def test_families_and_learners_that_cannot_have_one() -> None:
    train = TrainConfig(curriculum="cross-entropy")
    with pytest.raises(UserError, match="no parameters"):
        make_sampler(box(), train, None)
    with pytest.raises(UserError, match="keeps data of a pool"):
        make_sampler(TWO, train, 100)


def test_choices_have_a_curriculum_too() -> None:
    sampler = CrossEntropy(box(Param("leg", Choices((0.0, 1.0, 2.0, 3.0)))), 64)
    tasks = play(sampler, lambda x: -(x[:, 0] * 4).astype(int), 40)
    assert tasks is not None
    assert (tasks.values == 3).mean() > 0.5


def test_the_names_of_the_settings_are_those_of_the_curricula() -> None:
    assert (*NAMES,) == ("uniform", *CURRICULA)


@pytest.mark.parametrize("name", ["success", "cross-entropy"])
@pytest.mark.usefixtures("_empty_charts")
def test_a_run_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    def config(out: str, iterations: int) -> TrainConfig:
        return TrainConfig(
            tasks_per_iteration=4, rollouts_per_task=1, iterations=iterations, evaluate_tasks=2,
            evaluate_every=100, checkpoint_every=1, threads=1, progress=False, device="cpu",
            out=str(tmp_path / out), curriculum=name, curriculum_success=-20.0,  # type: ignore[arg-type]
            curriculum_failure=-21.0, curriculum_param="goal_x",
        )  # fmt: skip

    learner = find_learner("ppo").Config(hidden=(4,))
    start_run("point-goal", "ppo", config("whole", 4), learner)
    start_run("point-goal", "ppo", config("part", 2), learner)
    half = checkpoints.load(checkpoints.newest(tmp_path / "part"))
    resume_run(half, replace(train_config(half), iterations=4))
    ends = [checkpoints.load(checkpoints.newest(tmp_path / out)) for out in ("whole", "part")]
    assert ends[0].meta["sampler"] == ends[1].meta["sampler"]
    for key, tensor in ends[0].tensors.items():
        assert torch.equal(tensor, ends[1].tensors[key]), key
    rows = list(csv.DictReader((tmp_path / "whole" / "metrics.csv").open()))
    assert len(rows) == 4
    assert all(row["curriculum/goal_x"] for row in rows)
    summary = read_run(tmp_path / "whole")
    assert len(summary.curriculum["goal_x"]) == 4
    assert "Curriculum: goal_x" in render([summary])


def test_the_sampler_of_the_docs_samples() -> None:
    text = (Path(__file__).parents[2] / "docs" / "curriculum.md").read_text(encoding="utf-8")
    code, names = text.split("```python\n")[1].split("```")[0], {}
    exec(code, names)
    sampler = names["Alternating"](TWO, 8)
    slow, fast = (sampler.sample(i, KEY).column("difficulty") for i in (0, 1))
    assert slow.max() < 1 < fast.min()

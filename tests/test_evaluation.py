"""The meta-test protocol, and the statistics behind its intervals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import trim_mean

from envs.point import PointGoal
from metarl import TaskDistribution, TaskWorlds, evaluate
from metarl.adapted import adapt_to
from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
from metarl.errors import UserError
from metarl.evaluation import Report, _levels, iqm, iqm_interval, resampled_rows, stand_still


@pytest.fixture(scope="module")
def worlds() -> TaskWorlds:
    return TaskWorlds("point-goal", 12, threads=1)


@pytest.fixture(scope="module")
def report(worlds: TaskWorlds) -> Report:
    tasks = TaskDistribution(worlds.family).split("heldout", 4)
    return evaluate(learner(worlds), worlds, tasks, episodes=2, seed=5)


def learner(worlds: TaskWorlds) -> MamlTrpo:
    return MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,)))


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    assert iqm(np.array([100.0, 1.0, 2.0, -50.0])) == pytest.approx(1.5)
    values = np.random.default_rng(0).normal(size=(30, 3))
    np.testing.assert_allclose(iqm(values), trim_mean(values, 0.25, axis=0))


def test_tasks_that_occur_once_are_resampled_together() -> None:
    rows = resampled_rows([[0.1], [0.2], [0.3]], np.random.default_rng(0), 500)
    assert rows.shape == (500, 3)
    assert set(np.unique(rows[:, 0])) == {0, 1, 2}


def test_equal_tasks_are_resampled_among_themselves() -> None:
    rows = resampled_rows([[1.0], [-1.0], [1.0], [-1.0]], np.random.default_rng(0), 500)
    assert set(np.unique(rows[:, [0, 2]])) == {0, 2}
    assert set(np.unique(rows[:, [1, 3]])) == {1, 3}


@pytest.mark.parametrize("count", [6, 60])
def test_the_intervals_cover_the_truth_about_95_times_in_100(count: int) -> None:
    """Of few tasks too, where the plain percentiles cover the mean 88 times in 100.

    The interquartile mean of few is covered more often than that: its bootstrap is wide already.
    """
    rng = np.random.default_rng(1)
    tasks = np.arange(float(count))[:, None]
    hits = np.zeros(2)
    for _ in range(400):
        gain = rng.normal(size=(count, 1))
        _, ((low, high),) = iqm_interval(gain, tasks, rng)
        one = report_of(tasks, np.hstack([np.zeros((count, 1)), gain]), int(rng.integers(10**6)))
        _, lowest, highest = one.difference()
        hits += low <= 0.0 <= high, lowest <= 0.0 <= highest
    assert ((hits / 400 >= 0.92) & (hits / 400 <= 0.98)).all(), hits


def report_of(tasks: np.ndarray, returns: np.ndarray, seed: int = 0) -> Report:
    """Make a report of returns, (M, 2), alone."""
    return Report(
        "f", "a", "heldout", seed, 1, ["x"], tasks.tolist(), returns.tolist(), [0, 1],
        [0.5, 3.5], [[0, 1], [2, 5]], [0.5, 3.5], -9.0, 1, 1.0,
    )  # fmt: skip


def test_the_levels_of_an_interval_by_hand() -> None:
    """Student's t of 7 degrees of freedom is 2.365 at 97.5 %; √(8/7) of it is 2.528 normal σ."""
    assert _levels(np.arange(8.0)[:, None]) == pytest.approx([0.574, 99.426], abs=1e-3)
    assert _levels(np.arange(1e6)[:, None]) == pytest.approx([2.5, 97.5], abs=1e-3)
    assert _levels([[1.0], [-1.0], [1.0], [-1.0]])[0] < 0.001
    assert _levels([[1.0]]) == [0.0, 100.0]


def test_experience_counts_the_episodes_that_were_adapted_to(report: Report) -> None:
    assert report.experience == [0, 3, 6]
    assert report.rollouts_per_task == 3
    assert np.shape(report.returns) == (4, 3)
    # 12 worlds, 20 steps: standing still, three scored rounds, two explored ones
    assert report.env_steps == 12 * 20 * 6


def test_keys_are_those_of_the_contract(report: Report) -> None:
    assert set(report.to_json()) == {
        "family", "algorithm", "split", "seed", "rollouts_per_task", "task_names", "tasks",
        "returns", "experience", "iqm", "ci95", "mean", "stand_still", "env_steps", "seconds",
        "diverged",
    }  # fmt: skip


def test_returns_are_those_of_a_plain_loop(worlds: TaskWorlds, report: Report) -> None:
    """Round 0 of a zero policy stands still, so its return is minus the distance to the goal."""
    agent = learner(worlds)
    agent.theta = torch.zeros_like(agent.theta)
    tasks = TaskDistribution(worlds.family).split("heldout", 4)
    got = evaluate(agent, worlds, tasks, episodes=0, seed=5)
    distance = np.linalg.norm(tasks.values, axis=1) * 20
    np.testing.assert_allclose(np.array(got.returns)[:, 0], -distance, rtol=0.02)
    assert got.stand_still == pytest.approx(-distance.mean(), rel=0.02)


def test_the_same_seed_gives_the_same_report(worlds: TaskWorlds, report: Report) -> None:
    tasks = TaskDistribution(worlds.family).split("heldout", 4)
    again = evaluate(learner(worlds), worlds, tasks, episodes=2, seed=5)
    assert again.returns == report.returns
    assert again.ci95 == report.ci95
    other = evaluate(learner(worlds), worlds, tasks, episodes=2, seed=6)
    assert other.returns != report.returns


def test_a_task_is_scored_alike_in_any_company(worlds: TaskWorlds, report: Report) -> None:
    """The first two tasks alone give the same bits as among four: draws are keyed by task."""
    tasks = TaskDistribution(worlds.family).split("heldout", 4)[:2]
    pair = TaskWorlds("point-goal", 6, threads=1)
    got = evaluate(learner(pair), pair, tasks, episodes=0, seed=5)
    np.testing.assert_allclose(
        np.array(got.returns)[:, 0], np.array(report.returns)[:2, 0], rtol=1e-6
    )


def test_evaluation_leaves_the_weights_alone(worlds: TaskWorlds) -> None:
    agent = learner(worlds)
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    tasks = TaskDistribution(worlds.family).split("heldout", 4)
    evaluate(agent, worlds, tasks, episodes=1, seed=0)
    assert all(torch.equal(before[k], v) for k, v in agent.state_dict().items())


def test_stand_still_is_zero_action(worlds: TaskWorlds) -> None:
    tasks = TaskDistribution(worlds.family).make(goal_x=1.0, goal_y=0.0)
    assert stand_still(worlds, tasks, 0) == pytest.approx(-20.0, rel=0.01)


def test_stand_still_counts_the_first_episode_alone() -> None:
    """One that fails at once earns one reward of the twenty."""

    class Lost(PointGoal):
        name = "lost"

        def terminated(self, sim):
            return torch.ones(len(sim.qpos), dtype=torch.bool)

    worlds = TaskWorlds(Lost(), 2, threads=1)
    tasks = TaskDistribution(worlds.family).make(goal_x=1.0, goal_y=0.0)
    assert stand_still(worlds, tasks, 0) == pytest.approx(-1.0, rel=0.05)


def test_divergence_is_counted_once_for_each_scored_episode() -> None:
    """A world whose episodes all diverge in their third step does so six times in a horizon."""

    class Broken(PointGoal):
        name = "broken"

        def observe(self, sim, task):
            broken = (sim.time > 0.25) & (torch.arange(sim.num_worlds) % 2 == 0)
            return torch.where(broken[:, None], torch.nan, super().observe(sim, task))

    worlds = TaskWorlds(Broken(), 4, threads=1)
    task = TaskDistribution(worlds.family).make(goal_x=0.5)
    assert evaluate(learner(worlds), worlds, task, episodes=1, seed=0).diverged == 2 * 2
    rounds = adapt_to(learner(worlds), worlds, task, episodes=1, seed=0)
    assert [one.diverged for one in rounds] == [2, 2]


def test_worlds_must_divide_evenly(worlds: TaskWorlds) -> None:
    tasks = TaskDistribution(worlds.family).split("heldout", 5)
    with pytest.raises(UserError, match="12 worlds"):
        evaluate(learner(worlds), worlds, tasks, episodes=0, seed=0)


def test_difference_by_hand() -> None:
    report = report_of(np.array([[0.0], [1.0]]), np.array([[0.0, 2.0], [1.0, 5.0]]))
    mean, low, high = report.difference()
    assert (mean, low, high) == (3.0, 2.0, 4.0)
    assert "+3.0" in "\n".join(report.summary())


def test_the_summary_claims_no_gain_of_a_policy_that_did_not_adapt() -> None:
    report = report_of(np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]]))
    report = replace(report, experience=[0], mean=[0.5], iqm=[0.5], ci95=[[0.0, 1.0]])
    assert "gains" not in "\n".join(report.summary())


def test_the_summary_says_where_tasks_are_too_few_for_an_interval() -> None:
    note = "too few tasks"
    for count, directions, few in ((5, None, True), (6, None, False), (6, 2, True), (8, 2, False)):
        tasks = np.arange(float(count))[:, None] % (directions or count)
        report = report_of(tasks, np.zeros((count, 2)))
        assert (note in "\n".join(report.summary())) == few, (count, directions)


def test_save_and_load(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "deep" / "report.json"
    report.save(path)
    assert Report.load(path) == report
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"family": 1', "null"])
def test_malformed_reports_are_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"report\.json") as caught:
        Report.load(path)
    assert "\n" not in str(caught.value)


def test_a_report_of_the_wrong_shape_is_refused(report: Report) -> None:
    data = json.loads(json.dumps(report.to_json()))
    data["returns"] = data["returns"][:1]
    with pytest.raises(UserError, match="returns"):
        Report.from_json(data)


def test_the_summary_says_where_heldout_is_train(report: Report) -> None:
    note = "the held-out tasks are the training tasks"
    assert note not in "\n".join(report.summary())
    assert note in "\n".join(replace(report, family="half-cheetah-dir").summary())
    assert note not in "\n".join(replace(report, family="not at hand").summary())
    turns, draws = [[-1.0], [1.0], [-1.0], [1.0]], [[32.0], [34.0], [34.0], [33.0]]
    for tasks, same in ((turns, True), (draws, False)):  # of a family that cannot be looked up
        stranger = replace(report, family="not at hand", tasks=tasks)
        assert (note in "\n".join(stranger.summary())) == same


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tasks", "ab"), ("task_names", [1]), ("seed", None), ("seed", True), ("iqm", [1.0]),
        ("iqm", ["a", "b", "c"]), ("ci95", [1, 2, 3]), ("mean", None), ("stand_still", "x"),
        ("experience", [0, 2, 1]), ("returns", [[float("nan")] * 3] * 4), ("returns", []),
        ("returns", [["1"] * 3] * 4), ("returns", [[1.0], [1.0, 2.0]]), ("family", 3),
    ],
)  # fmt: skip
def test_a_bad_field_is_named_in_one_line(report: Report, key: str, value: object) -> None:
    with pytest.raises(UserError, match=key) as caught:
        Report.from_json(report.to_json() | {key: value})
    assert "\n" not in str(caught.value)


def test_json_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("[" * 200_000)
    with pytest.raises(UserError, match=r"report\.json"):
        Report.load(path)


def test_a_report_runs_no_file_that_it_names(tmp_path: Path, report: Report) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    data = report.to_json() | {"family": f"{tmp_path}/evil.py:Evil"}
    assert "evil.py" in Report.from_json(data).summary()[0]


def test_episodes_must_not_be_negative(worlds: TaskWorlds) -> None:
    tasks = TaskDistribution(worlds.family).split("heldout", 4)
    with pytest.raises(UserError, match="episodes"):
        evaluate(learner(worlds), worlds, tasks, episodes=-1, seed=0)


def test_small_returns_are_shown_to_three_digits(report: Report) -> None:
    scale = 1e-4 / max(abs(value) for value in report.mean)
    tiny = replace(
        report, mean=[scale * m for m in report.mean], iqm=[scale * m for m in report.iqm],
        ci95=[[scale * c for c in pair] for pair in report.ci95],
        returns=[[scale * r for r in task] for task in report.returns],
        stand_still=scale * report.stand_still,
    )  # fmt: skip
    shown = [line.split()[1] for line in tiny.summary()[2 : 2 + len(report.mean)]]
    assert [float(text) for text in shown] == pytest.approx(tiny.mean, abs=5e-7)
    assert len(set(shown)) > 1

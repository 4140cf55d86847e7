"""The meta-test protocol, and the statistics behind its intervals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.refusals import refused

from envs.point import PointGoal
from metarl import Choices, Param, TaskDistribution, TaskWorlds, evaluate
from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
from metarl.base.errors import UserError
from metarl.evaluation.protocol import WITHIN, Report, stand_still
from metarl.learning.adaptation import adapt_to


@pytest.fixture(scope="module")
def worlds() -> TaskWorlds:
    return TaskWorlds("point-goal", 12, threads=1)


@pytest.fixture(scope="module")
def report(worlds: TaskWorlds) -> Report:
    tasks = TaskDistribution(worlds.family).split("heldout", 4)
    return evaluate(learner(worlds), worlds, tasks, episodes=2, seed=5)


def learner(worlds: TaskWorlds) -> MamlTrpo:
    return MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,)))


def report_of(tasks: np.ndarray, returns: np.ndarray, seed: int = 0) -> Report:
    """Make a report of returns, (M, 2), alone."""
    return Report(
        "f", "a", "heldout", seed, 1, ["x"], tasks.tolist(), returns.tolist(), [0, 1],
        [0.5, 3.5], [[0, 1], [2, 5]], [0.5, 3.5], -9.0, 1, 1.0,
    )  # fmt: skip


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
        "diverged", "adapts_within", "train_is_heldout", "distinct_tasks", "stand_still_by_task",
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


def test_what_is_measured_and_not_paid_and_failures_a_minute() -> None:
    """Every world fails after its 5th step of 0.1 s: 4 times in a horizon of 20, 2 s."""

    class Measured(PointGoal):
        name = "measured"
        reward_weights = {"place": 0.0}  # noqa: RUF012
        memory = {"age": (1,)}  # noqa: RUF012

        def reward(self, sim, before, action, task):
            return {"paid": -sim.qpos[:, 0].abs(), "place": task["goal_x"]}

        def remember(self, sim, action, task, rng):
            sim.memory["age"] += 1

        def terminated(self, sim):
            return sim.memory["age"][:, 0] == 4

    worlds = TaskWorlds(Measured(), 4, threads=1)
    tasks = TaskDistribution(worlds.family).split("heldout", 2)
    report = evaluate(lambda obs: 0 * obs[:, :2], worlds, tasks, episodes=1, seed=0)
    places = report.diagnostics["measured/place"]
    np.testing.assert_allclose(places, [tasks.column("goal_x")] * 2, rtol=1e-6)
    minute = worlds.family.dt * worlds.family.horizon / 60
    failures = report.diagnostics["measured/failures_per_minute"]
    np.testing.assert_allclose(failures, [[4 / minute] * 2] * 2)
    lines = report.summary()
    assert f"failures per minute: {4 / minute:.3g} → {4 / minute:.3g}" in lines
    assert sum(line.startswith("place: ") for line in lines) == 1
    assert Report.from_json(report.to_json()).diagnostics == report.diagnostics


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
    assert "gain" not in "\n".join(report.summary())


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
    with refused(match=r"report\.json"):
        Report.load(path)


def test_a_report_of_the_wrong_shape_is_refused(report: Report) -> None:
    data = json.loads(json.dumps(report.to_json()))
    data["returns"] = data["returns"][:1]
    with pytest.raises(UserError, match="returns"):
        Report.from_json(data)


@pytest.mark.parametrize("split", ["heldout", "ood", "train"])
def test_evaluate_says_whether_heldout_is_train(split: str) -> None:
    """Two legs to lose, and a third one that only ood has: held-out tasks are those of training."""

    class Legs(PointGoal):
        name = "legs"
        params = (Param("leg", Choices((0, 1), ood=(2,))),)

        def reward(self, sim, before, action, task):
            return -task["leg"]

    worlds = TaskWorlds(Legs(), 6, threads=1)
    tasks = TaskDistribution(worlds.family).split(split, 6)
    report = evaluate(learner(worlds), worlds, tasks, episodes=0, seed=0, split=split)
    assert report.train_is_heldout == (split == "heldout")
    assert report.to_json()["distinct_tasks"] == (1 if split == "ood" else 2)
    assert report.stand_still_by_task == [-20.0 * leg for (leg,) in report.tasks]
    same = " (train = held-out)" if split == "heldout" else ""
    count = "1 task, 6 worlds" if split == "ood" else f"2 tasks{same}, 3 worlds"
    assert f"{split}: {count} each" in report.summary()[0]
    assert report.mark() == (
        f" ({'train = held-out, ' * bool(same)}{6 if split == 'ood' else 3} worlds each)"
    )


def test_a_report_of_plain_tasks_has_no_mark(report: Report) -> None:
    assert not report.train_is_heldout
    assert (report.distinct_tasks, report.mark(), report.worlds_each()) == (4, "", "3 worlds")
    uneven = replace(report, tasks=[[0.0], [1.0], [1.0], [1.0]])
    assert (uneven.distinct_tasks, uneven.worlds_each()) == (2, "3 to 9 worlds")


TURNS, DRAWS = [[-1.0], [1.0], [-1.0], [1.0]], [[32.0], [34.0], [34.0], [33.0]]


@pytest.mark.parametrize(
    ("tasks", "split", "same"),
    [(TURNS, "heldout", True), (TURNS, "ood", False), (DRAWS, "heldout", False)],
)
def test_files_of_older_versions_are_read(report: Report, tasks, split: str, same: bool) -> None:
    """They lack three keys; tasks that take turns are the combinations of choices."""
    data = report.to_json() | {"tasks": tasks, "task_names": ["x"], "split": split}
    for key in ("train_is_heldout", "distinct_tasks", "stand_still_by_task"):
        del data[key]
    del data["adapts_within"]
    old = Report.from_json(data)
    assert not old.adapts_within
    assert Report.from_json(data | {"experience": [0, 1, 2]}).adapts_within
    for algorithm in ("rl2", "maml-trpo"):
        one = {"experience": [0, 1, 2], "rollouts_per_task": 1, "algorithm": algorithm}
        assert Report.from_json(data | one).adapts_within == (algorithm == "rl2")
    assert (old.train_is_heldout, old.stand_still_by_task) == (same, [])
    note = "the held-out tasks are the training tasks"
    assert (note in "\n".join(old.summary())) == same


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (-8.0, -2.0, "adaptation gains; better than standing still"),
        (-8.0, -7.0, "adaptation gains; worse than standing still"),
        (-8.0, -6.0, "adaptation gains; not shown to be better than standing still"),
        (-8.0, -5.9, "adaptation gains; hardly better than standing still"),
        (-2.0, -4.0, "adaptation harms; better than standing still"),
        (-2.0, -2.0, "no gain by adaptation is shown; better than standing still"),
    ],
)
def test_the_verdict_against_standing_still(before: float, after: float, words: str) -> None:
    """Ten tasks in which standing still scores −6 on average; returns vary by ±0.01 around it."""
    spread = np.linspace(-1.0, 1.0, 10)
    noise = 0.01 * np.array([-1.0, 1.0] * 5)
    returns = np.stack([before + spread, after + spread + noise], 1)
    one = replace(
        report_of(np.arange(10.0)[:, None], returns), stand_still=-6.0,
        stand_still_by_task=(spread - 6.0).tolist(),
    )  # fmt: skip
    assert one.verdict() == words
    assert f"verdict: {words}" in one.summary()
    within = replace(one, adapts_within=True).summary()
    assert (WITHIN in within) == ("no gain" in words)
    assert WITHIN not in replace(one, adapts_within=False).summary()
    assert WITHIN not in replace(one, adapts_within=True, algorithm="ppo").summary()
    assert "adaptation" not in replace(one, experience=[0]).verdict()


def test_the_lead_over_standing_still_is_paired_by_task() -> None:
    """Tasks differ by ±100 and the lead is 1 in each: only the pairs show it."""
    spread = np.linspace(-100.0, 100.0, 10)
    returns = np.stack([spread, spread + 1.0], 1)
    one = report_of(np.arange(10.0)[:, None], returns)
    paired = replace(one, stand_still=0.0, stand_still_by_task=spread.tolist())
    assert paired.lead() == pytest.approx((1.0, 1.0, 1.0))
    assert replace(one, stand_still=0.0).lead()[1] < 0


def test_there_is_no_verdict_on_few_tasks() -> None:
    one = report_of(np.arange(5.0)[:, None], np.tile([0.0, 9.0], (5, 1)))
    assert one.verdict() == "too few tasks for a verdict"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tasks", "ab"), ("task_names", [1]), ("seed", None), ("seed", True), ("iqm", [1.0]),
        ("iqm", ["a", "b", "c"]), ("ci95", [1, 2, 3]), ("mean", None), ("stand_still", "x"),
        ("experience", [0, 2, 1]), ("returns", [[float("nan")] * 3] * 4), ("returns", []),
        ("returns", [["1"] * 3] * 4), ("returns", [[1.0], [1.0, 2.0]]), ("family", 3),
        ("train_is_heldout", 1), ("adapts_within", 0),
        ("stand_still_by_task", [1.0]), ("stand_still_by_task", "x"),
    ],
)  # fmt: skip
def test_a_bad_field_is_named_in_one_line(report: Report, key: str, value: object) -> None:
    with refused(match=key):
        Report.from_json(report.to_json() | {key: value})


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

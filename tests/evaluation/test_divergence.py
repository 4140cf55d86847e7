"""Diverged physics never looks better than it is: in returns, in reports, and to a learner."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.families import mostly_slow

from envs.point import PointGoal
from metarl import TaskDistribution, TaskWorlds, UserError, collect, evaluate
from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
from metarl.algorithms.pearl import Pearl, PearlConfig
from metarl.algorithms.rl2 import Rl2, Rl2Config
from metarl.base.keys import Key
from metarl.cli import main
from metarl.evaluation import protocol
from metarl.evaluation.divergence import DivergenceWatch, percent, refuse_nonfinite
from metarl.evaluation.probe import probe
from metarl.evaluation.protocol import Report, stand_still
from metarl.evaluation.statistics import gain_interval, iqm_interval, mean_of_tasks
from metarl.evaluation.stream import stream
from metarl.learning import checkpoint as checkpoints
from metarl.learning.adaptation import adapt_to, load_adapted, save_adapted
from metarl.report.page import render
from metarl.report.run_summary import RunSummary
from metarl.runs.config import Position
from metarl.tasks.sampler import task_sampler
from metarl.worlds.policy import ZeroPolicy

NAN = float("nan")


def family(**methods: object) -> PointGoal:
    """Return a point-goal of ten steps with some methods replaced."""
    return type("Variant", (PointGoal,), {"name": "variant", "horizon": 10} | methods)()


def broken_worlds(which):
    """Return a reward of −1 a step, after which the worlds of a (B,) mask diverge in step 3."""

    def reward(self, sim, before, action, task):
        bad = torch.tensor(which) & (sim.time > 1.5 * self.dt)
        sim.qvel[bad] = 1e12
        return torch.full((sim.num_worlds,), -1.0)

    return reward


def report_of(which: list[bool], episodes: int = 1) -> Report:
    """Evaluate on tasks of two worlds each, of which some diverge in every episode."""
    worlds = TaskWorlds(family(reward=broken_worlds(which)), len(which), 1)
    tasks = TaskDistribution(worlds.family).split("heldout", len(which) // 2)
    return evaluate(learner(worlds), worlds, tasks, episodes=episodes, seed=0)


def learner(worlds: TaskWorlds) -> MamlTrpo:
    return MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(4,)))


# --- returns -----------------------------------------------------------------------------------


def test_a_diverged_episode_is_in_no_mean() -> None:
    """Task 0: both worlds finish. Task 1: one does. Task 2: none. Each return is −10, or none."""
    report = report_of([False, False, False, True, True, True])
    assert report.returns[:2] == [[-10.0, -10.0]] * 2
    assert np.isnan(report.returns[2]).all()
    assert (report.mean, report.iqm) == ([-10.0, -10.0], [-10.0, -10.0])
    assert report.ci95 == [[-10.0, -10.0]] * 2
    assert (report.stand_still, report.diverged) == (-10.0, 2 * 3)
    assert report.difference() == (0.0, 0.0, 0.0)
    said = "\n".join(report.summary())
    assert "diverged in 6 of 12 scored episodes" in said
    assert "of 1 of 3 tasks a round has no return" in said


def test_no_round_gains_by_losing_its_worst_tasks(monkeypatch) -> None:
    """The worse of two tasks diverges after adaptation: it is in no round's mean, nor in what
    standing still scores; where that leaves no task, each round has what it has."""
    returns = np.array([[-1.0, -1.0], [-9.0, NAN]])
    monkeypatch.setattr(protocol, "_rounds", lambda *_: (returns, 2, {}))
    monkeypatch.setattr(
        protocol, "_stand_still", lambda *_: torch.tensor([[-2.0, -2.0], [-9.0, -9.0]])
    )
    report = report_of([False] * 4)
    assert (report.mean, report.iqm, report.stand_still) == ([-1.0] * 2, [-1.0] * 2, -2.0)
    returns[0, 0] = NAN
    assert report_of([False] * 4).mean == [-9.0, -1.0]


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (10, "adaptation gains; better than standing still"),
        (8, "adaptation gains; better than standing still; 2 of 20 episodes diverged"),
        (5, "too few tasks for a verdict that did not diverge"),
        (0, "every episode diverged, so there is nothing to compare"),
    ],
)
def test_a_verdict_counts_the_tasks_that_are_left(left: int, words: str) -> None:
    """Ten tasks of one world, some of which diverge after adaptation."""
    returns = np.stack([-9.0 + np.linspace(-1.0, 1.0, 10), np.linspace(-3.0, -2.0, 10)], 1)
    returns[left:, 1] = NAN
    report = Report(
        "f", "a", "heldout", 0, 1, ["x"], np.arange(10.0)[:, None].tolist(), returns.tolist(),
        [0, 1], [0, 0], [[0, 0]] * 2, [0, 0], -9.0, 1, 1.0, diverged=10 - left,
        stand_still_by_task=[-9.0] * 10,
    )  # fmt: skip
    assert report.verdict() == words


def test_a_step_that_diverges_is_in_no_mean_of_a_stream_or_a_probe() -> None:
    """Each step pays −1: stream 0 has two whole worlds, stream 1 one, and stream 2 none."""
    worlds = TaskWorlds(family(reward=broken_worlds([False] * 3 + [True] * 3)), 6, 1)
    tasks = TaskDistribution(worlds.family).split("heldout", 3)
    how = {"streams": 3, "rounds": 2, "every": 4.0, "seed": 0}
    found = stream(ZeroPolicy(), worlds, tasks, **how)
    np.testing.assert_array_equal(found.rewards, [[-1, -1, NAN]] * 20)
    assert (found.left_out, found.diverged >= 6) == (3 * 2, True)
    assert found.to_json(10, 2, None, 0)["windows"]["mean"] == [-10, -10]
    probed = probe(ZeroPolicy(), worlds, tasks, episodes=1, seed=0)
    assert probed.first == probed.last == [-1.0] * 10


def test_a_report_of_which_everything_diverged_says_so() -> None:
    report = report_of([True] * 4)
    for numbers in (report.returns, report.mean, report.iqm, report.ci95, report.stand_still):
        assert np.isnan(numbers).all()
    assert np.isnan(report.difference()).all()
    said = "\n".join(report.summary())
    assert said.count("all diverged") == 5  # two rounds, standing still, gain and lead
    assert "nan" not in said
    assert "gains" not in said


@pytest.mark.parametrize("which", [[False, True, True, True], [True] * 4])
def test_such_a_report_survives_json_and_is_shown(which: list[bool]) -> None:
    report = report_of(which)
    text = json.dumps(report.to_json(), allow_nan=False)
    again = Report.from_json(json.loads(text))
    assert again.to_json() == report.to_json()
    page = render([RunSummary(Path("x"), "x", "variant", reports={"heldout": again})])
    assert "all diverged" in page or not all(which)
    assert ">nan" not in page.lower()


def test_nulls_without_a_divergence_are_refused() -> None:
    data = report_of([True] * 4).to_json() | {"diverged": 0}
    with pytest.raises(UserError, match="returns has nulls"):
        Report.from_json(data)


def test_statistics_leave_out_what_is_not_known() -> None:
    returns = np.array([[1.0, NAN], [2.0, NAN], [3.0, 5.0], [NAN, 7.0]])
    tasks = np.arange(4.0)[:, None]
    assert mean_of_tasks(returns).tolist() == [2.0, 6.0]
    centre, interval = iqm_interval(returns, tasks, np.random.default_rng(0))
    assert centre.tolist() == [2.0, 6.0]
    assert np.isfinite(interval).all()
    assert gain_interval(returns[:, 1] - returns[:, 0], tasks, 0)[0] == 2.0
    assert np.isnan(gain_interval(np.array([NAN]), [[0.0]], 0)).all()


def test_standing_still_leaves_out_the_worlds_that_diverge() -> None:
    worlds = TaskWorlds(family(reward=broken_worlds([True, False])), 2, 1)
    task = TaskDistribution(worlds.family).make(goal_x=0.5)
    assert stand_still(worlds, task, 0) == -10.0


def test_a_round_of_an_adaptation_leaves_them_out() -> None:
    worlds = TaskWorlds(family(reward=broken_worlds([True, False])), 2, 1)
    task = TaskDistribution(worlds.family).make(goal_x=0.5)
    for one in adapt_to(learner(worlds), worlds, task, episodes=1, seed=0):
        assert (one.mean, one.diverged) == (-10.0, 1)


def test_an_action_that_is_not_finite_reaches_no_rollout() -> None:
    class Mad(MamlTrpo):
        def act(self, step, state, *, explore, noise):
            action, state = super().act(step, state, explore=explore, noise=noise)
            return action.index_fill(0, torch.tensor([1]), torch.nan), state

    worlds = TaskWorlds(family(), 4, 1)
    agent = Mad(worlds.spec, MamlTrpoConfig(hidden=(4,)))
    rollout, _ = collect(worlds, agent, agent.begin(4, 1), 3, Key(0), explore=False)
    assert rollout.diverged[:, 1].all()
    assert rollout.action.isfinite().all()
    assert "actuator 'x' was given a control that is not finite" in worlds.why_diverged()


# --- training ----------------------------------------------------------------------------------

ROBOT = """
from pathlib import Path
import torch
from metarl import Interval, Param, TaskFamily
MJCF = '<mujoco><worldbody><body><joint name="arm" axis="0 1 0" %s/><geom type="capsule" ' \\
       'fromto="0 0 0 0 0 .1" size=".005" mass=".01"/></body></worldbody><actuator>' \\
       '<position joint="arm" kp="80" kv="4" ctrlrange="-3 3"/></actuator></mujoco>'

class Robot(TaskFamily):
    model = MJCF
    horizon = 20
    params = (Param("goal", Interval(-1.0, 1.0)),)

    def reward(self, sim, before, action, task):
        paid = -(sim.qpos[:, 0] - task["goal"]).abs()
        mended = Path(__file__).with_name("mended").exists()
        return paid if mended else %s
"""
SMALL = [
    "--tasks-per-iteration=2", "--rollouts-per-task=2", "--threads=1", "--evaluate-tasks=2",
    "--evaluate-episodes=1", "--device=cpu", "--iterations=2",
]  # fmt: skip
SOUND = 'armature=".1" damping="1"'


def train(
    tmp_path: Path, capsys, joint: str = SOUND, reward: str = "paid", algorithm: str = "maml-trpo"
) -> tuple[int, str]:
    """Train a robot from the command line; return the code and all that was printed."""
    file, run = tmp_path / "robot.py", tmp_path / "run"
    file.write_text(ROBOT % (joint, reward))
    words = ["--resume", str(run)] if run.exists() else [f"{file}:Robot", algorithm]
    small = ["--train-tasks", "4", "--gradient-steps", "2"] if algorithm == "pearl" else []
    code = main(
        ["train", *words, *SMALL, *small, *(["--out", str(run)] if len(words) == 2 else [])]
    )
    caught = capsys.readouterr()
    return code, caught.out + caught.err


def test_a_run_of_which_everything_diverges_stops_with_one_line(tmp_path, capsys) -> None:
    code, said = train(tmp_path, capsys, joint="")
    assert code == 2
    (error,) = [line for line in said.splitlines() if "error" in line]
    assert "iteration 1: all of its 160 transitions diverged" in error
    assert "joint 'arm' has" in error
    assert "kp 80 and kv 4" in error
    assert "timestep" not in error
    assert "return all diverged → all diverged (stand still all diverged)" in said
    assert checkpoints.newest(tmp_path / "run").name == "step_00000000"


def test_many_divergences_are_one_warning_and_a_closing_line(tmp_path, capsys) -> None:
    """One of four worlds diverges in step 11 of its 20, and has only 9 after it: 1 in 80."""
    late = (
        "paid.masked_fill((torch.arange(len(paid)) == 0) & (sim.time > 10.5 * self.dt), torch.nan)"
    )
    code, said = train(tmp_path, capsys, reward=late)
    assert code == 0, said
    lines = said.splitlines()
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    assert warning.startswith("warning: iteration 1: 1.2 % of the transitions diverged")
    assert "reward() was not finite" in warning
    assert any(line.startswith("1.2 % of the training transitions diverged") for line in lines)
    assert "diverged in 2 of 8 scored episodes" in said
    assert "verdict: too few tasks for a verdict" in lines
    for command in ("evaluate", "adapt"):
        words = ["--tasks", "2"] if command == "evaluate" else ["--set", "goal=0.5"]
        assert main([command, str(tmp_path / "run"), *words, "--episodes", "1"]) == 0
        assert "diverged in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shares", "lines"),
    [([0.0, 0.01], 0), ([0.0, 0.011, 0.5], 1), ([0.3, 0.4, 0.0], 1)],
)
def test_the_warning_comes_once_and_above_one_percent(shares: list[float], lines: int) -> None:
    worlds, position = TaskWorlds(family(), 2, 1), Position()
    watch = DivergenceWatch(position)
    said = [line for share in shares for line in watch.note(1000 * share, 1000, worlds)]
    position.env_steps = 1000 * len(shares)
    assert len(said) == lines
    assert position.diverged == 1000 * sum(shares)
    assert len(list(watch.closing())) == 1
    assert Position.of(vars(position)).diverged == position.diverged


def test_a_share_is_never_rounded_to_none_or_all() -> None:
    assert [percent(*p) for p in ((1, 10**6), (1, 8), (999_999, 10**6), (3, 3))] == [
        "0.0001 %", "12.5 %", "99.9 %", "100 %",
    ]  # fmt: skip


def test_a_reward_too_large_for_a_replay_is_named_and_the_mended_run_goes_on(
    tmp_path, capsys
) -> None:
    large = "torch.where(sim.time > 10 * self.dt, 1e30, paid)"
    code, said = train(tmp_path, capsys, reward=large, algorithm="pearl")
    assert code == 2
    assert "reward() returned 1e+30 in task goal=" in said.splitlines()[-1]
    (tmp_path / "mended").touch()
    code, said = train(tmp_path, capsys, algorithm="pearl")
    assert code == 0, said


def test_the_first_such_reward_is_named_when_weights_stop_being_finite(tmp_path) -> None:
    def reward(self, sim, before, action, task):
        large = (torch.arange(2) == 1) & (sim.time > 1.5 * self.dt)
        return torch.where(large, -1e31 * sim.time, 0.0)

    worlds = TaskWorlds(family(reward=reward), 2, 1)
    agent = learner(worlds)
    collect(worlds, agent, agent.begin(2, 1), 5, Key(0), explore=False)
    agent.theta = agent.theta * NAN
    with pytest.raises(UserError, match=r"'theta' are not finite; .*reward\(\) returned -2e\+30"):
        refuse_nonfinite(agent, worlds, 3, tmp_path)


# --- weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_weights_that_are_not_finite_are_refused_when_loaded(tmp_path, value: float) -> None:
    worlds = TaskWorlds(family(), 2, 1)
    agent = learner(worlds)
    agent.theta = agent.theta.clone()
    agent.theta[3] = value
    path = checkpoints.save(tmp_path, agent, family="point-goal", step=1, meta={})
    with pytest.raises(UserError, match=r"1 of \d+ numbers of 'theta' are not finite"):
        checkpoints.load(path)


def test_an_adapted_policy_that_is_not_finite_is_refused(tmp_path, monkeypatch) -> None:
    worlds = TaskWorlds(family(), 2, 1)
    agent, task = learner(worlds), TaskDistribution(worlds.family).make(goal_x=0.5)
    rounds = list(adapt_to(agent, worlds, task, episodes=0, seed=0))
    path = checkpoints.save(tmp_path / "c", agent, family="point-goal", step=1, meta={})
    checkpoint = checkpoints.load(path)
    bad = [one._replace(state=one.state._replace(params=one.state.params * NAN)) for one in rounds]
    with pytest.raises(UserError, match=r"'state.params' are not finite"):
        save_adapted(tmp_path / "a", checkpoint, agent, task, bad)
    monkeypatch.setattr("metarl.learning.adaptation.nonfinite", lambda tensors: "")
    save_adapted(tmp_path / "a", checkpoint, agent, task, bad)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"'state.params' are not finite"):
        load_adapted(tmp_path / "a")


# --- what a learner makes of it ----------------------------------------------------------------

LEARNERS = {
    "maml-trpo": lambda spec: MamlTrpo(
        spec, MamlTrpoConfig(hidden=(8,), init_std=0.3, inner_lr=0.1, max_kl=0.03)
    ),
    "rl2": lambda spec: Rl2(spec, Rl2Config(hidden=16, units=16, episodes=1, lr=3e-3)),
    "pearl": lambda spec: Pearl(
        spec,
        PearlConfig(
            train_tasks=2, hidden=(16, 16), encoder_hidden=(16,), meta_batch=2, batch_size=32,
            context_size=16, gradient_steps=25, initial_episodes=4, prior_episodes=2,
            posterior_episodes=2, replay_capacity=1000, lr=1e-3,
        ),
    ),
}  # fmt: skip


def share_over_the_edge(name: str, *, diverges: bool) -> float:
    """Train where a push to the right ends the episode, and return how many of the last steps do.

    Every other step costs 1. Where the end is a failure, it pays: it spares the steps to come.
    """
    limit = 0.05
    seen: list[float] = []

    def reward(self, sim, before, action, task):
        over = action[:, 0] > limit
        seen.append(float(over.double().mean()))
        return torch.full((len(over),), -1.0).masked_fill(over, torch.nan if diverges else 0.0)

    def terminated(self, sim):
        high = sim.model.actuator_ctrlrange[0, 1]
        return (sim.ctrl[:, 0] > limit * high) & (not diverges)

    worlds = TaskWorlds(family(reward=reward, terminated=terminated), 16, 1)
    agent = LEARNERS[name](worlds.spec)
    sampler = task_sampler(TaskDistribution(worlds.family), 2, agent.num_train_tasks)
    for i in range(10):
        seen.clear()
        agent.meta_step(worlds, sampler.sample(i, Key(0)), Key(0, i))
    return float(np.mean(seen))


@pytest.mark.parametrize("name", mostly_slow(LEARNERS, "maml-trpo", "rl2"))
def test_diverging_does_not_pay(name: str) -> None:
    """The same learner that finds a failure which pays is not drawn to a divergence."""
    fails, diverges = (share_over_the_edge(name, diverges=d) for d in (False, True))
    assert diverges < 0.65, (fails, diverges)
    assert fails > diverges + 0.1

"""A split screen: who is where, what is said of them, and that they do the same from the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.recording import SMALL

from metarl.base.errors import UserError
from metarl.cli import main
from metarl.evaluation.protocol import evaluate
from metarl.learning.registry import find_learner
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.registry import find_family
from metarl.video.film import VideoConfig
from metarl.video.recording import Recording, record
from metarl.video.versus import Reel, Versus
from metarl.worlds.task_worlds import TaskWorlds


def played(algorithm: str, family: str = "point-goal", worlds: int = 1, **task) -> Recording:
    cls, found = find_learner(algorithm), find_family(family)
    grid = TaskWorlds(found, worlds, 1)
    learner = cls(grid.spec, cls.Config())
    return record(
        learner, grid, TaskDistribution(found).make(**task), episodes=1, seed=3, split="the task"
    )


@pytest.fixture(scope="module")
def three() -> list[Recording]:
    """RL², an oracle and a blind policy, untrained, on one goal; RL² in more worlds than they."""
    task = {"goal_x": 0.8, "goal_y": -0.5}
    return [
        played("rl2", worlds=3, **task),
        played("ppo", "point-goal+told", **task),
        played("ppo", **task),
    ]


def panels(film: Versus) -> list:
    return [clip.overlay.panel for clip in film.blocks[0].clips]


def test_blind_learner_and_oracle_stand_in_this_order(three):
    film = Versus(three, SMALL)
    assert [(p.phase, p.name, p.title) for p in panels(film)] == [
        ("before", "blind", "does not adapt"), ("after", "rl2", "adapts as it acts"),
        ("during", "oracle", "is told the task"),
    ]  # fmt: skip
    assert film.pictures == 3
    assert film.width == 3 * 160
    later = Versus(three, SMALL, 1, ("RL²", "told", "DR"))
    assert [(p.name, p.title) for p in panels(later)] == [
        ("DR", "does not adapt"), ("RL²", "after 1 episode"), ("told", "is told the task"),
    ]  # fmt: skip


def test_all_begin_in_the_same_state_and_return_what_an_evaluation_says(three):
    """Whatever the number of worlds is, of which the first is shown."""
    for k in (0, 1):
        starts = [one.episodes["score", k][0].qpos[0] for one in three]
        assert np.array_equal(starts[0], starts[1])
        assert np.array_equal(starts[0], starts[2])
    assert not np.array_equal(starts[0], three[0].episodes["score", 0][0].qpos[0])
    cls, worlds = find_learner("ppo"), TaskWorlds("point-goal", 1, 1)
    report = evaluate(
        cls(worlds.spec, cls.Config()), worlds, three[2].tasks, episodes=1, seed=3, split="the task"
    )
    blind = panels(Versus(three, SMALL))[0]
    assert blind.running[-1] == pytest.approx(report.returns[0][0], rel=1e-6)


def test_the_clock_says_which_episode(three):
    film = Versus(three, SMALL, 1)
    assert film.clock(5) == "episode 2   0.5 s"
    assert Versus(three, VideoConfig(size=160, fps=4, speed=0.5)).clock(0).endswith("×0.5 speed")


def test_a_reel_shows_one_round_after_the_other(three):
    films = [Versus(three, SMALL, k) for k in (0, 1)]
    reel = Reel(films)
    assert reel.frames == films[0].frames + films[1].frames
    seen = []
    for film in films:
        film.frame = lambda number, renderer, film=film: seen.append((film.k, number))
    for number in (0, films[0].frames - 1, films[0].frames, reel.frames - 1):
        reel.frame(number, None)
    last = [film.frames - 1 for film in films]
    assert seen == [(0, 0), (0, last[0]), (1, 0), (1, last[1])]


def test_seconds_cut_an_episode_and_what_is_said_of_it(three):
    """0.5 s are 5 steps of 0.1 s: the return is that of these steps."""
    whole, cut = Versus(three, SMALL), Versus(three, replace(SMALL, seconds=0.5))
    for one, part in zip(panels(whole), panels(cut), strict=True):
        assert part.running.tolist() == one.running[:6].tolist()
    assert cut.step(cut.frames - 1) == 5
    assert cut.speed == whole.speed


@pytest.mark.usefixtures("_gl")
def test_panels_differ_where_policies_do(three):
    film = Versus(three, SMALL)
    drawing = film.renderer()
    first, last = film.frame(0, drawing), film.frame(film.frames - 1, drawing)
    drawing.close()
    assert first.shape == (film.height, film.width, 3)
    columns = [last[26 + 24 : 100, 160 * n + 4 : 160 * n + 156].astype(int) for n in range(3)]
    assert (np.abs(columns[0] - columns[1]) > 30).any(-1).sum() > 20
    assert (np.abs(first.astype(int) - last) > 30).any(-1).sum() > 100


def test_other_tasks_and_states_are_refused(three):
    other = played("ppo", goal_x=0.1, goal_y=0.2)
    with pytest.raises(UserError, match="not the same tasks"):
        Versus([three[0], other], SMALL)
    with pytest.raises(UserError, match="2 to 4 policies, not 1"):
        Versus(three[:1], SMALL)
    moved = played("ppo", goal_x=0.8, goal_y=-0.5)
    moved.episodes["score", 0][0].qpos[0] += 0.1
    with pytest.raises(UserError, match="do not begin in the same state"):
        Versus([three[0], moved], SMALL)


@pytest.mark.usefixtures("_gl")
def test_the_command_writes_a_split_screen(trained_run, tmp_path, capsys):
    """Its returns are those of `metarl evaluate` on the same task."""
    run, out = str(trained_run), tmp_path / "v.gif"
    flags = ["--set", "goal_x=0.5", "--size", "160", "--fps", "2", "--speed", "1", "--threads", "1"]
    more = ["--rollouts-per-task", "1", "--seconds", "0.5", "--out", str(out)]
    assert main(["render", run, "--against", run, *flags, *more]) == 0
    said = capsys.readouterr().out.splitlines()
    first, second = (line.split("return ")[1] for line in said if "return " in line)
    assert first == second
    assert "→" not in first  # the first episode alone
    assert out.stat().st_size > 1000


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--against", "RUN", "--tasks", "2"], "--against shows one task"),
        (["--against", "RUN", "--live"], "--against shows one task"),
        (["--against", *["RUN"] * 4], "one to three runs, not 4"),
        (["--against", "RUN", "--labels", "a"], "--labels names RUN and each run of --against: 2"),
        (["--labels", "a"], "--labels names the runs of --against"),
        (["--seconds", "0"], "seconds must be at least 0.1"),
    ],
)
def test_bad_input_is_one_line(trained_run, flags, words, capsys):
    run = str(trained_run)
    assert main(["render", run, *[run if flag == "RUN" else flag for flag in flags]]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1

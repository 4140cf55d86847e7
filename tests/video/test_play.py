"""`metarl play`: what sliders and keys do, without a window; and a window on a hidden display."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time

import mujoco
import numpy as np
import pytest
import torch

from metarl import TaskDistribution, TaskWorlds, cli, find_family, find_learner
from metarl.base.keys import Key
from metarl.video.play import Player, copy_look, limits, with_sliders
from metarl.worlds.rollout import collect


class Viewer:
    """What a window is to `Player`: does one thing of a script at each frame, then closes."""

    def __init__(self, player: Player, script: dict, frames: int):
        self.player, self.script, self.frames, self.frame = player, script, frames, 0
        self.opt, self.user_scn = mujoco.MjvOption(), mujoco.MjvScene(player.model, 100)
        self.texts: list[str] = []
        self.qpos: list[np.ndarray] = []
        self.lock = contextlib.nullcontext

    def is_running(self) -> bool:
        return self.frame < self.frames

    def set_texts(self, texts) -> None:
        self.texts.append(texts[0][2])

    def sync(self) -> None:
        self.frame += 1
        self.qpos.append(self.player.data.qpos.copy())
        self.script.get(self.frame, lambda viewer: None)(self)


def key(letter: str):
    return lambda viewer: viewer.player.press(ord(letter))


def slide(name: str, value: float):
    return lambda viewer: viewer.player.data.actuator(name).ctrl.__setitem__(0, value)


def player_of(name: str, learner: str = "rl2", worlds: int = 1, split: str = "heldout", **how):
    family = find_family(name)
    made = TaskWorlds(family, worlds, 1)
    cls = find_learner(learner)
    said: list[str] = []
    player = Player(
        cls(made.spec, cls.Config(**how)), made, TaskDistribution(family).split(split, 1), 0, 1e9,
        said.append,
    )  # fmt: skip
    return player, said


def test_the_model_has_a_slider_for_each_parameter_and_moves_as_before():
    family = find_family("ant-crippled+dynamics")
    model, own = with_sliders(family), family.compile()
    assert (model.nq, model.nv, model.nbody) == (own.nq, own.nv, own.nbody)
    names = [name for param in family.params for name in param.names]
    assert [model.actuator(own.nu + k).name for k in range(len(names))] == names
    ranges = model.actuator_ctrlrange[own.nu :]
    assert tuple(ranges[0]) == (0.0, pytest.approx(8.0))  # the faults
    for row, param in zip(ranges, [p for p in family.params for _ in p.names], strict=True):
        assert tuple(row) == limits(param)
    data = mujoco.MjData(model)
    data.ctrl[own.nu :] = ranges[:, 1]
    mujoco.mj_forward(model, data)
    assert not data.qfrc_actuator.any()


def test_a_terrain_is_shown_as_it_is_simulated():
    """Its build copies the specification, and keeps what it compiled."""
    family = find_family("half-cheetah-terrain")
    worlds = TaskWorlds(family, 1, 1)
    worlds.set_tasks(TaskDistribution(family).split("heldout", 3)[1], 1)
    model = with_sliders(family)
    copy_look(world := worlds.simulator.world_model(0), model)
    for name in ("geom_type", "geom_dataid", "geom_pos", "hfield_data", "hfield_size"):
        assert np.array_equal(getattr(world, name), getattr(model, name)), name
    assert model.nhfield > 1


def test_an_untouched_episode_is_the_one_that_collect_plays():
    player, said = player_of("point-goal", hidden=4)
    viewer = Viewer(player, {}, player.family.horizon + 1)
    player.play(viewer)
    worlds = TaskWorlds(player.family, 1, 1)
    worlds.set_tasks(player.task, 1)
    worlds.seed(Key(0).fold("play", 0))
    worlds.reset()
    learner = player.learner
    rollout, _ = collect(worlds, learner, learner.begin(1, 1), player.family.horizon,
                         Key(0).fold("play", 0), explore=False)  # fmt: skip
    assert said[-1] == f"episode 1: return {rollout.mean_return():.1f}"
    assert viewer.texts[0].splitlines()[-2] == "no data yet"
    assert viewer.texts[-1].splitlines()[-2] == "after 1 episode"


def test_a_slider_changes_the_task_while_the_robot_goes_on():
    player, said = player_of("half-cheetah-dynamics", hidden=4)
    before = player.model.body_mass.copy()
    name = next(n for n in player.task.names if "mass" in n)
    viewer = Viewer(player, {3: slide(name, 2.0)}, 6)
    player.play(viewer)
    at = player.task.names.index(name)
    assert player.worlds.tasks.values[0, at] == player.task.values[0, at] == 2.0
    assert f"{name}=2" in said[-1]
    assert (player.model.body_mass != before).any()
    steps = np.abs(np.diff(viewer.qpos, axis=0)).max(1)
    assert steps[2] < 3 * max(steps[1], steps[3])  # no jump to where episodes begin
    assert player.episode == 1


def test_a_fault_is_moved_to_the_nearest_that_there_is_and_broken_by_a_key():
    player, said = player_of("ant-crippled", hidden=4)
    player.play(Viewer(player, {2: slide("fault", 6.6), 4: key("B"), 6: slide("fault", 8.0),
                                8: key("B")}, 12))  # fmt: skip
    assert [line for line in said if line.startswith("task")][1:] == [
        "task: fault=7", "task: fault=8", "task: fault=0",
    ]  # fmt: skip


def test_where_nothing_can_break_a_line_says_so():
    player, said = player_of("point-goal", hidden=4)
    player.play(Viewer(player, {1: key("B"), 2: key("Z")}, 4))
    assert said[-1] == "nothing can break in point-goal: no parameter is a fault"


def test_another_task_keeps_the_memory_and_forgetting_empties_it(monkeypatch):
    player, said = player_of("point-goal", hidden=4)
    began: list = []
    act = type(player.learner).act_and_record

    def watched(self, step, state, **how):
        began.append((bool(step.first[0]), state))
        return act(self, step, state, **how)

    monkeypatch.setattr(type(player.learner), "act_and_record", watched)
    player.play(Viewer(player, {5: key("N"), 9: key("M")}, 12))
    firsts = [(k, state) for k, (first, state) in enumerate(began) if first]
    assert [k for k, _ in firsts] == [0, 5, 9]
    empty, kept, again = (torch.cat([t.flatten() for t in leaves(s)]) for _, s in firsts)
    assert torch.equal(empty, again)
    assert not torch.equal(empty, kept)
    tasks = [line for line in said if line.startswith("task")]
    assert tasks[0] != tasks[1]
    assert "it knows nothing of the task now" in said
    assert all(abs(value) <= 1 for value in player.task.values[0])


def leaves(state):
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict):
        for part in state.values():
            yield from leaves(part)
    elif isinstance(state, tuple | list):
        for part in state:
            yield from leaves(part)


def test_a_learner_that_explores_does_so_first_and_then_acts_as_adapted(monkeypatch):
    from envs.point import PointGoal

    monkeypatch.setattr(PointGoal, "horizon", 3)
    player, said = player_of("point-goal", "maml-trpo", worlds=2, hidden=(4,))
    player.play(Viewer(player, {}, 15))
    assert [line.partition(":")[0] for line in said if "return" in line] == [
        "episode 1 (exploring)", "episode 2 (exploring)", "episode 3 (exploring)", "episode 4",
        "episode 5",
    ]  # fmt: skip
    assert not torch.equal(player._state.params, player._begin().params)


def test_what_the_task_asks_for_is_drawn():
    player, _ = player_of("half-cheetah-vel", hidden=4)
    lengths = []

    def look(viewer):
        arrow = int(mujoco.mjtGeom.mjGEOM_ARROW)
        scene = viewer.user_scn
        lengths.append(next(g.size[2] for g in scene.geoms[: scene.ngeom] if g.type == arrow))

    player.play(Viewer(player, {3: look, 4: slide("goal_velocity", 0.75), 6: look}, 8))
    was = float(TaskDistribution(player.family).split("heldout", 1).values[0, 0])
    assert lengths[1] / lengths[0] == pytest.approx(0.75 / was, rel=0.01)


def test_the_viewers_own_meaning_of_the_keys_is_undone():
    player, _ = player_of("point-goal", hidden=4)
    flag = mujoco.mjtVisFlag.mjVIS_COM

    def toggled(viewer):
        viewer.opt.flags[flag] ^= 1

    viewer = Viewer(player, {1: toggled}, 3)
    before = int(viewer.opt.flags[flag])
    player.play(viewer)
    assert int(viewer.opt.flags[flag]) == before


# --- the command -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--speed", "0"], "speed must be from 0.01 to 1000"),
        (["--set", "goal_x=1", "--split", "ood"], "leave out --split"),
        (["--sped", "1"], "did you mean '--speed'"),
    ],
)
def test_bad_words_are_one_line(words, said, capsys, monkeypatch):
    monkeypatch.setattr("metarl.commands.viewing.play.check_display", lambda *_: None)
    assert cli.main(["play", "half-cheetah-vel-rl2", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_without_a_display_one_line_says_so(capsys, monkeypatch):
    monkeypatch.setattr("metarl.commands.viewing.render.platform.system", lambda: "Linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for words, said in (
        (["half-cheetah-vel-rl2"], "metarl play needs a display"),
        (["half-cheeta-vel-rl2"], "no run or checkpoint 'half-cheeta-vel-rl2'"),
        (["half-cheetah-vel-rl2", "--set", "speed=1"], "speed"),
    ):  # what is not there is said before what is missing to show it
        for argv in (["play", *words], ["render", *words, "--live"]):
            assert cli.main(argv) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert said.replace("metarl play", "" if "--live" in argv else "metarl play") in line


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="no Xvfb here")
def test_it_plays_in_a_window(trained_run):
    """MuJoCo's own viewer, on a display in memory; keys by xdotool, where there is one."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with open(read) as pipe:
        screen = {"DISPLAY": f":{pipe.readline().strip()}"}
    words = [sys.executable, "-m", "metarl.cli", "play", str(trained_run), "--speed", "20"]
    process = subprocess.Popen(
        [*words, "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | screen,
    )  # fmt: skip
    try:
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        reading = threading.Thread(target=lambda: [lines.put(x) for x in process.stdout or ()])
        reading.start()
        assert lines.get(timeout=300).startswith("task: goal_x=")
        assert lines.get(timeout=300).startswith("episode 1")
        if shutil.which("xdotool"):
            press(screen, "m")
            wait_for(lines, "it knows nothing")
            press(screen, "n")
            wait_for(lines, "task: ")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 130
        reading.join()
        assert "Traceback" not in process.stderr.read()  # type: ignore[union-attr]
    finally:
        process.kill()
        process.communicate()
        server.terminate()
        server.wait()


def press(screen: dict[str, str], letter: str) -> None:
    found = subprocess.run(
        ["xdotool", "search", "--name", "MuJoCo"], env=os.environ | screen, capture_output=True,
        text=True, check=True,
    ).stdout.split()  # fmt: skip
    for words in (["windowfocus", found[0]], ["key", "--window", found[0], letter]):
        subprocess.run(["xdotool", *words], env=os.environ | screen, check=True)


def wait_for(lines: queue.SimpleQueue, begins: str) -> None:
    end = time.monotonic() + 300
    while not lines.get(timeout=max(0.1, end - time.monotonic())).startswith(begins):
        pass

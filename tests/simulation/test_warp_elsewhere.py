"""What stands on worlds, on MuJoCo Warp: the views of other libraries, commands and pictures."""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch

from metarl import UserError
from metarl.adapters import GymEnv, GymVectorEnv, SB3VecEnv
from metarl.cli import main
from metarl.commands.viewing.play import Play, make_player

pytestmark = pytest.mark.skipif(  # importing it takes seconds, also of those who run no slow test
    importlib.util.find_spec("mujoco_warp") is None, reason="no mujoco_warp here"
)


@pytest.fixture
def small_room(monkeypatch):
    """Room for small robots, in place of a measurement of a second or two."""
    from helpers.warp import on_warp

    monkeypatch.setattr("metarl.worlds.factory.backend_of", lambda *_: on_warp)
    monkeypatch.setattr("metarl.adapters.gymnasium_env.backend_of", lambda *_: on_warp)


@pytest.mark.slow
@pytest.mark.usefixtures("small_room")
def test_the_views_step_warp() -> None:
    """gymnasium's, its vector's and SB3's: numbers near native MuJoCo's, and the same ends."""
    options = {"max_episode_steps": 3}
    for view in (GymEnv, functools.partial(GymVectorEnv, num_envs=3)):
        pair = [view("hopper-params", simulator=name, **options) for name in ("warp", "mujoco")]
        assert pair[0].worlds.simulator.dtype is torch.float32
        first, native = (env.reset(seed=1)[0] for env in pair)
        np.testing.assert_allclose(first, native, atol=1e-5)
        for _ in range(7):
            action = np.full(pair[0].action_space.shape, 0.1, np.float32)
            got, expected = (env.step(action) for env in pair)
            np.testing.assert_allclose(got[0], expected[0], atol=1e-2)
            assert np.array_equal(got[3], expected[3])
            if isinstance(pair[0], GymEnv) and got[3]:
                assert [env.reset()[0].shape for env in pair] == [(11,)] * 2
    view = SB3VecEnv("hopper-params", 2, simulator="warp", **options)
    view.reset()
    dones = [view.step(np.zeros((2, 3), np.float32))[2].tolist() for _ in range(3)]
    assert dones == [[False] * 2] * 2 + [[True] * 2]
    with pytest.raises(UserError, match="did you mean 'warp'"):
        GymVectorEnv("hopper-params", 2, simulator="wrap")


@pytest.mark.slow
@pytest.mark.usefixtures("small_room", "_gl")
def test_an_agent_of_native_mujoco_is_looked_at_on_warp(trained_run, capsys, tmp_path) -> None:
    """Evaluated with the difference, adapted, probed, filmed and played with."""
    common = ["--episodes", "1", "--device", "cpu", "--simulator", "warp", "--threads", "1"]
    run, out = str(shutil.copytree(trained_run, tmp_path / "run")), tmp_path / "report.json"
    assert main(["evaluate", run, "--tasks", "10", *common, "--json", str(out)]) == 0
    assert "on warp instead of mujoco" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert (report["simulator"], report["trained_on"]) == ("warp", "mujoco")
    for round_, (middle, low, high) in enumerate(report["difference"]):
        assert low <= middle <= high
        paired = report["mean"][round_] - report["trained_on_mean"][round_]
        assert abs(paired) < 1e-3
        assert abs(middle) < 1e-3
    assert main(["adapt", run, "--set", "goal_x=0.5", *common]) == 0
    assert main(["probe", run, "--tasks", "4", *common]) == 0
    film = str(tmp_path / "film.gif")
    words = ["--tasks", "1", "--size", "160", "--fps", "4", "--out", film]
    assert main(["render", run, *words, *common]) == 0
    player = make_player(Play(run, device="cpu", threads=1, simulator="warp"))
    assert player.worlds.simulator.dtype is torch.float32
    assert player.worlds.physics.simulator == "warp"


@pytest.mark.slow
@pytest.mark.usefixtures("small_room")
def test_a_stream_on_warp_is_that_on_native_mujoco(trained_run, capsys, tmp_path) -> None:
    """Tasks change within episodes, at the same steps, and what is earned is the same."""
    run, found = str(shutil.copytree(trained_run, tmp_path / "run")), {}
    words = ["--streams", "3", "--episodes", "4", "--every", "12", "--tasks", "4"]
    for name in ("warp", "mujoco"):
        out = tmp_path / f"{name}.json"
        more = ["--simulator", name, "--device", "cpu", "--threads", "1", "--json", str(out)]
        assert main(["stream", run, *words, *more]) == 0
        found[name] = json.loads(out.read_text())
    warp, native = (found[name].pop("runs")[0] for name in ("warp", "mujoco"))
    assert found["warp"] == found["mujoco"]
    assert sum(map(len, found["warp"]["switches"])) >= 6
    assert warp["diverged"] == native["diverged"] == 0
    earned = [one["windows"]["mean"] for one in (warp, native)]
    assert len(earned[0]) == 4
    np.testing.assert_allclose(*earned, atol=1e-3)
    assert max(earned[1]) - min(earned[1]) > 0.1
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.usefixtures("small_room", "_gl")
def test_pictures_of_a_world_on_warp() -> None:
    options = {"render_mode": "rgb_array", "width": 64, "height": 64}
    pictures = []
    for name in ("warp", "mujoco"):
        env = GymVectorEnv("half-cheetah-dynamics", 1, simulator=name, **options)
        env.reset(seed=3)
        (picture,) = env.render() or ()
        pictures.append(picture.astype(int))
        env.close()
    assert np.abs(pictures[0] - pictures[1]).mean() < 2.0

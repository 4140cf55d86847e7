"""What the gymnasium environments show, and what they refuse."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from helpers.refusals import refused

from metarl import UserError
from metarl.adapters import GymEnv, GymVectorEnv, SB3VecEnv
from metarl.adapters.registration import env_id

# --- pictures ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("_gl")
def test_pictures() -> None:
    env = GymEnv("half-cheetah-vel", render_mode="rgb_array", width=160, height=120)
    env.reset(seed=1)
    one = env.render()
    assert (one.shape, one.dtype) == ((120, 160, 3), np.uint8)
    assert one.std() > 5
    for _ in range(10):
        env.step(np.ones(6))
    assert not np.array_equal(one, env.render())
    env.close()
    env.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gymnasium_check(gymnasium.make(env_id("point-goal"), render_mode="rgb_array").unwrapped)
    assert GymEnv("point-goal").render() is None


@pytest.mark.usefixtures("_gl")
def test_pictures_of_many_worlds() -> None:
    view = SB3VecEnv(
        "half-cheetah-vel", 3, render_mode="rgb_array", width=700, height=64, threads=1
    )
    view.reset()
    frames = view.get_images()
    assert [frame.shape for frame in frames] == [(64, 700, 3)] * 3
    assert not np.array_equal(frames[0], frames[1])
    assert view.render().shape == (128, 1400, 3)
    view.close()


# --- what cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GymEnv("half-cheeta-vel"), "did you mean 'half-cheetah-vel'"),
        (lambda: GymEnv("point-goal", split="hold-out"), "'hold-out' (did you mean 'heldout'?)"),
        (lambda: GymEnv("half-cheetah-dir", split="ood"), "'half-cheetah-dir' has no ood ranges"),
        (lambda: GymEnv("point-goal", spilt="ood"), "'spilt' (did you mean 'split'?)"),
        (lambda: GymEnv("point-goal", num_tasks=0), "num_tasks must be a whole number"),
        (lambda: GymEnv("point-goal", render_mode="human"), "rgb_array or None, not 'human'"),
        (lambda: GymEnv("point-goal", {"goal_z": 1.0}), "no parameter 'goal_z' (did you mean"),
        (lambda: GymEnv("point-goal", {"goal_x": np.nan}), "'goal_x' must be finite"),
        (lambda: GymEnv("point-goal+latency").set_task({"latency": 1.0}), "from 0 to 0.1 s"),
        (lambda: GymVectorEnv("point-goal", 3, {"goal_x": np.zeros(2)}), "or (3,) numbers"),
        (lambda: GymVectorEnv("point-goal", 3, autoreset_mode="never"), "NextStep, SameStep"),
        (lambda: GymVectorEnv("point-goal", 3, max_episode_steps=0), "max_episode_steps"),
        (lambda: GymVectorEnv("point-goal", 0), "must be at least 1 and at most 1000000, not 0"),
        (lambda: GymVectorEnv("point-goal", 2).reset(options={"reset_mask": [True]}), "reset_mask"),
        (lambda: GymVectorEnv("point-goal+latency", 2, {"latency": 1.0}), "from 0 to 0.1 s"),
        (lambda: SB3VecEnv("point-goal", 2, autoreset_mode="Disabled"), "same step"),
    ],
)  # fmt: skip
def test_refusals_are_one_line(make, words: str) -> None:
    with refused(words):
        make()


@pytest.mark.parametrize(
    "make", [lambda: GymEnv("point-goal"), lambda: GymVectorEnv("point-goal", 2)]
)
def test_a_parameter_is_no_option_of_a_reset(make) -> None:
    env = make()
    with pytest.raises(UserError, match=r"'goal_x' is no option.*options=\{'task': \{'goal_x': …"):
        env.reset(options={"goal_x": 0.5})
    env.reset(options={"of another wrapper": 1})


def test_a_view_that_could_not_be_made_closes_in_silence():
    """gymnasium closes it when it is forgotten, however far it has come."""
    GymVectorEnv.__new__(GymVectorEnv).close_extras()

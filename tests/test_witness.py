"""Agents of stable-baselines3 as witnesses: trained, evaluated and written as ours are."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import stable_baselines3
import torch
from helpers.scripts import experiment

from metarl import UserError
from metarl.evaluation.protocol import Report


@pytest.fixture
def witness():
    with experiment("witness") as module:
        yield module


@pytest.mark.parametrize("agent", ["ppo", "sac"])
def test_a_witness_has_a_report_of_its_own(witness, agent, tmp_path, capsys, monkeypatch):
    small = functools.partial(stable_baselines3.PPO, n_steps=64)  # its own 2048 take seconds
    monkeypatch.setattr(stable_baselines3, "PPO", small)
    argv = ["point-goal", agent, "--env-steps", "150", "--worlds", "2", "--tasks", "3"]
    assert witness.main([*argv, "--results", str(tmp_path)]) == 0
    result = json.loads((tmp_path / f"point-goal-sb3-{agent}-seed1.json").read_text())
    report = Report.from_json(result)
    assert report.algorithm == result["line"] == f"sb3-{agent}"
    assert len(report.returns) == 3
    assert report.experience == [0]
    assert result["ood"]["split"] == "ood"
    assert result["curve"][0]["env_steps"] >= 100
    assert "wrote" in capsys.readouterr().out


def test_what_is_not_installed_is_one_line(witness, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(UserError, match="pip install sb3-contrib"):
        witness.make_agent("recurrent-ppo", None, 0)


@pytest.mark.parametrize("flags", [["--seed", "-1"], ["--worlds", "0"], ["--env-steps", "nan"]])
def test_what_cannot_be_is_one_line(witness, flags, tmp_path):
    with pytest.raises(UserError, match=flags[0][2:]):
        witness.main(["point-goal", "ppo", *flags, "--results", str(tmp_path)])


def test_a_witness_that_learned_from_scaled_observations_sees_scaled_ones(witness):
    from stable_baselines3.common.vec_env import VecNormalize

    from metarl.adapters import SB3VecEnv

    envs = VecNormalize(SB3VecEnv("point-goal", 3))
    envs.obs_rms.mean, envs.obs_rms.var = np.full(4, 5.0), np.full(4, 4.0)
    model = witness.make_agent("ppo", envs, 0)
    obs = torch.tensor([[6.0, 1.0, 3.0, -2.0]])
    step = SimpleNamespace(obs=obs, first=torch.tensor([True]))
    action, _ = witness.Witness(model, "sb3-ppo").act(step, None, explore=False, noise=None)
    expected, _ = model.predict(envs.normalize_obs(obs.numpy()), deterministic=True)
    np.testing.assert_array_equal(action.numpy(), expected)
    assert not np.array_equal(expected, model.predict(obs.numpy(), deterministic=True)[0])

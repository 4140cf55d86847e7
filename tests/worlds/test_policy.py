"""Whatever acts is a policy: collected with and evaluated as a learner is."""

import pytest
import torch

from metarl import TaskDistribution, TaskWorlds, collect, evaluate
from metarl.base.keys import Key
from metarl.evaluation.protocol import stand_still
from metarl.worlds.policy import FunctionPolicy, Policy, ZeroPolicy, as_policy


def worlds(count: int = 6) -> TaskWorlds:
    made = TaskWorlds("point-goal", count, 1)
    made.set_tasks(TaskDistribution(made.family).split("heldout", 3), count // 3)
    made.reset()
    return made


def test_a_function_of_the_observation_is_a_policy() -> None:
    got = evaluate(
        as_policy(lambda obs: -obs[:, :2].sign()), worlds(), worlds().tasks, episodes=1, seed=0
    )
    assert got.algorithm == "function"
    assert got.returns[0][0] != got.stand_still


def test_a_policy_stays_what_it_is() -> None:
    zero = ZeroPolicy()
    assert as_policy(zero) is zero
    assert isinstance(as_policy(torch.tanh), FunctionPolicy)


def test_the_zero_policy_earns_what_standing_still_does() -> None:
    made = worlds()
    rollout, _ = collect(made, ZeroPolicy(), None, made.spec.horizon, Key(0), explore=True)
    assert (rollout.action == 0).all()
    made.seed(Key(0, "stand still"))
    made.reset()
    rollout, _ = collect(made, ZeroPolicy(), None, made.spec.horizon, Key(0), explore=False)
    expected = stand_still(made, made.tasks, 0)
    assert float(rollout.first_episode_return().mean()) == pytest.approx(expected, rel=1e-6)


def test_what_a_policy_records_is_in_the_rollout() -> None:
    class Counts(Policy):
        def act(self, step, state, *, explore, noise):
            return torch.zeros_like(step.prev_action), state

        def act_and_record(self, step, state, *, explore, noise):
            action, _ = self.act(step, state, explore=explore, noise=noise)
            return action, state + 1, {"count": torch.full((len(action),), state)}

    rollout, state = collect(worlds(), Counts(), 0, 4, Key(0), explore=False)
    assert state == 4
    assert rollout.extras["count"].tolist() == [[t] * 6 for t in range(4)]
    joined = type(rollout).joined([rollout, rollout], dim=1)
    assert joined.extras["count"].shape == (4, 12)
    assert joined.tasks == 6
    assert type(rollout).joined([rollout, rollout], dim=0).obs.shape[:2] == (8, 6)


def test_flags_by_their_old_names_count():
    with pytest.warns(DeprecationWarning, match="adapts_per_task"):
        old = type("Old", (ZeroPolicy,), {"pools_worlds": True})
    assert old.adapts_per_task

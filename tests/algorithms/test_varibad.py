"""VariBAD: what the policy is told, what teaches whom, and a belief that identifies the task."""

import pytest
import torch

from metarl import Interval, Param, TaskDistribution, TaskWorlds, UserError, collect
from metarl.algorithms.varibad import Varibad, VaribadConfig
from metarl.base.keys import Key
from metarl.evaluation.probe import probe
from metarl.worlds.vector import Spec

SMALL = {
    "units": 8, "embedding": 8, "hidden": (8,), "decoder_hidden": (8,), "vae_trials": 6,
    "beliefs": 3, "decoded_steps": 5, "vae_updates": 2, "replay_trials": 10,
}  # fmt: skip
TASKS = 6
VIRTUAL = {"objective": "mixture", "categories": 4, "virtual_share": 0.5}


def point(**changes: object) -> tuple[Varibad, TaskWorlds]:
    """A learner on point-goal, with a world for each of six tasks."""
    worlds = TaskWorlds("point-goal", TASKS, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", TASKS), 1)
    return Varibad(worlds.spec, VaribadConfig(**(SMALL | changes))), worlds


def vae_weights(agent: Varibad) -> torch.Tensor:
    return torch.cat([param.detach().flatten() for param in agent.vae.parameters()])


# --- what the policy is told ----------------------------------------------------------------------


def test_training_shows_the_policy_the_beliefs_that_it_acted_on() -> None:
    """Those of the whole trial, run again from its start: they last through its episodes."""
    agent, worlds = point()
    agent.meta_step(worlds, worlds.tasks, Key(1))  # statistics that are not 0 and 1
    trial = agent.collect(worlds, worlds.tasks, Key(2))
    data, belief = trial.rollout, trial.rollout.extras["belief"]
    with torch.no_grad():
        again = torch.cat(agent.vae.encoder(agent._inputs(data)), -1)
    assert (belief - again).abs().max() < 1e-5
    assert torch.equal(trial.seen.obs, torch.cat((data.obs, belief), -1))
    with torch.no_grad():
        told = agent.ppo.obs_moments.normalise(trial.seen.obs)
        policy = agent.ppo.policy(agent.params, told.flatten(0, 1)[None])
    noise = torch.cat(
        [Key(2).fold("noise", k).normal(TASKS, worlds.spec.horizon, 1, 2) for k in range(2)]
    )
    acted = policy.mean.view_as(noise) + noise * policy.log_std.exp()
    torch.testing.assert_close(acted, data.action)


def test_only_the_end_of_a_trial_is_an_end() -> None:
    """The time limit between its episodes is followed by the next one's first step."""
    agent, worlds = point()
    trial = agent.collect(worlds, worlds.tasks, Key(2))
    seen, steps = trial.seen, 2 * worlds.spec.horizon
    assert seen.done.sum(1).tolist() == [0] * (steps - 1) + [TASKS]
    assert torch.equal(seen.next_obs[:-1], seen.obs[1:])
    after = trial.rollout.next_obs[-1]
    assert torch.equal(seen.next_obs[-1][:, :4], after)
    assert (seen.next_obs[-1][:, 4:] != seen.obs[-1][:, 4:]).any()
    assert torch.equal(trial.returns, trial.rollout.reward.double().unflatten(0, (2, -1)).sum(1))


def test_the_belief_goes_on_from_episode_to_episode_and_begins_at_the_prior() -> None:
    agent, worlds = point()
    state = agent.begin(TASKS, 1)
    assert state.belief.mean.abs().sum() == state.belief.log_std.abs().sum() == 0  # N(0, I)
    worlds.reset()
    data, state = collect(worlds, agent, state, worlds.spec.horizon, Key(1), explore=True)
    adapted = agent.adapt(state, data)
    assert torch.equal(adapted.belief.mean, state.belief.mean)
    assert torch.equal(adapted.last[:, -1], data.reward[-1])
    worlds.reset()
    told, after = agent.act(worlds.current, adapted, explore=False, noise=None)
    fresh, _ = agent.act(worlds.current, agent.begin(TASKS, 1), explore=False, noise=None)
    assert not torch.allclose(told, fresh)
    assert after.last.abs().sum() == 0
    said = agent.diagnostics(after)
    assert torch.equal(said["z_mean"], after.belief.mean)
    torch.testing.assert_close(said["z_variance"].sqrt(), after.belief.log_std.exp())


@pytest.mark.parametrize(
    ("objective", "told", "said"),
    [
        ("mixture", 2 * 5 + 10, {"z_mean": 5, "z_variance": 5, "category": 10}),
        ("contrastive", 5, {"code": 5}),
    ],
)
def test_another_objective_tells_the_policy_what_it_has(
    objective: str, told: int, said: dict[str, int]
) -> None:
    agent, worlds = point(objective=objective)
    agent.meta_step(worlds, worlds.tasks, Key(1))
    trial = agent.collect(worlds, worlds.tasks, Key(2))
    with torch.no_grad():
        again = torch.cat(agent.vae.encoder(agent._inputs(trial.rollout)), -1)
    belief = trial.rollout.extras["belief"]
    assert belief.shape[-1] == told
    assert (belief - again).abs().max() < 1e-5
    assert torch.equal(trial.seen.obs[..., 4:], belief)
    found = agent.diagnostics(agent.begin(TASKS, 1))
    assert {name: part.shape[-1] for name, part in found.items()} == said


def test_only_the_contrast_keeps_which_task_it_was() -> None:
    """In the replay, and not among what the policy sees."""
    for objective, kept in (("elbo", 0), ("mixture", 0), ("contrastive", 2)):
        agent, worlds = point(objective=objective)
        trial = agent.collect(worlds, worlds.tasks, Key(2))
        assert ("privileged" in trial.rollout.extras) == bool(kept) == agent.privileged
        assert trial.seen.extras == {}
        agent._learn_beliefs([trial.rollout], Key(3))
        held = agent.replay.sample(4, Key(4).torch())
        assert held.task.shape == (2 * worlds.spec.horizon, 4, kept)
    tasks = worlds.task_vector()
    assert all((tasks == row).all(1).any() for row in held.task[0])


# --- what teaches whom ----------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["elbo", "mixture", "contrastive"])
def test_what_the_policy_earns_does_not_reach_the_encoder(objective: str) -> None:
    """Any loss of the policy leaves encoder and decoders with the same bits."""
    results = []
    for changes in ({}, {"gamma": 0.5, "entropy_weight": 0.3, "lr": 0.1, "epochs": 1}):
        agent, worlds = point(objective=objective, **changes)
        trial = agent.collect(worlds, worlds.tasks, Key(2))
        assert not trial.seen.obs.requires_grad
        agent.update([trial], Key(3))
        results.append((vae_weights(agent), agent.params))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][1], results[1][1])
    fresh = point(objective=objective)[0]
    assert not torch.equal(vae_weights(fresh), results[0][0])


def test_the_replay_holds_the_newest_trials() -> None:
    """Ten of the twelve that were collected, as they were."""
    agent, worlds = point()
    trials = [agent.collect(worlds, worlds.tasks, Key(i)).rollout for i in range(2)]
    agent._learn_beliefs(trials[:1], Key(5))
    agent._learn_beliefs(trials[1:], Key(6))
    replay, steps = agent.replay.ring, 2 * worlds.spec.horizon
    rows = replay.data[0].view(10, steps, -1)
    newest = [(trials[1], b, 6 + b) for b in range(4)] + [(trials[1], b, b - 4) for b in (4, 5)]
    for data, b, slot in (*newest, *((trials[0], b, b) for b in range(2, 6))):
        assert torch.equal(rows[slot, :, :4], data.obs[:, b])
        assert torch.equal(rows[slot, :, 4:6], data.prev_action[:, b])
    held = agent._trials(agent.replay.unpacked(replay.data[0]))
    data = trials[0]
    assert torch.equal(held.inputs[:, 2:6], agent._inputs(data)[:, 2:6])
    scaled = agent.reward_moments.normalise(data.reward[..., None])
    assert torch.equal(held.reward[:, 2:6], scaled[:, 2:6])
    assert torch.equal(held.action[:, 2:6], data.action.clamp(-1, 1)[:, 2:6])
    assert torch.equal(held.next_obs[:, 2:6], agent.obs_moments.normalise(data.next_obs)[:, 2:6])
    assert held.valid.min() == 1


@pytest.mark.parametrize(
    ("save_replay", "changes"), [(True, {}), (False, {}), (True, VIRTUAL)], ids=str
)
def test_a_checkpoint_goes_on_with_the_replay_that_it_holds(
    save_replay: bool, changes: dict
) -> None:
    agent, worlds = point(save_replay=save_replay, **changes)
    for i in range(2):
        agent.meta_step(worlds, worlds.tasks, Key(i))
    saved = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    other = point(save_replay=save_replay, **changes)[0]
    other.load_state_dict(saved)
    for one in (agent, other):
        one.meta_step(worlds, worlds.tasks, Key(7))
    assert torch.equal(agent.params, other.params)
    assert torch.equal(vae_weights(agent), vae_weights(other)) == save_replay
    assert ("replay.data" in saved) == save_replay


def test_what_a_diverged_step_held_is_not_kept() -> None:
    agent, worlds = point()
    data = agent.collect(worlds, worlds.tasks, Key(2)).rollout
    diverged = torch.zeros_like(data.diverged)
    diverged[3, 1] = True
    weights = []
    for wild in (0.5, float("nan")):
        held = data._replace(
            diverged=diverged, next_obs=data.next_obs.masked_fill(diverged[..., None], wild)
        )
        one = point()[0]
        one._learn_beliefs([held], Key(5))
        weights.append(vae_weights(one))
    assert weights[1].isfinite().all()
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": "gruu"}, "memory must be one of gru.*did you mean"),
        ({"latent_size": 0}, "latent_size"),
        ({"kl_weight": -1.0}, "kl_weight must be finite and not negative"),
        ({"vae_lr": 0.0}, "vae_lr must be positive"),
        ({"memory": "s5", "units": 7}, "units must be even in S5"),
        ({"objective": "elbow"}, "objective must be one of elbo.*did you mean"),
        ({"objective": "mixture", "categories": 1}, "categories must be at least 2"),
        ({"objective": "contrastive", "vae_trials": 1}, "vae_trials must be at least 2"),
        ({"virtual_share": 0.5}, "--objective mixture"),
        (VIRTUAL | {"virtual_kinds": 5}, "virtual_kinds must be at most categories = 4"),
        (VIRTUAL | {"virtual_share": 1.5}, r"virtual_share must be in \[0, 1\]"),
        ({"objective": "contrastive"}, "needs parameters by which tasks differ"),
        ({"replay_trials": 2**31 - 1}, "the replay needs .* lower replay_trials"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Varibad(Spec(30, 8, 1000), VaribadConfig(**(SMALL | settings))).replay.ring  # noqa: B018


# --- trials in imagined tasks ---------------------------------------------------------------------


def test_virtual_trials_are_paid_by_the_decoder_and_real_ones_by_the_worlds() -> None:
    """Within the rewards that are held; encoder, replay and what is reported see the real ones."""
    agent, worlds = point(**VIRTUAL)
    assert not agent.collect(worlds, worlds.tasks, Key(0)).virtual.any()  # nothing to imagine from
    agent.meta_step(worlds, worlds.tasks, Key(1))
    low, high = agent.replay.reward_range()
    held = agent.replay.ring.data[0, :TASKS].view(TASKS, -1, sum(agent.replay.widths))[..., 10]
    assert (low, high) == (float(held.min()), float(held.max()))
    trial = agent.collect(worlds, worlds.tasks, Key(2))
    virtual, data = trial.virtual, trial.rollout
    assert 0 < virtual.sum() < TASKS
    assert torch.equal(trial.returns.isnan(), virtual.expand(2, TASKS))
    assert torch.equal(trial.real.reward, data.reward[:, ~virtual])
    assert data.reward[:, virtual].min() >= low
    assert data.reward[:, virtual].max() <= high

    noise = Key(2, "virtual").normal(TASKS, 1, 1, 1 + agent.vae.imagined_from)[0]
    imagined, scaled = agent.vae.imagined(noise[:, 1:], 3), agent.obs_moments.normalise
    for t in (0, 7, 30):
        said = imagined(scaled(data.obs[t]), data.action[t].clamp(-1, 1), scaled(data.next_obs[t]))
        paid = agent.reward_moments.restore(said).clamp(low, high)
        torch.testing.assert_close(data.reward[t, virtual], paid[virtual])
    goals = worlds.tasks.values[:, :2]
    error = data.reward + (data.next_obs[..., :2] - torch.tensor(goals)).norm(dim=-1)
    assert error[:, ~virtual].abs().max() < 1e-5
    assert error[:, virtual].abs().max() > 1e-2

    said = agent.update([trial], Key(2))
    assert said["virtual"] == pytest.approx(int(virtual.sum()) / TASKS)
    assert said["return_before"] == pytest.approx(float(trial.returns[0, ~virtual].mean()))
    assert len(agent.replay) == min(10, TASKS + int((~virtual).sum()))


def test_which_trials_are_virtual_does_not_depend_on_how_tasks_are_split() -> None:
    agent, worlds = point(**VIRTUAL)
    agent.meta_step(worlds, worlds.tasks, Key(1))
    whole = agent._virtual(worlds.tasks, 1, Key(5))
    part = agent._virtual(worlds.tasks[3:], 1, Key(5))
    assert whole is not None
    assert part is not None
    assert torch.equal(whole.worlds[3:], part.worlds)
    obs, action = torch.randn(TASKS, 4), torch.zeros(TASKS, 2)
    torch.testing.assert_close(
        whole.reward(obs, action, obs)[3:], part.reward(obs[3:], action[3:], obs[3:])
    )


def test_their_share_rises_over_the_steps_that_are_given() -> None:
    config = VaribadConfig(**VIRTUAL, virtual_steps=1000)
    assert [config.virtual_now(n) for n in (0, 500, 1000, 5000)] == [0.0, 0.25, 0.5, 0.5]
    assert [VaribadConfig(**VIRTUAL).virtual_now(n) for n in (0, 1)] == [0.0, 0.5]


# --- a toy ----------------------------------------------------------------------------------------


def line_family():
    """Go to a place on a line, which the first reward reveals."""
    from envs.point import PointGoal

    class PointLine(PointGoal):
        name = "point-line"
        params = (Param("goal_x", Interval(0.2, 1.0), unit="m", doc="goal"),)

        def reward(self, sim, before, action, task):
            return -(sim.qpos[:, 0] - task["goal_x"]).abs()

    return PointLine()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "virtual"),
    [("elbo", 0.0), ("mixture", 0.0), ("mixture", 0.2), ("contrastive", 0.0)],
)
def test_the_belief_identifies_the_task_within_the_first_episode(
    objective: str, virtual: float
) -> None:
    """The policy needs it: with no belief it does not know where to go, with another's it errs.

    A code of what came lately is soon right again when it was another's, so swapping is no test.
    """
    family, contrastive, mixture = line_family(), objective == "contrastive", objective == "mixture"
    worlds, distribution = TaskWorlds(family, 50, 1), TaskDistribution(family)
    agent = Varibad(
        worlds.spec,
        VaribadConfig(
            units=32, embedding=32, gamma=0.9, vae_lr=3e-3, vae_updates=4,
            vae_trials=50 if mixture else 25, objective=objective, beliefs=25 if mixture else 10,
            ahead=5, virtual_share=virtual, virtual_steps=40_000,
        ),
    )  # fmt: skip
    for i in range(50 if mixture else 25):
        agent.meta_step(worlds, distribution.sample(50, Key(0, i).numpy()), Key(1, i))
    tasks = distribution.split("heldout", 50)
    found = probe(agent, worlds, tasks, episodes=1, seed=0)
    first = sum(found.first)
    assert first > (-5 if contrastive else -3.5)  # standing still pays -11
    assert found.readable["goal_x"] > 0.9
    for blinded in ("state cleared", *(() if contrastive else ("state swapped",))):
        assert found.effects[blinded].change[2] < -0.5, blinded

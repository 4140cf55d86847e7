"""Prototypes: what the policy is told, what teaches whom, and a posterior that names the task."""

import pytest
import torch

from metarl import TaskDistribution, TaskWorlds, UserError
from metarl.algorithms.prototypes import Prototypes, PrototypesConfig
from metarl.base.keys import Key
from metarl.evaluation.probe import probe
from metarl.worlds.vector import Spec
from tests.algorithms.test_varibad import line_family

SMALL = {
    "units": 8, "embedding": 8, "hidden": (8,), "prototypes": 5, "encoder_trials": 6,
    "encoder_steps": 5, "encoder_updates": 2, "replay_trials": 10,
}  # fmt: skip
TASKS = 6


def point(**changes: object) -> tuple[Prototypes, TaskWorlds]:
    """A learner on point-goal, with a world for each of six tasks."""
    worlds = TaskWorlds("point-goal", TASKS, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", TASKS), 1)
    return Prototypes(worlds.spec, PrototypesConfig(**(SMALL | changes))), worlds


def encoder_weights(agent: Prototypes) -> torch.Tensor:
    return torch.cat([param.detach().flatten() for param in agent.encoder.parameters()])


# --- what the policy is told ----------------------------------------------------------------------


@pytest.mark.parametrize("see_point", [False, True])
def test_training_shows_the_policy_the_posterior_that_it_acted_on(see_point: bool) -> None:
    """That of the whole trial, run again from its start: it lasts through its episodes."""
    agent, worlds = point(see_point=see_point)
    agent.meta_step(worlds, worlds.tasks, Key(1))  # statistics that are not 0 and 1
    trial = agent.collect(worlds, worlds.tasks, Key(2))
    told = trial.rollout.extras["belief"]
    with torch.no_grad():
        points = agent.encoder(agent._inputs(trial.rollout))
        posterior = agent.encoder.log_posterior(points).exp()
    assert told.shape[-1] == 5 + 8 * see_point
    assert (told[..., :5] - posterior).abs().max() < 1e-5
    assert not see_point or (told[..., 5:] - points).abs().max() < 1e-5
    assert torch.equal(trial.seen.obs, torch.cat((trial.rollout.obs, told), -1))
    assert trial.seen.extras == {}
    said = agent.diagnostics(agent.begin(TASKS, 1))["posterior"]
    torch.testing.assert_close(said.sum(-1), torch.ones(TASKS))


def test_the_tasks_are_kept_for_the_contrast_alone() -> None:
    agent, worlds = point()
    trial = agent.collect(worlds, worlds.tasks, Key(2))
    agent._learn_metric([trial.rollout], Key(3))
    held = agent.replay.sample(4, Key(4).torch())
    tasks = worlds.task_vector()
    assert all((tasks == row).all(1).any() for row in held.task[0])
    assert not {n for n in agent.policy_state_dict() if n.startswith(("places", "replay"))}
    assert agent.privileged


# --- what teaches whom ----------------------------------------------------------------------------


def test_what_the_policy_earns_does_not_reach_the_encoder() -> None:
    """Any loss of the policy leaves encoder and prototypes with the same bits."""
    results = []
    for changes in ({}, {"gamma": 0.5, "entropy_weight": 0.3, "lr": 0.1, "epochs": 1}):
        agent, worlds = point(**changes)
        agent.meta_step(worlds, worlds.tasks, Key(2))
        results.append((encoder_weights(agent), agent.params))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][1], results[1][1])
    assert not torch.equal(encoder_weights(point()[0]), results[0][0])


def test_the_prototypes_tasks_move_to_those_that_came() -> None:
    agent, worlds = point()
    before, tasks = agent.places.places.clone(), worlds.task_vector()
    agent.meta_step(worlds, worlds.tasks, Key(2))
    nearest = torch.cdist(tasks, before).argmin(1)
    for k in range(5):
        own = torch.cat((before[k][None], tasks[nearest == k]))
        torch.testing.assert_close(agent.places.places[k], own.mean(0))


@pytest.mark.parametrize("save_replay", [True, False])
def test_a_checkpoint_goes_on_with_the_replay_that_it_holds(save_replay: bool) -> None:
    agent, worlds = point(save_replay=save_replay)
    for i in range(2):
        agent.meta_step(worlds, worlds.tasks, Key(i))
    saved = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    other = point(save_replay=save_replay)[0]
    other.load_state_dict(saved)
    for one in (agent, other):
        one.meta_step(worlds, worlds.tasks, Key(7))
    assert torch.equal(agent.params, other.params)
    assert torch.equal(agent.places.places, other.places.places)
    assert torch.equal(encoder_weights(agent), encoder_weights(other)) == save_replay
    assert ("replay.data" in saved) == save_replay


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": "gruu"}, "memory must be one of gru.*did you mean"),
        ({"prototypes": 1}, "prototypes must be at least 2"),
        ({"encoder_trials": 1}, "encoder_trials must be at least 2"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"bandwidth": -1.0}, "bandwidth must be positive"),
        ({}, "prototypes learns from parameters.*has none"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Prototypes(Spec(30, 8, 1000), PrototypesConfig(**(SMALL | settings)))


# --- a toy ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_posterior_names_the_task_within_the_first_episode() -> None:
    """The policy needs it: with an empty memory at every step it does not know where to go."""
    family = line_family()
    worlds, distribution = TaskWorlds(family, 50, 1), TaskDistribution(family)
    agent = Prototypes(
        worlds.spec,
        PrototypesConfig(
            units=32, embedding=32, gamma=0.9, encoder_lr=3e-3, encoder_updates=4,
            encoder_trials=50,
        ),
    )  # fmt: skip
    for i in range(25):
        found = agent.meta_step(worlds, distribution.sample(50, Key(0, i).numpy()), Key(1, i))
    assert found["prototype_kl"] < 0.2  # 0.7 of an encoder that knows nothing
    found = probe(agent, worlds, distribution.split("heldout", 50), episodes=1, seed=0)
    assert sum(found.first) > -4  # standing still pays -11
    assert found.readable["goal_x"] > 0.9
    assert found.effects["state cleared"].change[2] < -0.5

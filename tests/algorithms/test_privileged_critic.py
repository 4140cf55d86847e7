"""What only critics may see: the task, the time left and the family's own, in PPO and RL²."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.refusals import refused

from metarl import (
    Choices,
    Interval,
    Key,
    Param,
    TaskDistribution,
    TaskWorlds,
    UserError,
    collect,
)
from metarl.algorithms import Ppo, PpoConfig, Rl2, Rl2Config
from metarl.commands.training.train import read_train
from metarl.tasks.family import replace_attributes
from metarl.tasks.registry import find_family
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec

TASKS, EACH = 2, 2
SMALL = {Ppo: {"hidden": (8,)}, Rl2: {"units": 8, "hidden": 8}}
CONFIGS = {Ppo: PpoConfig, Rl2: Rl2Config}


def family(name: str = "half-cheetah-vel"):
    """The family, which also shows critics the height of the body and three times it."""
    return replace_attributes(
        find_family(name), horizon=6,
        privileged=lambda sim, task: torch.stack((sim.qpos[:, 1], 3 * sim.qpos[:, 1]), 1),
    )  # fmt: skip


def ready(name: str = "half-cheetah-vel") -> TaskWorlds:
    worlds = TaskWorlds(family(name), TASKS * EACH, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", TASKS), EACH)
    worlds.seed(Key(0))
    worlds.reset()
    return worlds


def learner(cls, spec: Spec, *, privileged: bool = True, seed: int = 0):
    config = CONFIGS[cls](**SMALL[cls], critic="privileged" if privileged else "plain")
    return cls(spec, config, seed=seed)


def test_a_task_vector_is_every_parameter_encoded() -> None:
    cheetah = TaskDistribution(find_family("half-cheetah-dynamics"))
    tasks = cheetah.split("train", 4)
    vector = cheetah.task_vector(tasks)
    assert vector.dtype == torch.float32
    assert vector.shape == (4, cheetah.task_size)
    at = 0
    for param in cheetah.params:
        columns = torch.from_numpy(np.stack([tasks.column(name) for name in param.names], 1))
        part = param.encode(columns)
        assert torch.equal(vector[:, at : at + part.shape[1]], part.float())
        at += part.shape[1]
    assert at == cheetah.task_size
    assert (vector.abs() <= 1).all()


@pytest.mark.parametrize(
    ("train", "size"), [(Interval(1.0, 3.0), 1), (Choices((0, 1)), 1), (Choices((0, 1, 2, 3)), 4)]
)
def test_choices_take_a_column_each(train, size: int) -> None:
    point = replace_attributes(find_family("point-goal"), params=(Param("x", train),))
    assert TaskDistribution(point).task_size == size


@pytest.mark.parametrize(
    "spec", [Spec(4, 2, 20), Spec(4, 2, 20, (), 3, 2), Spec(1, 5, 5, (2, 3), 1)]
)
def test_sizes_survive_json_and_old_ones_load(spec: Spec) -> None:
    assert Spec.from_json(spec.to_json()) == spec
    assert Spec.from_json({"observation_size": 4, "action_size": 2, "horizon": 20}) == Spec(
        4, 2, 20
    )


def test_a_rollout_holds_what_critics_may_see() -> None:
    """Time left falls from 1; the family's part is of the state before and after each step."""
    worlds, other = ready("hopper-params"), ready("hopper-params")
    agent = learner(Ppo, worlds.spec)
    assert worlds.spec.privileged_size == 2
    rollout, _ = collect(
        worlds, agent, agent.begin(TASKS, EACH), 6, Key(1), explore=True, privileged=True
    )
    seen, after = rollout.extras["privileged"], rollout.extras["next_privileged"]
    size = worlds.spec.task_size
    assert seen.shape == after.shape == (6, TASKS * EACH, worlds.spec.critic_extra)
    assert torch.equal(seen[0, :, :size], worlds.task_vector())
    assert not torch.equal(seen[0, 0, :size], seen[0, EACH, :size])
    age = rollout.episode_time()
    torch.testing.assert_close(seen[..., size], 1 - age / 6)
    torch.testing.assert_close(after[..., size], 1 - (age + 1) / 6)
    for t in range(6):
        height = other.simulator.qpos[:, 1].float()
        assert torch.equal(seen[t, :, size + 1], height)
        other.step(rollout.action[t])
        going = ~rollout.done[t]
        height = other.simulator.qpos[:, 1].float()
        assert torch.equal(after[t, going, size + 1], height[going])


@pytest.mark.parametrize("cls", [Ppo, Rl2])
def test_the_critic_sees_the_task_and_the_actor_does_not(cls) -> None:
    worlds = ready()
    agent, blind = learner(cls, worlds.spec), learner(cls, worlds.spec, privileged=False)
    data = agent.collect(worlds, worlds.tasks, Key(2))
    rollout = data if isinstance(data, Rollout) else data.rollout
    plain = blind.collect(ready(), worlds.tasks, Key(2))
    plain = plain if isinstance(plain, Rollout) else plain.rollout
    assert torch.equal(rollout.action, plain.action)  # the same actor from the same seed
    inputs = batch_of(agent, data).inputs
    seen = inputs.shape[-1] - worlds.spec.critic_extra
    told = inputs.clone()
    told[..., seen:] += 0.5
    (mean, value), (other_mean, other_value) = (outputs(agent, x) for x in (inputs, told))
    assert torch.equal(mean, other_mean)
    assert (value != other_value).all()


def batch_of(agent, data):
    return agent.ppo.batch(data, agent.params) if isinstance(agent, Ppo) else agent._batch([data])


def outputs(agent, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        if isinstance(agent, Rl2):
            return agent.net(inputs)
        return agent.ppo.policy(agent.params, inputs).mean, agent.ppo.value(agent.params, inputs)


def test_the_values_of_a_trial_are_those_of_the_whole_network() -> None:
    """RL² acts without what the critic sees, and its values are computed afterwards."""
    worlds = ready()
    agent = learner(Rl2, worlds.spec)
    data = agent.collect(worlds, worlds.tasks, Key(2))
    _, value = outputs(agent, agent._batch([data]).inputs)
    torch.testing.assert_close(data.rollout.extras["value"], value)
    assert data.next_value.isfinite().all()


@pytest.mark.parametrize("cls", [Ppo, Rl2])
def test_training_goes_on_to_the_same_bits(cls) -> None:
    worlds = ready()
    whole = learner(cls, worlds.spec)
    for i in range(2):
        whole.meta_step(worlds, worlds.tasks, Key(3, i))
    half = learner(cls, worlds.spec)
    half.meta_step(worlds, worlds.tasks, Key(3, 0))
    again = learner(cls, worlds.spec, seed=9)
    again.load_state_dict({name: t.clone() for name, t in half.state_dict().items()})
    again.meta_step(ready(), worlds.tasks, Key(3, 1))
    expected = whole.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in again.state_dict().items())


@pytest.mark.parametrize("cls", CONFIGS)
def test_the_old_name_of_the_setting_is_the_new_one(cls, tmp_path) -> None:
    """In Python, on the command line, in a file, and where a later word overrules it."""
    config, name = CONFIGS[cls], cls.name
    assert config(privileged_critic=True) == config(critic="privileged")
    assert config(privileged_critic=False) == config()
    assert replace(config(privileged_critic=True), critic="plain") == config()
    words = ["point-goal", name, "--privileged-critic"]
    assert read_train(words).learner.critic == "privileged"
    file = tmp_path / "mine.toml"
    file.write_text("privileged_critic = true")
    assert read_train(["point-goal", name, "--config", str(file)]).learner.critic == "privileged"
    overruled = ["point-goal", name, "--config", str(file), "--critic", "plain"]
    assert read_train(overruled).learner.critic == "plain"
    with pytest.raises(UserError, match="critic must be one of plain, privileged, not 'own'"):
        config(critic="own")


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (lambda sim: sim.qpos[:, :3], "returned 3 numbers for each world, and 2 before"),
        (lambda sim: None, "returned NoneType, expected"),
        (lambda sim: sim.qpos[:, 0], "returned shape (4,), expected (4, P)"),
    ],
)
def test_what_is_shown_stays_as_wide_as_it_began(later, words: str) -> None:
    """In a line that names the family, and not where rows are put together."""
    steps = iter(range(100))
    family = replace_attributes(
        find_family("half-cheetah-vel"), name="mine",
        privileged=lambda sim, task: later(sim) if next(steps) > 5 else sim.qpos[:, :2],
    )  # fmt: skip
    worlds = TaskWorlds(family, TASKS * EACH, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", TASKS), EACH)
    worlds.seed(Key(0))
    with refused("family 'mine': privileged() " + words):
        worlds.reset()
        for _ in range(10):
            worlds.step(torch.zeros(TASKS * EACH, worlds.spec.action_size))


class Peeks(Ppo):
    """A learner that asks to act on what critics may see."""

    def act(self, step, state, *, explore, noise, privileged):  # type: ignore[override]
        return super().act(step, state, explore=explore, noise=noise)


def test_a_learner_that_asks_to_act_on_it_is_refused() -> None:
    wanted = "act must take (self, step, state, *, explore, noise), not (self, step, state, *,"
    with refused("algorithm 'ppo': " + wanted):
        Peeks(ready().spec, PpoConfig(**SMALL[Ppo]))

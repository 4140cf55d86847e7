"""Every registered learner through one suite: what the interface promises, whatever is inside."""

import functools
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.demonstrations import demonstrations_file
from helpers.small_learners import small
from helpers.teacher import teacher

from envs.point import PointGoal
from metarl import (
    TaskDistribution,
    Tasks,
    TaskWorlds,
    UserError,
    collect,
    evaluate,
    find_learner,
)
from metarl.base.keys import Key
from metarl.evaluation.probe import swapped_state
from metarl.evaluation.stream import stream
from metarl.learning.demonstrations import DEMONSTRATED
from metarl.learning.learner import Learner, state_parts
from metarl.learning.registry import list_learners
from metarl.tasks.sampler import task_sampler
from metarl.worlds.policy import Teacher
from metarl.worlds.vector import Spec, Step

TASKS, WORLDS = 3, 4
HORIZON = 8
"""Steps of an episode: a meta-step is mostly steps, and shows as much of short episodes."""
STEPS = 20
"""Of a rollout, in which episodes end and begin."""
MEMORIES = ("lstm", "mingru", "s5", "transformer", "snail", "mann", "hyper")
VARIANTS = [
    *(("rl2", {"memory": memory}) for memory in MEMORIES),
    ("rl2", {"episodes": 3, "min_episodes": 1, "state_std": True}),
    ("rl2", {"last_transition": False}),
    ("rl2", {"credit": "e-rl2"}),
    ("amago", {"memory": "gru"}),
    ("ppo", {"state_std": True, "desired_kl": 0.0, "lr_decay_steps": 1000}),
    *((name, {"learn_inner_lr": True}) for name in ("maml-trpo", "promp")),
    ("es-maml", {"adaptation": "hill-climb", "repeats": 2}),
    ("es-maml", {"context": 2}),
    ("pearl", {"normalise": True, "adapt_every": 0}),
    *((name, {"critic": "privileged"}) for name in ("ppo", "rl2")),
    ("rma", {"see_reward": False, "teacher_iterations": 9}),
    ("grbal", {"planner": "cem", "elites": 3, "plan_rounds": 2}),
    ("grbal", {"learn_inner_lr": False, "warm_start": True}),
    ("rebal", {"planner": "mppi", "plan_rounds": 2, "warm_start": True}),
    ("varibad", {"memory": "mingru", "decode_state": True}),
    ("varibad", {"bonus_novelty": 0.3, "bonus_error": 0.3, "bonus_steps": 1000}),
    ("rl2", {"bonus_novelty": 0.3, "bonus_steps": 1000}),
    ("learned-optimizer", {"rule": "adam"}),
    ("mil", {"two_heads": False, "bias_size": 0, "inner_steps": 2, "first_order": True}),
    *(("varibad", {"objective": objective}) for objective in ("mixture", "contrastive")),
    ("prototypes", {"memory": "mingru", "see_point": True}),
]
"""Settings of a learner that change what its state is, or what it is trained on."""
EXAMPLES = [
    (f"docs/examples/{name}", {}) for name in ("my_learner.py:ConstantAction", "anil.py:Anil")
]
"""Learners of one's own, as the documentation shows them."""
NOISE_IN_THE_WEIGHTS = ("es-maml",)
"""Learners whose worlds explore by parameters of their own, not by noise in the actions."""


@pytest.fixture(
    params=[
        *((name, {}) for name in list_learners()),
        *EXAMPLES,
        *(pytest.param(variant, marks=pytest.mark.slow) for variant in VARIANTS),
    ],
    ids=lambda which: "-".join((which[0].rpartition(":")[2], *map(str, which[1].values()))),
)
def learner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Learner:
    monkeypatch.setattr(PointGoal, "horizon", HORIZON)
    name, settings = request.param
    cls, needed = find_learner(name), dict(settings)
    if name == "distil":
        needed["teacher"] = teacher()
    if cls.adapts_to_demonstrations:
        needed["demos"] = demonstrations_file("train", TASKS, 3)
    return cls(spec(), cls.Config(**small(name, TASKS, **needed)), seed=0)


@functools.cache
def spec() -> Spec:
    return ready().spec


def another(learner: Learner, seed: int = 0) -> Learner:
    return type(learner)(learner.spec, learner.config, seed=seed)


def draw(learner: Learner, worlds: TaskWorlds) -> Tasks:
    return task_sampler(TaskDistribution(worlds.family), TASKS, learner.num_train_tasks).sample(
        0, Key(4)
    )


@functools.cache
def made(threads: int) -> TaskWorlds:
    return TaskWorlds("point-goal", TASKS * WORLDS, threads)


def ready(threads: int = 1) -> TaskWorlds:
    """The worlds as if nothing had happened in them: one at a time of so many threads."""
    worlds = made(threads)
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", TASKS), WORLDS)
    worlds.seed(Key(0))
    worlds.reset()
    return worlds


@functools.cache
def two_meta_steps(cls: type[Learner], config: Any) -> list[dict[str, torch.Tensor]]:
    """The weights after each of two meta-steps in the same worlds, on one thread."""
    learner, worlds = cls(spec(), config, seed=0), ready()
    found = []
    for key in (Key(5), Key(6)):
        learner.meta_step(worlds, draw(learner, worlds), key)
        found.append(weights(learner))
    return found


def trained(learner: Learner) -> list[dict[str, torch.Tensor]]:
    found = two_meta_steps(type(learner), learner.config)
    return [{name: tensor.clone() for name, tensor in step.items()} for step in found]


def rollout(learner: Learner, *, explore: bool = True, seed: int = 0):
    """Of a learner that adapts to demonstrations, one that it takes for some."""
    worlds = ready()
    state = learner.begin(TASKS, WORLDS)
    data, state = collect(worlds, learner, state, STEPS, Key(seed), explore=explore)
    if learner.adapts_to_demonstrations:
        data = data._replace(extras=data.extras | {DEMONSTRATED: data.valid})
    return data, state


@functools.cache
def _shared(cls: type[Learner], config: Any, explore: bool, steps: int):
    learner = cls(spec(), config, seed=0)
    if steps:
        learner.load_state_dict(trained(learner)[steps - 1])
    return rollout(learner, explore=explore)


def same_rollout(learner: Learner, *, explore: bool = True, steps: int = 0):
    """The rollout of a learner as it begins, or after so many meta-steps: one for many tests.

    What acts or adapts must leave it as it is; a test of that has one of its own.
    """
    return _shared(type(learner), learner.config, explore, steps)


def flat(state: object) -> list[torch.Tensor]:
    """Every tensor in a state, however it is nested."""
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, dict):
        return [t for part in state.values() for t in flat(part)]
    if isinstance(state, tuple | list):
        return [t for part in state for t in flat(part)]
    return [t for part in vars(state).values() for t in flat(part)] if vars_of(state) else []


def vars_of(state: object) -> bool:
    return hasattr(state, "__dict__")


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_actions_have_the_right_shape(learner: Learner) -> None:
    worlds = ready()
    noise = torch.randn(TASKS * WORLDS, 2)
    for explore in (True, False):
        state = learner.begin(TASKS, WORLDS)
        action, _ = learner.act(
            Step(*worlds.current), state, explore=explore, noise=noise if explore else None
        )
        assert action.shape == (TASKS * WORLDS, 2)
        assert action.dtype == torch.float32
        assert action.isfinite().all()


def test_acting_and_adapting_change_no_input(learner: Learner) -> None:
    worlds = ready()
    state = learner.begin(TASKS, WORLDS)
    kept = [tensor.clone() for tensor in flat(state)]
    learner.act(worlds.current, state, explore=True, noise=torch.ones(TASKS * WORLDS, 2))
    data, _ = rollout(learner)
    copy = {name: part.clone() for name, part in data.tensors().items()}
    learner.adapt(state, data)
    assert all(torch.equal(a, b) for a, b in zip(flat(state), kept, strict=True))
    assert equal(data.tensors(), copy)


def test_adapting_is_repeatable_and_leaves_the_weights_alone(learner: Learner) -> None:
    before, (data, state) = weights(learner), rollout(learner)
    one, two = learner.adapt(state, data), learner.adapt(state, data)
    assert all(torch.equal(a, b) for a, b in zip(flat(one), flat(two), strict=True))
    assert equal(before, weights(learner))


def test_an_adapted_state_has_the_form_of_the_first(learner: Learner) -> None:
    data, state = same_rollout(learner)
    adapted = learner.adapt(state, data)
    for other in (state, adapted):
        for a, b in zip(flat(learner.begin(TASKS, WORLDS)), flat(other), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert b.isfinite().all()
    action, _ = learner.act(ready().current, adapted, explore=False, noise=None)
    assert action.shape == (TASKS * WORLDS, 2)


def test_diverged_transitions_teach_nothing(learner: Learner) -> None:
    data, state = same_rollout(learner)
    diverged = torch.zeros_like(data.diverged)
    diverged[10, ::3] = True
    data = data._replace(diverged=diverged, reward=data.reward.masked_fill(diverged, 0.0))
    mask = diverged[..., None]
    wild = data._replace(
        action=data.action.masked_fill(mask, 1e3), next_obs=data.next_obs.masked_fill(mask, 1e3)
    )
    one, two = flat(learner.adapt(state, data)), flat(learner.adapt(state, wild))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_without_exploring_the_noise_does_not_matter(learner: Learner) -> None:
    for explore in (False, True):
        one, two = same_rollout(learner, explore=explore), rollout(learner, explore=explore, seed=1)
        same = torch.equal(one[0].action, two[0].action)
        assert same == (not explore or learner.name in NOISE_IN_THE_WEIGHTS)


def test_weights_survive_a_round_trip(learner: Learner) -> None:
    other = another(learner, seed=1)
    assert not equal(weights(other), weights(learner))
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(weights(learner))))
    for explore in (True, False):
        (a, one), (b, two) = same_rollout(learner, explore=explore), rollout(other, explore=explore)
        assert torch.equal(a.action, b.action)
        adapted = zip(flat(learner.adapt(one, a)), flat(other.adapt(two, b)), strict=True)
        assert all(torch.equal(x, y) for x, y in adapted)


def test_a_restored_learner_goes_on_to_the_same_bits(learner: Learner) -> None:
    """In new worlds, on more threads, as the one that went on in worlds that had run before."""
    other, worlds = another(learner, seed=1), ready(threads=4)
    first, second = trained(learner)
    other.load_state_dict(first)
    other.meta_step(worlds, draw(learner, worlds), Key(6))
    assert equal(second, weights(other))


def test_weights_that_do_not_fit_are_refused(learner: Learner) -> None:
    bad = {name: torch.zeros(3, 3) for name in learner.state_dict()}
    with pytest.raises(UserError):
        learner.load_state_dict(bad)


def test_a_meta_step_is_a_function_of_weights_tasks_and_key(learner: Learner) -> None:
    before, worlds = weights(learner), ready(threads=4)
    metrics = learner.meta_step(worlds, draw(learner, worlds), Key(5))
    assert {"return_before", "return_after", "diverged"} <= set(metrics)
    assert equal(weights(learner), trained(learner)[0])
    assert not equal(weights(learner), before)


def test_another_key_makes_another_meta_step(learner: Learner) -> None:
    worlds = ready()
    learner.meta_step(worlds, draw(learner, worlds), Key(6))
    assert not equal(weights(learner), trained(learner)[0])


def test_evaluation_leaves_the_weights_alone(learner: Learner) -> None:
    before, worlds = weights(learner), ready()
    tasks = TaskDistribution(worlds.family).split("heldout", TASKS)
    evaluate(learner, worlds, tasks, episodes=2, seed=0)
    assert equal(before, weights(learner))


def test_no_evaluation_shows_a_learner_what_is_privileged(learner: Learner, monkeypatch) -> None:
    """What it does is the same to the bit where the task and the family's own cannot be had."""
    worlds = ready()
    learner.load_state_dict(trained(learner)[0])
    tasks = TaskDistribution(worlds.family).split("heldout", TASKS)
    before = evaluate(learner, worlds, tasks, episodes=1, seed=0)
    assert not isinstance(learner, Teacher)

    def hidden(*_: object) -> None:
        raise AssertionError("an evaluation asked for what is privileged")

    monkeypatch.setattr(TaskWorlds, "task_vector", hidden)
    monkeypatch.setattr(TaskWorlds, "privileged", property(lambda self: torch.tensor(torch.nan),
                                                           lambda self, value: None))  # fmt: skip
    after = evaluate(learner, worlds, tasks, episodes=1, seed=0)
    assert before.returns == after.returns


def test_every_learner_goes_on_where_tasks_change(learner: Learner) -> None:
    """What it may see of a stream is enough, and its weights stay as they are."""
    before, worlds = weights(learner), ready()
    tasks = TaskDistribution(worlds.family).split("heldout", TASKS)
    found = stream(learner, worlds, tasks, streams=TASKS, rounds=2, every=4.0, seed=0)
    assert found.timeline.switched.any()
    assert np.isfinite(found.rewards).all()
    assert equal(before, weights(learner))


def test_the_adapted_policy_can_be_saved_and_loaded(learner: Learner) -> None:
    """Another learner, of other weights, acts alike and adapts alike with it."""
    learner.load_state_dict(trained(learner)[0])
    data, state = same_rollout(learner, steps=1)
    for _ in range(3):
        saved = safetensors.torch.save(learner.adapted_state_dict(state))
        other = another(learner, seed=5)
        loaded = other.load_adapted_state_dict(safetensors.torch.load(saved))
        for mine, theirs in (
            (state, loaded),
            (learner.adapt(state, data), other.adapt(loaded, data)),
        ):
            a, _ = learner.act(ready().current, mine, explore=False, noise=None)
            b, _ = other.act(ready().current, theirs, explore=False, noise=None)
            assert torch.equal(a, b)
        state = learner.adapt(state, data)


def test_an_adapted_policy_of_other_parts_is_refused(learner: Learner) -> None:
    saved = learner.adapted_state_dict(learner.begin(1, 1))
    for name in saved:
        with pytest.raises(UserError, match=r"does not fit|do not fit"):
            learner.load_adapted_state_dict({n: t for n, t in saved.items() if n != name})
    with pytest.raises(UserError, match=r"does not fit.*state\.more"):
        learner.load_adapted_state_dict(saved | {"state.more": torch.zeros(1)})


def test_a_state_belongs_to_tasks_or_to_worlds(learner: Learner) -> None:
    """So that `metarl probe` can give a task the state of another."""
    _, state = same_rollout(learner)
    parts = dict(state_parts(state))
    mine = {
        name for name, part in parts.items() if part.ndim and len(part) in (TASKS, TASKS * WORLDS)
    }
    assert mine or not any(part.numel() for part in parts.values())
    swapped = dict(state_parts(swapped_state(state, TASKS, WORLDS)))
    for name, part in parts.items():
        assert torch.equal(
            swapped[name], part.roll(len(part) // TASKS, 0) if name in mine else part
        )


def test_settings_have_help_texts(learner: Learner) -> None:
    import ast
    import inspect

    classes = [cls for cls in type(learner).Config.__mro__ if cls.__module__ != "builtins"]
    fields = 0
    for cls in classes:
        body = ast.parse(inspect.getsource(cls).strip()).body[0].body
        own = [i for i, node in enumerate(body) if isinstance(node, ast.AnnAssign)]
        assert all(isinstance(body[i + 1], ast.Expr) for i in own)
        fields += len(own)
    assert fields


def test_the_policy_alone_acts_and_adapts_alike(learner: Learner) -> None:
    """What `metarl export` ships is a part of the state, and enough to adapt to the same bits."""
    learner.load_state_dict(trained(learner)[0])
    part = {name: tensor.clone() for name, tensor in learner.policy_state_dict().items()}
    assert part.keys() <= learner.state_dict().keys()
    other = another(learner, seed=5)
    other.load_policy_state_dict(part)
    assert equal(other.policy_state_dict(), part)
    (a, state_a), (b, state_b) = same_rollout(learner, steps=1), rollout(other)
    assert torch.equal(a.action, b.action)
    for x, y in zip(flat(learner.adapt(state_a, a)), flat(other.adapt(state_b, b)), strict=True):
        assert torch.equal(x, y)
    with pytest.raises(UserError, match="do not fit"):
        other.load_policy_state_dict(part | {"stranger": torch.zeros(1)})

"""The conformance suite of task families: ``metarl check my_robot.py:MyRobot``.

A check is a function of a family. It returns nothing, or raises CheckError with one line that says
what is wrong and how to mend it; the first line of its docstring is its title. `CHECKS` lists them
in order. After a failure in `GATES` the rest is skipped. Runs are compared bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from metarl.base.errors import STOPS, CheckError, one_line
from metarl.check.notes import notes
from metarl.check.plain_actions import PlainControls
from metarl.check.plain_loop import Watched, check_plain_loop
from metarl.check.plain_physics import edited_model
from metarl.check.trajectory import (
    KEY,
    STATELESS,
    STEPS,
    StateFault,
    Trace,
    demand,
    difference,
    equal_bits,
    extreme_tasks,
    in_train_box,
    one_task,
    random_actions,
    run,
    sample_tasks,
    worlds_of,
)
from metarl.simulation.backend import Backend
from metarl.tasks.distribution import TaskDistribution, Tasks
from metarl.tasks.family import TaskFamily, replace_attributes, without_termination
from metarl.worlds.model_probe import inert_parameter
from metarl.worlds.task_worlds import TaskWorlds

LONGEST = 1000
"""Environment steps, at most, in which everything must stay finite."""
DRAWS = 1000
"""Training draws that are held against the splits."""
SPLIT = 50
"""Tasks of a split that are looked at."""
MANY = 200
"""Environment steps, at most, of the other checks that go by the horizon."""


# --- the checks that the others build on -------------------------------------------------------


def check_model(family: TaskFamily) -> None:
    """The model compiles, and every parameter fits it."""
    demand(
        family.params,
        "the family has no parameters, so one task only: add a Param, or a variation to its name, "
        "such as +dynamics",
    )
    nominal = family.compile()
    for row in extreme_tasks(family, ood=True).values:
        model = edited_model(family, row)
        for field in ("body_mass", "body_inertia"):
            value, given = getattr(model, field), getattr(nominal, field)
            bad = ~(np.isfinite(value) & ((value > 0) | (value == given)))
            if bad.any():
                body, label = int(bad.nonzero()[0][0]), one_task(family, row).label(0)
                raise CheckError(
                    f"{field} of '{nominal.body(body).name}' is {value[body]} in task {label}: "
                    "narrow the ranges of the parameter that edits it"
                )


def check_spaces(family: TaskFamily) -> None:
    """Observations, rewards and flags have the right shapes and types."""
    sizes = set()
    for count in (1, 3):
        worlds = TaskWorlds(family, count, 1)
        obs = worlds.reset()
        kept = obs.clone()
        got = worlds.step(torch.zeros(count, worlds.spec.action_size))
        demand(torch.equal(obs, kept), "observe() returned a buffer that the next step overwrote")
        sizes.add(worlds.spec.observation_size)
        for name, tensor, dtype, shape in (
            ("observe()", got.obs, torch.float32, (count, worlds.spec.observation_size)),
            ("observe()", got.next_obs, torch.float32, (count, worlds.spec.observation_size)),
            ("reward()", got.reward, torch.float64, (count,)),
            ("terminated()", family.terminated(worlds.simulator), torch.bool, (count,)),
        ):
            demand(
                tensor.dtype == dtype and tensor.shape == shape,
                f"{name} gives {tuple(tensor.shape)} {tensor.dtype}, expected {shape} {dtype}",
            )
    demand(len(sizes) == 1, f"the observation's size depends on the number of worlds: {sizes}")
    demand(min(sizes) > 0, "observe() gives no numbers at all")


def check_finite(family: TaskFamily) -> None:
    """Everything stays finite under random actions."""
    tasks = extreme_tasks(family)

    def spy(name: str) -> Callable[..., Any]:
        def wrapped(sim: Backend, *rest: Any) -> Any:
            value = getattr(family, name)(sim, *rest)
            if value is None:  # privileged(), of a family that shows critics nothing
                return None
            sane = torch.isfinite(sim.qpos).all(1) & torch.isfinite(sim.qvel).all(1)
            parts = value.items() if isinstance(value, Mapping) else [("", value)]
            for term, part in parts:
                bad = ~torch.isfinite(part.reshape(len(part), -1)).all(1) & sane
                if len(bad) == len(tasks) and bad.any():
                    label = tasks.label(int(bad.nonzero()[0]))
                    what = f"term '{term}' of {name}()" if term else f"{name}()"
                    raise CheckError(f"{what} is not finite in task {label}: guard its arithmetic")
            return value

        return wrapped

    names = ("reward", "observe", "privileged")
    worlds = worlds_of(replace_attributes(family, **{name: spy(name) for name in names}), tasks)
    worlds.reset()
    for t, action in enumerate(random_actions(worlds, min(family.horizon, LONGEST))):
        diverged = worlds.step(action).diverged
        if diverged.any():
            raise CheckError(f"the physics diverged at step {t}: {worlds.why_diverged()}")


def check_repeats(family: TaskFamily) -> None:
    """Resets and draws of tasks repeat from their seeds."""
    distribution = TaskDistribution(family)
    draws = [distribution.sample(8, KEY.numpy()) for _ in range(2)]
    demand(draws[0] == draws[1], "the same seed drew different tasks")
    worlds = worlds_of(family, sample_tasks(family))
    first, again = run(worlds), run(worlds)
    hint = "take every draw in initial_state() from `rng`, and keep no state in the family"
    _same(first, again, "a second run from the same seed", hint)
    _same(first, run(worlds_of(family, sample_tasks(family))), "a run in new worlds", hint)


def check_alone(family: TaskFamily) -> None:
    """A world does not depend on which others run beside it."""
    tasks = sample_tasks(family)
    worlds = worlds_of(family, tasks, 2)
    actions = random_actions(worlds, STEPS)
    together = run(worlds, actions)
    chosen = torch.tensor([0, 2])
    few = run(worlds_of(family, tasks[:2], 1), actions[:, chosen])
    hint = (
        "compute each row of the result from that world's row alone, without functions whose bits "
        "depend on the number of rows, such as atan2, sigmoid and matrix products"
    )
    _same(together.worlds(chosen), few, "a run with fewer worlds", hint)


# --- the physics and the tasks -----------------------------------------------------------------


def check_idempotent(family: TaskFamily) -> None:
    """set_tasks is idempotent: twice is as good as once."""
    tasks = sample_tasks(family)
    worlds = worlds_of(family, tasks)
    once = run(worlds)
    worlds.set_tasks(tasks, 1)
    worlds.set_tasks(tasks, 1)
    _same(once, run(worlds), "a run after the same set_tasks again", STATELESS)


def check_order(family: TaskFamily) -> None:
    """set_tasks is free of order: earlier tasks leave no trace."""
    tasks, others = sample_tasks(family), sample_tasks(family, "others")
    worlds = worlds_of(family, others)
    second = run(worlds)
    worlds.set_tasks(tasks, 1)
    _same(run(worlds_of(family, tasks)), run(worlds), "a run after other tasks", STATELESS)
    worlds.set_tasks(others, 1)
    _same(second, run(worlds), "a run after other tasks", STATELESS)


def check_parameters(family: TaskFamily) -> None:
    """Every parameter changes the trajectory, the observation or the reward."""
    if family.has_model and not family.probe_steps:
        raise NotAskedError("probe_steps = 0: random actions do not meet the difference")
    why = inert_parameter(family, family.probe_steps or MANY)
    demand(not why, why)


def check_splits(family: TaskFamily) -> None:
    """The splits are frozen and disjoint, and lie where they should."""
    distribution = TaskDistribution(family)
    hint = "a Param must be constant, and ood must lie outside train"
    train = np.concatenate(
        [
            distribution.sample(DRAWS, KEY.numpy()).values,
            distribution.split("train", 2 * SPLIT).values,
        ]
    )
    for name in ("train", "heldout", "ood") if distribution.has_ood else ("train", "heldout"):
        tasks, fewer = distribution.split(name, SPLIT), distribution.split(name, SPLIT // 2 - 5)
        again = TaskDistribution(family).split(name, SPLIT)
        demand(tasks == again, f"split '{name}' moved: {hint}")
        demand(tasks[: len(fewer)] == fewer, f"split '{name}' depends on n: {hint}")
        demand(Tasks.from_json(tasks.to_json()) == tasks, f"split '{name}' changed in JSON")
        inside = np.array([in_train_box(family, row) for row in tasks.values])
        demand((inside == (name != "ood")).all(), f"split '{name}' is out of place: {hint}")
        if name != "train" and not (name == "heldout" and distribution.shared_split):
            shared = {row.tobytes() for row in tasks.values} & {row.tobytes() for row in train}
            demand(not shared, f"split '{name}' shares a task with the training draws: {hint}")


# --- episodes ----------------------------------------------------------------------------------


def check_clipping(family: TaskFamily) -> None:
    """Actions are clipped to [-1, 1], which spans the control range."""
    worlds = worlds_of(family, sample_tasks(family))
    actions = 3 * random_actions(worlds, STEPS)
    hint = "compute the reward from `action`, which is clipped"
    _same(run(worlds, actions), run(worlds, actions.clamp(-1, 1)), "a run with clipped", hint)
    for sign in (-1.0, 1.0) if family.action_size is None else ():
        watched = Watched(without_termination(family))
        worlds = worlds_of(watched.family, sample_tasks(family))
        worlds.step(torch.full((worlds.num_worlds, worlds.spec.action_size), sign))
        expected = PlainControls(family).step(np.full(worlds.spec.action_size, sign))
        demand(
            np.allclose(watched.told, expected, rtol=1e-12, atol=1e-12),
            f"action {sign:g} gives ctrl {watched.told[0]}, not {expected}: {STATELESS}",
        )


def check_horizon(family: TaskFamily) -> None:
    """Episodes are cut exactly at the horizon."""
    horizon = min(family.horizon, MANY)
    worlds = worlds_of(replace_attributes(family, horizon=horizon), sample_tasks(family))
    got = run(worlds, random_actions(worlds, 2 * horizon + 1))
    done = got.done
    demand(
        horizon == 1 or not got.terminated[0].all(),
        "every episode ends at its first step: terminated() is true of the initial state",
    )
    length = torch.zeros(worlds.num_worlds, dtype=torch.int64)
    for t in range(len(done)):
        length += 1
        cut = (length >= horizon) & ~(got.terminated[t] | got.diverged[t])
        demand(torch.equal(got.truncated[t], cut), f"`truncated` is wrong at step {t}")
        length[done[t]] = 0


def check_successor(family: TaskFamily) -> None:
    """next_obs is the true successor, and obs begins the next episode."""
    cut, free = replace_attributes(family, horizon=5), without_termination(family)
    tasks, hint = sample_tasks(family), "observe() must depend on the simulator and the task alone"
    worlds = worlds_of(cut, tasks)
    actions = random_actions(worlds, 5)
    ended = run(worlds, actions)
    twin = run(worlds_of(free, tasks), actions)
    fresh = worlds_of(free, tasks)
    fresh.seed(KEY)
    fresh.reset()
    second = fresh.reset()
    done = ended.done
    for i in range(len(tasks)):
        last = int(done[:, i].nonzero()[0])
        head = slice(0, last + 1)
        if not ended.diverged[last, i]:
            equal = equal_bits(ended.next_obs[head, i], twin.next_obs[head, i])
            demand(equal, f"next_obs of world {i} is not what the step led to: {hint}")
        equal = equal_bits(ended.obs[:last, i], ended.next_obs[:last, i])
        demand(equal, f"obs and next_obs of world {i} differ within an episode: {hint}")
        equal = equal_bits(ended.obs[last, i], second[i])
        demand(equal, f"obs of world {i} is not its next episode's first: {hint}")


def check_divergence(family: TaskFamily) -> None:
    """A diverged world is flagged at once and leaves the others as they are."""
    tasks, bad = sample_tasks(family), 1
    worlds = worlds_of(family, tasks)
    actions = random_actions(worlds, 20)
    base = run(worlds, actions)
    others = torch.arange(len(tasks)) != bad
    hint = "reward(), observe() and terminated() must not mix worlds"
    for field, value in (("qpos", torch.nan), ("qpos", torch.inf), ("qvel", torch.nan)):
        poison = StateFault(5, field, bad, value)
        got = run(worlds_of(family, tasks), actions, poison)
        what = f"a run with {value} in {field} of world {bad}"
        demand(got.diverged[5, bad], f"world {bad} was not flagged in {what}")
        demand(got.reward[5, bad] == 0, f"world {bad} was paid for a diverged step in {what}")
        demand(torch.isfinite(got.obs).all(), f"an observation is not finite in {what}: {hint}")
        _same(base.worlds(others), got.worlds(others), what, hint)


def check_threads(family: TaskFamily) -> None:
    """One, two and four physics threads give the same bits."""
    tasks = sample_tasks(family)
    one = run(worlds_of(family, tasks, 2))
    for threads in (2, 4):
        several = run(worlds_of(family, tasks, 2, threads))
        _same(one, several, f"a run on {threads} threads", STATELESS)


Checks = tuple[Callable[[TaskFamily], None], ...]
GATES: Checks = (check_model, check_spaces, check_finite, check_repeats, check_alone)
"""The checks without which the others mean nothing."""
CHECKS: Checks = (
    *GATES, check_plain_loop, check_idempotent, check_order, check_parameters, check_splits,
    check_clipping, check_horizon, check_successor, check_divergence, check_threads,
)  # fmt: skip
"""Every check, in the order in which they run."""


class NotAskedError(Exception):
    """A family does without a check, for the reason that its message says."""


def check_family(
    family: TaskFamily | type[TaskFamily], report: Callable[[str], None] = print,
    checks: Checks = CHECKS, gates: Checks = GATES,
    begin: Callable[[str], None] = lambda title: None,
) -> int:  # fmt: skip
    """Run every check on a family, report a line for each, and return how many failed.

    Args:
        family: a family, or its class, whose construction then counts as the first check.
        report: takes the lines ``ok    …``, ``FAIL  …: why``, ``skip  …`` and ``note  …``.
        checks: which checks, in order.
        gates: those after whose failure the rest is skipped.
        begin: takes the title of each check that runs, before it does.

    Returns:
        The number of checks that failed.
    """
    failures, stopped = 0, ""
    for check in checks:
        if stopped:
            report(f"skip  {title(check)}: it needs '{stopped}'")
            continue
        begin(title(check))
        try:
            family = family() if isinstance(family, type) else family
            check(family)
        except STOPS:
            raise
        except NotAskedError as reason:
            report(f"skip  {title(check)}: {reason}")
        except BaseException as error:  # whatever a user's code raises
            failures += 1
            report(f"FAIL  {title(check)}: {one_line(error, family)}")
            stopped = title(check) if check in gates else ""
        else:
            report(f"ok    {title(check)}")
    for note in () if isinstance(family, type) else notes(family):
        report(f"note  {note}")
    return failures


def title(check: Callable[[TaskFamily], None]) -> str:
    """Return what a check says of a family that passes it."""
    return (check.__doc__ or check.__name__).partition("\n")[0].rstrip(".")


# --- what the checks share ---------------------------------------------------------------------


def _same(expected: Trace, got: Trace, what: str, hint: str) -> None:
    where = difference(expected, got)
    demand(not where, f"{what} differs: {where}; {hint}")

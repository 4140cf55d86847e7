"""How public meta-RL environments take their tasks: as a dictionary, or by number.

MAML's and garage's environments have ``set_task(task)`` or ``reset_task(task)`` with a dictionary,
and make such dictionaries in ``sample_tasks(n)``. PEARL's have ``reset_task(idx)``.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from metarl.base.errors import UserError
from metarl.tasks.params import Param

INDEX_NAMES = ("idx", "index", "task_idx", "task_index", "task_id")
"""Names of a task's number, as the argument of a method or as a parameter of a family."""


def is_whole(param: Param) -> bool:
    """Whether every value of a parameter is a whole number, which a task then has as an int."""
    return bool(param.choices) and not param.ood and all(v.is_integer() for v in param.choices)


def task_number(params: tuple[Param, ...]) -> str | None:
    """Return the name of the only parameter if that is a task's number, else None."""
    if len(params) == 1 and params[0].size == 1 and is_whole(params[0]):
        return params[0].name
    return None


def setters_of(env: gymnasium.Env) -> list[Callable[..., Any]]:
    """Return the environment's own methods that set its task."""
    names = [name for name in ("set_task", "reset_task") if env.has_wrapper_attr(name)]
    return [env.get_wrapper_attr(name) for name in names]


def takes_number(setter: Callable[[Any], Any]) -> bool:
    """Whether a method that sets the task takes its number, by the name of its argument."""
    try:
        return next(iter(inspect.signature(setter).parameters), "") in INDEX_NAMES
    except (TypeError, ValueError):
        return False


def sampled_tasks(env: gymnasium.Env, params: tuple[Param, ...]) -> list[Any] | None:
    """Return the tasks of an environment's ``sample_tasks(n)`` that the parameter idx numbers.

    None where the parameter is called otherwise, a method takes the number itself, or there is no
    ``sample_tasks``. The draw is seeded, so that every process and every run has the same list.

    Raises:
        UserError: it draws other tasks under the same seed, or too few.
    """
    name = task_number(params)
    numbered = name in INDEX_NAMES and not any(map(takes_number, setters_of(env)))
    if not (numbered and env.has_wrapper_attr("sample_tasks")):
        return None
    count = int(params[0].choices[-1]) + 1
    one, two = (_draw(env, count) for _ in range(2))
    if len(one) < count or repr(one) != repr(two):
        what = f"returned {len(one)} tasks" if len(one) < count else "gave others the second time"
        raise UserError(
            f"sample_tasks({count}) {what}: it must draw as many from self.np_random or np.random"
        )
    return one


def _draw(env: gymnasium.Env, count: int) -> list[Any]:
    states = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        seed_globals(0)
        env.unwrapped.np_random = np.random.default_rng(0)
        return list(env.get_wrapper_attr("sample_tasks")(count))
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])


def seed_globals(seed: int) -> None:
    """Seed the generators of numpy and Python, from which older environments draw."""
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def takes_keywords(setter: Callable[[Any], Any], params: tuple[Param, ...]) -> bool:
    """Whether a method that sets the task names parameters of the family as its arguments."""
    try:
        arguments = inspect.signature(setter).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = {a.name for a in arguments if a.default is a.empty and a.kind is not a.VAR_KEYWORD}
    names = {param.name for param in params}
    rest = any(a.kind is a.VAR_KEYWORD for a in arguments)
    return needed <= names and (rest or names <= {a.name for a in arguments})


def call_setter(env: gymnasium.Env, task: dict[str, Any], params: tuple[Param, ...],
                sampled: list[Any] | None) -> None:  # fmt: skip
    """Set the task by whichever of its methods the environment has.

    Args:
        env: the environment.
        task: parameter -> value.
        params: of the family.
        sampled: what `sampled_tasks` returned.

    Raises:
        UserError: it has none, or one that takes a number and the family's tasks have none.
    """
    setters, number = setters_of(env), task_number(params)
    by_number = [setter for setter in setters if takes_number(setter)]
    if not setters:
        raise UserError(
            "its environment has no set_task(task) or reset_task(task): write `def set_task(self, "
            f"env, task)` in the family, which sets task['{params[0].name}'] on env.unwrapped"
        )
    if sampled is not None and number:
        setters[0](sampled[task[number]])
    elif by_number and number and (number in INDEX_NAMES or takes_number(setters[0])):
        by_number[0](task[number])
    elif takes_number(setters[0]):
        raise UserError(
            f"its {setters[0].__name__} takes a task's number: give the family one parameter, such "
            "as Param('idx', Choices(range(10))), or write set_task(self, env, task)"
        )
    elif takes_keywords(setters[0], params):
        setters[0](**task)
    else:
        setters[0](task)

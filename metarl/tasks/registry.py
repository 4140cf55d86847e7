"""From names to families: those registered, those of files, and products of either."""

from __future__ import annotations

import functools
import inspect

import gymnasium

from metarl.base.errors import user_code
from metarl.base.plugins import (
    check_name,
    load_plugin,
    plugin_class,
    plugin_file,
    plugins,
    reference,
)
from metarl.tasks.bridge.families import bridged_class, is_bridged
from metarl.tasks.composition import compose
from metarl.tasks.family import TaskFamily, class_name
from metarl.tasks.gymnasium_family import family_of


def find_family(name: str) -> TaskFamily:
    """Return the family registered as `name`, or the one of ``file.py:Class``.

    Either may be followed by variations, as in ``half-cheetah-vel+dynamics+latency``.

    Raises:
        UserError: no such family, variation or file, or it is not a TaskFamily.
    """
    cls = family_class(name)
    with user_code(f"family '{class_name(cls)}': making it", cls):
        return cls()


def family_class(name: str) -> type[TaskFamily]:
    """Return the class of a family; see `find_family`.

    A function or class that makes gymnasium environments becomes a family of its `params`.
    """
    check_name(name, "family")
    if is_bridged(name):
        return plugin_class(bridged_class(name), name, TaskFamily, "family")
    path, colon, last = name.rpartition(":")
    last, *extra = [last] if last.endswith(".py") else last.split("+")
    whole = path + colon + last
    found = load_plugin(whole, "metarl.families", "family")
    makes = inspect.isfunction(found) or isinstance(found, functools.partial)
    if makes or (isinstance(found, type) and issubclass(found, gymnasium.Env)):
        found = family_of(found)
    cls = plugin_class(found, whole, TaskFamily, "family")
    if not extra:
        return cls
    return compose(cls, extra)


def in_same_file(named: str, family: TaskFamily) -> str | None:
    """Return the name of a family in the file of another one, if it may be of that file.

    So what is to go with a family that the user has named needs no further leave to run its code.

    Args:
        named: what a checkpoint calls it.
        family: the user's.
    """
    (_, _, words), (file, mark, own) = (
        name.rpartition(".py:") for name in (named, reference(family))
    )
    same = plugin_file(named) is not None and words.partition("+")[0] == own.partition("+")[0]
    return f"{file}.py:{words}" if mark and same else None


def list_families() -> list[str]:
    """Return the names of the registered families."""
    return sorted(plugins("metarl.families"))

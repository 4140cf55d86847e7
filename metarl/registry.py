"""From names to classes: the registered families and learners, products, and those of files."""

from __future__ import annotations

import inspect

import gymnasium

from metarl.adapters.gymnasium_family import family_of
from metarl.composition import compose
from metarl.errors import user_code
from metarl.family import TaskFamily, class_name
from metarl.learner import Learner
from metarl.plugins import load_plugin, plugin_class, plugins


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
    path, colon, last = name.rpartition(":")
    last, *extra = [last] if last.endswith(".py") else last.split("+")
    whole = path + colon + last
    found = load_plugin(whole, "metarl.families", "family")
    if inspect.isfunction(found) or (isinstance(found, type) and issubclass(found, gymnasium.Env)):
        found = family_of(found)
    cls = plugin_class(found, whole, TaskFamily, "family")
    if not extra:
        return cls
    return compose(cls, extra)


def list_families() -> list[str]:
    """Return the names of the registered families."""
    return sorted(plugins("metarl.families"))


def find_learner(name: str) -> type[Learner]:
    """Return the learner class registered as `name`, or the one of ``file.py:Class``.

    Raises:
        UserError: no such algorithm or file, or it is not a Learner.
    """
    found = load_plugin(name, "metarl.learners", "algorithm")
    return plugin_class(found, name, Learner, "algorithm")


def list_learners() -> list[str]:
    """Return the names of the registered algorithms."""
    return sorted(plugins("metarl.learners"))

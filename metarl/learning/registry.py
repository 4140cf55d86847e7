"""From names to learners: those registered, and those of files."""

from __future__ import annotations

from metarl.base.plugins import load_plugin, plugin_class, plugins
from metarl.learning.learner import Learner


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

"""The registered families, for tests that take each of them in turn."""

import pytest

from metarl.tasks.registry import list_families

ALIKE = ("-scan", "-literature", "-sparse")
"""Ends of the names of families that differ from another one in a few numbers or a sensor."""


def every_family(*, without: tuple[str, ...] = ()) -> list:
    """Their names, as parameters of a test; those that are much like another one are slow tests.

    Args:
        without: leave out names that one of these is in.
    """
    return [
        pytest.param(name, marks=pytest.mark.slow) if name.endswith(ALIKE) else name
        for name in list_families()
        if not any(part in name for part in without)
    ]

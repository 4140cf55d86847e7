"""The conformance suite of task families, which `metarl check` runs.

suite: the checks.  trajectory: short runs to compare bit by bit.  plain_physics: the plain loop
that worlds are held to.  notes: what is sound, but odd.  gymnasium_suite: third-party
environments.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from metarl.base.lazy import lazy as _lazy

if _TYPE_CHECKING:
    from metarl.check.suite import CheckError, check_family

__all__ = ["CheckError", "check_family"]

__getattr__ = _lazy(
    __name__,
    {
        "suite": "CheckError check_family",
    },
)

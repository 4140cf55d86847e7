"""The algorithms, one a file: each is a `Learner` with a Config."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
    from metarl.algorithms.pearl import Pearl, PearlConfig
    from metarl.algorithms.rl2 import Rl2, Rl2Config

__all__ = ["MamlTrpo", "MamlTrpoConfig", "Pearl", "PearlConfig", "Rl2", "Rl2Config"]

_HOME = {"MamlTrpo": "maml_trpo", "Pearl": "pearl", "Rl2": "rl2"}


def __getattr__(name: str) -> _Any:
    """Import a learner or its Config when it is first used."""
    home = _HOME.get(name.removesuffix("Config"))
    if home is None:
        raise AttributeError(f"module 'metarl.algorithms' has no attribute '{name}'")
    return getattr(_import_module(f"metarl.algorithms.{home}"), name)

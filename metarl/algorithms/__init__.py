"""The algorithms, one a file: each is a `Learner` with a Config."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from metarl.base.lazy import lazy as _lazy

if _TYPE_CHECKING:
    from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
    from metarl.algorithms.pearl import Pearl, PearlConfig
    from metarl.algorithms.rl2 import Rl2, Rl2Config

__all__ = ["MamlTrpo", "MamlTrpoConfig", "Pearl", "PearlConfig", "Rl2", "Rl2Config"]

__getattr__ = _lazy(
    __name__,
    {"maml_trpo": "MamlTrpo MamlTrpoConfig", "pearl": "Pearl PearlConfig", "rl2": "Rl2 Rl2Config"},
)

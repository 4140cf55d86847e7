"""The algorithms, one a file: each is a `Learner` with a Config."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from metarl.base.lazy import lazy as _lazy

if _TYPE_CHECKING:
    from metarl.algorithms.finetune import Finetune, FinetuneConfig
    from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
    from metarl.algorithms.pearl import Pearl, PearlConfig
    from metarl.algorithms.ppo import Ppo, PpoConfig
    from metarl.algorithms.rl2 import Rl2, Rl2Config
    from metarl.algorithms.varibad import Varibad, VaribadConfig

__all__ = [
    "Finetune", "FinetuneConfig", "MamlTrpo", "MamlTrpoConfig", "Pearl", "PearlConfig", "Ppo",
    "PpoConfig", "Rl2", "Rl2Config", "Varibad", "VaribadConfig",
]  # fmt: skip

__getattr__ = _lazy(
    __name__,
    {
        "finetune": "Finetune FinetuneConfig", "maml_trpo": "MamlTrpo MamlTrpoConfig",
        "pearl": "Pearl PearlConfig", "ppo": "Ppo PpoConfig", "rl2": "Rl2 Rl2Config",
        "varibad": "Varibad VaribadConfig",
    },
)  # fmt: skip

"""The algorithms, one a file: each is a `Learner` with a Config."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from metarl.base.lazy import lazy as _lazy

if _TYPE_CHECKING:
    from metarl.algorithms.amago import Amago, AmagoConfig
    from metarl.algorithms.cavia import Cavia, CaviaConfig
    from metarl.algorithms.contextual_bc import ContextualBc, ContextualBcConfig
    from metarl.algorithms.diayn import Diayn, DiaynConfig
    from metarl.algorithms.distil import Distil, DistilConfig
    from metarl.algorithms.es_maml import EsMaml, EsMamlConfig
    from metarl.algorithms.finetune import Finetune, FinetuneConfig
    from metarl.algorithms.ftml import Ftml, FtmlConfig
    from metarl.algorithms.grbal import Grbal, GrbalConfig
    from metarl.algorithms.learned_optimizer import LearnedOptimizer, LearnedOptimizerConfig
    from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
    from metarl.algorithms.mil import Mil, MilConfig
    from metarl.algorithms.mole import Mole, MoleConfig
    from metarl.algorithms.pearl import Pearl, PearlConfig
    from metarl.algorithms.ppo import Ppo, PpoConfig
    from metarl.algorithms.promp import ProMp, ProMpConfig
    from metarl.algorithms.prototypes import Prototypes, PrototypesConfig
    from metarl.algorithms.rebal import Rebal, RebalConfig
    from metarl.algorithms.reptile import Reptile, ReptileConfig
    from metarl.algorithms.rl2 import Rl2, Rl2Config
    from metarl.algorithms.rma import Rma, RmaConfig
    from metarl.algorithms.varibad import Varibad, VaribadConfig

__all__ = [
    "Amago", "AmagoConfig", "Cavia", "CaviaConfig", "ContextualBc", "ContextualBcConfig",
    "Diayn", "DiaynConfig", "Distil", "DistilConfig", "EsMaml", "EsMamlConfig", "Finetune",
    "FinetuneConfig", "Ftml", "FtmlConfig", "Grbal", "GrbalConfig", "LearnedOptimizer",
    "LearnedOptimizerConfig", "MamlTrpo", "MamlTrpoConfig", "Mil", "MilConfig", "Mole",
    "MoleConfig", "Pearl",
    "PearlConfig", "Ppo", "PpoConfig", "ProMp", "ProMpConfig", "Prototypes", "PrototypesConfig",
    "Rebal", "RebalConfig", "Reptile", "ReptileConfig", "Rl2", "Rl2Config", "Rma", "RmaConfig",
    "Varibad", "VaribadConfig",
]  # fmt: skip

__getattr__ = _lazy(
    __name__,
    {
        "amago": "Amago AmagoConfig",
        "cavia": "Cavia CaviaConfig",
        "contextual_bc": "ContextualBc ContextualBcConfig",
        "diayn": "Diayn DiaynConfig",
        "distil": "Distil DistilConfig",
        "es_maml": "EsMaml EsMamlConfig",
        "finetune": "Finetune FinetuneConfig",
        "ftml": "Ftml FtmlConfig",
        "grbal": "Grbal GrbalConfig",
        "learned_optimizer": "LearnedOptimizer LearnedOptimizerConfig",
        "maml_trpo": "MamlTrpo MamlTrpoConfig",
        "mil": "Mil MilConfig",
        "mole": "Mole MoleConfig",
        "pearl": "Pearl PearlConfig",
        "ppo": "Ppo PpoConfig",
        "promp": "ProMp ProMpConfig",
        "prototypes": "Prototypes PrototypesConfig",
        "rebal": "Rebal RebalConfig",
        "reptile": "Reptile ReptileConfig",
        "rl2": "Rl2 Rl2Config",
        "rma": "Rma RmaConfig",
        "varibad": "Varibad VaribadConfig",
    },
)

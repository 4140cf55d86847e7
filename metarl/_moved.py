"""Modules that were moved: their old names import the new ones, with a deprecation warning."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ROOMS = {
    "base": "errors files keys output plugins text threads trust versions",
    "simulation": "controls edits model_faults simulator",
    "tasks": "composition family params registry sampler",
    "worlds": "policy rollout vector",
    "learning": "checkpoint learner",
    "evaluation": "divergence report_fields statistics",
    "runs": "progress run_folder",
    "check": "notes plain_physics",
}
_MOVED = {
    "reading": "base.untrusted", "world_factory": "worlds.factory",
    "adapted": "learning.adaptation", "predict": "learning.adapted_policy",
    "shipped": "learning.agents", "launch": "run", "train_config": "runs.config",
    "training": "runs.runner", "interrupt": "runs.signals", "trace": "check.trajectory",
    "scene": "video.scene", "report.plots": "report.charts",
    "adapters.gymnasium_family": "tasks.gymnasium_family",
    "modules.actor_critic": "networks.actor_critic",
    "modules.memory": "networks.memories.choice", "modules.mlp": "networks.relu_mlp",
    "modules.networks": "networks.task_mlp", "modules.normalise": "networks.normalise",
    "networks.memory": "networks.memories.choice", "learning.evaluation": "evaluation.protocol",
    "experiment": "commands.training.experiment", "commands.render": "commands.viewing.render",
}  # fmt: skip
_MOVED |= {name: f"{room}.{name}" for room, names in _ROOMS.items() for name in names.split()}
_INTO = {
    "learning": ("evaluation", "divergence probe report_fields score statistics"),
    "networks": ("networks.memories", "attention backbone recurrent scan"),
    "modules": ("modules.gradients", "inner_loop trust_region"),
    "commands": ("commands.training", "experiment sweep train"),
    "report": ("report.sections", "adapting terms"),
}
_MOVED |= {
    f"commands.{name}": f"commands.evaluating.{name}"
    for name in ("against", "evaluate", "probe", "simulators", "stream")
}
for _old, (_new, _names) in _INTO.items():
    _MOVED |= {f"{_old}.{name}": f"{_new}.{name}" for name in _names.split()}
"""Old name -> new name, both below `metarl`."""


class _Moved(MetaPathFinder, Loader):
    """Finds a moved module by its old name; asked last, so it costs other imports nothing."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec if `name` is an old one."""
        package, _, old = name.partition(".")
        return ModuleSpec(name, self) if package == "metarl" and old in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module by its new name."""
        from metarl.base import versions

        new = f"metarl.{_MOVED[spec.name.partition('.')[2]]}"
        versions.deprecated(spec.name, new)
        return importlib.import_module(new)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module has been executed."""


def install() -> None:
    """Let old names be imported."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())

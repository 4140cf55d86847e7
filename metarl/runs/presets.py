"""Settings from files: presets, tuned for a family and an algorithm, and files of the user's own.

A preset, FAMILY/NAME, is the table NAME of ``metarl/presets/FAMILY.toml``: fields of `TrainConfig`
and of the algorithm's Config, of which those of the preset it is `like` come first. What is given
later counts: the defaults, the preset, a file of the user's own, and what is said in the command.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from metarl.base.distributed import rank_of_process
from metarl.base.errors import UserError, did_you_mean
from metarl.base.files import read_json, read_text
from metarl.base.plugins import absolute
from metarl.learning.registry import find_learner
from metarl.runs.config import TrainConfig
from metarl.runs.elsewhere import called_here
from metarl.runs.progress import say

PRESETS = Path(__file__).parents[1] / "presets"
MEASURED = PRESETS / "measured.json"
"""Preset -> what its runs in experiments/results reached; `experiments/summarise.py` writes it."""
PLAIN = "none"
"""In place of a preset's name: the plain defaults."""
OTHERWISE = f"--preset {PLAIN}"

Configs = tuple[TrainConfig, Any]
"""How to train, and the algorithm's Config."""


@dataclass(frozen=True)
class Preset:
    """The settings of a preset, where they are not the defaults."""

    name: str
    algorithm: str
    settings: Mapping[str, Any]

    def configs(self) -> Configs:
        """Return all settings of the preset."""
        return with_settings(plain(self.algorithm), self.settings, f"preset {self.name}")


@functools.cache
def presets() -> dict[str, Preset]:
    """Return the presets that come with metarl, by name."""
    tables = {
        f"{path.stem}/{name}": table
        for path in sorted(PRESETS.glob("*.toml"))
        for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items()
    }

    def whole(name: str) -> dict[str, Any]:
        table = dict(tables[name])
        base = table.pop("like", None)
        return (whole(base) if base else {"algorithm": name.partition("/")[2]}) | table

    found = {name: whole(name) for name in tables}
    return {name: Preset(name, table.pop("algorithm"), table) for name, table in found.items()}


def presets_of(family: str) -> dict[str, Preset]:
    """Return the presets of a family by the second part of their names."""
    return {
        name.partition("/")[2]: one
        for name, one in presets().items()
        if name.partition("/")[0] == family
    }


def choose(family: str, algorithm: str, name: str | None = None) -> Preset | None:
    """Return the preset that a run starts from, if there is one.

    Args:
        family: as the user names it. A product, or a family that is told the task, has no preset of
            its own and gets none of its base: nobody has measured those settings on it.
        algorithm: likewise.
        name: a preset, without FAMILY/ one of this family; None takes the one that is called
            FAMILY/ALGORITHM, and `PLAIN` none.

    Raises:
        UserError: there is no such preset, or it is of another algorithm.
    """
    known = presets()
    if name is None:
        return known.get(f"{family}/{algorithm}")
    if name == PLAIN:
        return None
    found = known.get(name) or known.get(f"{family}/{name}")
    if found is None:
        near = did_you_mean(name, known) or did_you_mean(f"{family}/{name}", known)
        raise UserError(f"unknown preset '{name}'{near}; `metarl presets` lists them")
    if found.algorithm != algorithm:
        raise UserError(f"preset {found.name} is of {found.algorithm}, not of {algorithm}")
    return found


def say_tuned(family: str, algorithm: str, name: str | None, without: str = OTHERWISE) -> None:
    """Say in a line that a run starts from a preset that nobody named, and how it would not."""
    tuned = choose(family, algorithm, name)
    if tuned is not None and name is None and rank_of_process() == 0:
        say(f"settings tuned for this pair (preset {tuned.name}); {without} for the plain defaults")


def plain(algorithm: str) -> Configs:
    """Return the defaults of an algorithm."""
    return TrainConfig(), find_learner(algorithm).Config()


def start_from(
    start: Configs, family: str, algorithm: str, preset: str | None, file: str | Path | None
) -> Configs:
    """Return the settings that a run starts from: those of its preset, and of a file of the user's.

    Args:
        start: what they are else.
        family: see `choose`, as for the rest.
        algorithm: likewise.
        preset: likewise.
        file: see `with_file`; None for none.
    """
    if chosen := choose(family, algorithm, preset):
        start = with_settings(start, chosen.settings, f"preset {chosen.name}")
    return start if file is None else with_file(start, file, algorithm)


def with_settings(start: Configs, settings: Mapping[str, Any], where: str) -> Configs:
    """Return settings with others in place of some.

    Args:
        start: what they are else.
        settings: by name, those of training and those of the algorithm in one; lists are taken for
            tuples, and whole floats for integers. A number of iterations replaces a number of env
            steps that `start` has for a goal.
        where: they come from, for errors.

    Raises:
        UserError: a setting does not exist or cannot be.
    """
    names = [[field.name for field in fields(part)] for part in start]
    for name in settings:
        if name not in (*names[0], *names[1]):
            raise UserError(f"{where} has no setting '{name}'{_hint(name, names[0] + names[1])}")
    if "iterations" in settings:
        settings = {"env_steps": None, **settings}
    try:
        train, learner = (
            replace(part, **{name: _plain(settings[name]) for name in known if name in settings})
            for part, known in zip(start, names, strict=True)
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None
    return train, learner


def _hint(name: str, known: list[str]) -> str:
    """Return what an unknown setting is called here, or which one is near."""
    here = called_here(name.replace("_", "-"), [one.replace("_", "-") for one in known])
    if here:
        return f": here it is {' and '.join(one.replace('-', '_') for one in here[:2])}"
    return did_you_mean(name, known)


def _plain(value: Any) -> Any:
    """A setting as a Config has it: 1e6 is the integer that it means, a list is a tuple."""
    if isinstance(value, list):
        return tuple(value)
    whole = isinstance(value, float) and value.is_integer() and abs(value) >= 1000
    return int(value) if whole else str(value) if isinstance(value, Path) else value


def with_file(start: Configs, file: str | Path, algorithm: str) -> Configs:
    """Return settings with those of a file in place of some.

    Args:
        start: what they are else.
        file: JSON or TOML: settings by name, which may lie in tables ``train`` and ``learner``. A
            run's own config.json is one, of which the folder that it went to is left out.
        algorithm: whose settings they have to be.

    Raises:
        UserError: the file cannot be read, is of another algorithm, or has unknown settings.
    """
    data = _table(_read(Path(file)), file)
    found, of = data.pop("family", None), data.pop("algorithm", algorithm)
    if absolute(str(of)) != absolute(algorithm):
        raise UserError(f"'{file}' has settings of {of}, not of {algorithm}")
    parts = [_table(data.pop(name, {}), file) for name in ("train", "learner")]
    if found and "versions" in data:  # a run wrote it, and says of itself more than settings
        data = {}
        parts[0].pop("out", None)
    return with_settings(start, {**data, **parts[0], **parts[1]}, f"'{file}': {algorithm}")


def _read(path: Path) -> Any:
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f"'{path}': settings are read from JSON or TOML, and not from YAML")
    if path.suffix != ".toml":
        return read_json(path)
    try:
        return tomllib.loads(read_text(path))
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read '{path}': it is not TOML: {error}") from None


def _table(value: object, file: str | Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"'{file}' has no table of settings where one belongs, but {value!r:.40}")
    return dict(value)

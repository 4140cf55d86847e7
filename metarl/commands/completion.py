"""`metarl completion SHELL`: the script with which a shell completes commands, flags and names."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro

from metarl.base.errors import UserError
from metarl.cli import COMMANDS
from metarl.commands.arguments import parse
from metarl.commands.flags import Flag, flags_of

CLASSES = {
    "families": "families:Families", "algorithms": "algorithms:Algorithms",
    "presets": "training.experiment:Presets", "tune": "tuning.tune:Tune",
    "evaluate": "evaluating.evaluate:Evaluate", "probe": "evaluating.probe:ProbeRun",
    "adapt": "evaluating.adapt:Adapt",
    "render": "viewing.render:Render", "play": "viewing.play:Play", "report": "report:Report",
    "export": "export:Export", "agents": "hub.agents:Agents", "push": "hub.push:Push",
    "skills": "training.skills:FindSkills", "overfitting": "training.overfitting:Overfitting",
    "stream": "evaluating.stream:StreamRun", "demos": "demos:Demos", "pull": "hub.pull:Pull",
    "check": "check:Check", "completion": "completion:Completion",
    "bridge": "suites.bridge:Bridge",
}  # fmt: skip
"""Command -> the dataclass of its arguments; those of `metarl train` are put together anew."""
_RUNS = "_metarl_runs"


@dataclass(frozen=True)
class Completion:
    """Print the script that lets a shell complete commands, flags, families and agents.

    bash: metarl completion bash >> ~/.bashrc. zsh: metarl completion zsh > a folder of $fpath, as
    _metarl. fish: metarl completion fish > ~/.config/fish/completions/metarl.fish.
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """bash, zsh or fish."""


def completion(argv: Sequence[str]) -> int:
    """Print the script."""
    if len(argv) == 1 and argv[0] not in ("bash", "zsh", "fish", "-h", "--help"):
        raise UserError(f"the shell must be bash, zsh or fish, not '{argv[0]}'")
    args = parse(Completion, argv, prog="metarl completion")
    try:
        import shtab
    except ImportError:
        raise UserError(
            "metarl completion needs shtab: pip install 'metarl-toolkit[completion]'"
        ) from None
    print(shtab.complete(command_line(), shell=args.shell))
    return 0


def command_line() -> argparse.ArgumentParser:
    """Return all commands with their flags as argparse has them, which is only read by shtab."""
    parser = argparse.ArgumentParser("metarl")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for name, (_, what) in COMMANDS.items():
        one = commands.add_parser(name, help=what, description=what)
        for flag in _flags(name):
            _add(one, flag)
    return parser


def _flags(command: str) -> Iterator[Flag]:
    """Yield the flags of a command; of train and tune those of every learner, each name once."""
    seen: set[str] = set()
    for flag in _all_flags(command):
        if flag.name not in seen:
            seen.add(flag.name)
            yield flag


def _all_flags(command: str) -> Iterator[Flag]:
    if command in CLASSES:
        module, _, name = CLASSES[command].partition(":")
        yield from flags_of(getattr(import_module(f"metarl.commands.{module}"), name))
    if command in ("train", "tune"):
        from metarl.commands.training.train import Start
        from metarl.learning.registry import find_learner, list_learners
        from metarl.runs.config import TrainConfig

        for name in ("FAMILY", "ALGORITHM"):
            yield Flag(name.lower(), str, False, "", "", name, True, False, "")
        for cls in (Start, TrainConfig, *(find_learner(name).Config for name in list_learners())):
            yield from flags_of(cls)


def _add(parser: argparse.ArgumentParser, flag: Flag) -> None:
    """Add a flag, with what may follow it."""
    text = (flag.doc.partition(". ")[0].rstrip(".") or flag.name).replace("%", "%%")
    if flag.kind is bool:
        parser.add_argument(flag.option, action="store_true", help=text)
        if flag.default is True:
            parser.add_argument(f"--no-{flag.option[2:]}", action="store_true", help=text)
        return
    how: dict[str, Any] = {"help": text, "metavar": flag.metavar}
    if get_origin(flag.kind) is Literal:
        how["choices"] = list(map(str, get_args(flag.kind)))
    elif (names := _names(flag)) is not None:
        how["choices"] = names
    if flag.many:
        how["nargs"] = "*"
    words = [flag.name] if flag.positional else [flag.option]
    action = parser.add_argument(*words, **how)
    if "choices" not in how and (complete := _completer(flag)):
        action.complete = complete  # type: ignore[attr-defined]


def _names(flag: Flag) -> list[str] | None:
    """Return the names that a word may be, where they are known beforehand."""
    from metarl.learning.registry import list_learners
    from metarl.tasks.registry import list_families

    word = flag.metavar.strip("[]")
    if flag.name == "preset":
        from metarl.runs.presets import presets

        return ["none", *presets()]
    known = {"FAMILY": list_families, "ALGORITHM": list_learners, "AGENT": _agents}
    return known[word]() if word in known else None


def _completer(flag: Flag) -> dict[str, Any] | None:
    """Return how shells complete a word: as a file, as a folder, or as a run."""
    import shtab

    if "RUN" in flag.metavar:
        return _runs()
    if "FILE" in flag.metavar:
        return shtab.FILE
    return shtab.DIRECTORY if "DIR" in flag.metavar or flag.name == "out" else None


def _agents() -> list[str]:
    """Return the names of agents that mean nothing else to a shell: folders have any name."""
    from metarl.learning.agents import agents

    return [name for name in agents() if re.fullmatch(r"[\w./-]+", name, re.ASCII)]


def _runs() -> dict[str, Any]:
    names = " ".join(_agents())
    return {
        "bash": _RUNS, "zsh": _RUNS,
        "fish": f"(string split ' ' -- '{names}'; __fish_complete_directories)",
        "preamble": {
            "bash": f'{_RUNS}() {{ compgen -W "{names}" -- $1; compgen -d -- $1; }}',
            "zsh": f"{_RUNS}() {{ compadd -- {names}; _files -/; }}",
        },
    }  # fmt: skip


__all__ = ["completion"]

"""`metarl train`: the flags of TrainConfig and of the algorithm's Config, side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from metarl.base.distributed import restarted
from metarl.base.errors import UserError, quoted
from metarl.base.plugins import KINDS, plugin_file
from metarl.commands.arguments import field_names, parse, take_option
from metarl.commands.training.one_run import STARTED, accompany
from metarl.learning.registry import find_learner, list_learners
from metarl.runs.config import TrainConfig, with_target
from metarl.runs.presets import PLAIN, say_tuned, start_from
from metarl.runs.progress import say

PROG = "metarl train"


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run starts from, if not from the preset of its family and algorithm."""

    resume: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Go on with the run in this folder: its newest checkpoint, its settings. If it names files of
    code and comes from elsewhere: --family, --algorithm or --trust-code, as for evaluate."""
    preset: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Tuned settings to start from (`metarl presets`); default: FAMILY/ALGORITHM, if that is one.
    none: the plain defaults."""
    config: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A file of settings, JSON (as a run's config.json) or TOML, which overrule those of the
    preset; flags overrule both."""


@dataclass(frozen=True)
class _NoConfig:
    """The settings of no algorithm in particular."""


def train(argv: list[str]) -> int:
    """Meta-train an algorithm on a task family, or go on with a run.

    ``metarl train FAMILY ALGORITHM [settings]`` or ``metarl train --resume DIR [settings]``; with
    ``--seeds`` or ``--sweep`` many runs, see `metarl.commands.training.sweep`.
    """
    wants_help = "--help" in argv or "-h" in argv
    if not wants_help and any(word.startswith(("--seeds", "--sweep")) for word in argv):
        from metarl.commands.training.sweep import sweep

        return sweep(argv, read_train)
    run, rest = take_option(argv, "--resume")
    begun = os.environ.pop(STARTED, None)  # by a sweep, in a folder that it gave
    if begun:
        accompany(Path(take_option(rest, "--out")[0] or str(run)))
    if run is not None and not wants_help:
        return _resume(run, rest)
    algorithm = guess_algorithm(rest)
    if wants_help:
        parse_train([*rest, "--help"], algorithm, family=rest[0] if _named(rest) else None)
    if algorithm is None:
        raise UserError(
            f"say which FAMILY and which ALGORITHM, as in `{PROG} half-cheetah-vel maml-trpo`; "
            f"`metarl families` and `metarl algorithms` list them"
        )
    got = read_train(rest)
    if got.train.progress:
        say_tuned(got.family, got.algorithm, got.preset)
    from metarl.run import start_run, train_or_resume

    again = restarted() or begun  # by torchrun, after a rank was lost
    begin = train_or_resume if again else start_run
    begin(got.family, got.algorithm, got.train, got.learner)
    return 0


def _resume(run: str, argv: list[str]) -> int:
    from metarl.learning import checkpoint as checkpoints
    from metarl.run import refuse_changes, refuse_other, resume_run, run_of, train_config
    from metarl.runs.config import finished

    said, argv = _take_said(argv)
    checkpoint = checkpoints.load(checkpoints.newest(Path(run)), **said)
    got = parse_train(
        argv,
        checkpoint.algorithm,
        (checkpoint.family, train_config(checkpoint), checkpoints.learner_config(checkpoint)),
    )
    refuse_other(checkpoint, got.family, got.algorithm)
    refuse_changes(checkpoint, got.train, got.learner)
    if finished(checkpoint, got.train):
        where = run_of(checkpoint)
        say(
            f"{where} has already finished, at iteration {checkpoint.step}; give a larger "
            f"--iterations or --env-steps to go on, or try: metarl evaluate {quoted(where)}"
        )
        return 0
    resume_run(checkpoint, got.train, got.learner)
    return 0


def _take_said(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Take the options of `Said` out of the arguments; FAMILY and ALGORITHM count, too."""
    said: dict[str, Any] = {"trust_code": "--trust-code" in argv}
    rest = [token for token in argv if token != "--trust-code"]
    for kind in KINDS:
        said[kind], rest = take_option(rest, f"--{kind}")
    if _named(rest):
        for kind, word in zip(KINDS, rest[:2], strict=True):
            said[kind] = said[kind] or (word if plugin_file(word) else None)
    return said, rest


def guess_algorithm(argv: Sequence[str]) -> str | None:
    """Return the algorithm named in the arguments, before they can be parsed.

    Which flags there are depends on it: the second word, if the arguments begin with two words,
    else the first one that is a registered name.
    """
    if _named(argv):
        return argv[1]
    known = list_learners()
    return next((token for token in argv if token in known), None)


def _named(argv: Sequence[str]) -> bool:
    """Whether the arguments begin with two words, FAMILY and ALGORITHM."""
    return sum(not token.startswith("-") for token in argv[:2]) == 2


def read_train(argv: Sequence[str]) -> Any:
    """Parse the arguments of a run to begin, with the defaults of its family and algorithm."""
    if _named(argv):
        family, algorithm = argv[:2]
    else:
        got = parse_train(argv, guess_algorithm(argv))
        family, algorithm = got.family, got.algorithm
    return parse_train(argv, algorithm, family=family)


def parse_train(
    argv: Sequence[str],
    algorithm: str | None,
    saved: tuple[str, TrainConfig, Any] | None = None,
    family: str | None = None,
) -> Any:
    """Parse the arguments of `metarl train`.

    Args:
        argv: what follows ``train``, without ``--resume``.
        algorithm: whose settings there are; None leaves them out.
        saved: the family, train and learner settings of a run to go on with: the defaults.
        family: whose preset gives the defaults else, if it is known yet.

    Returns:
        An object with family, algorithm, preset, config, train (TrainConfig) and learner (Config).
    """
    config = find_learner(algorithm).Config if algorithm else _NoConfig
    names = {*field_names(TrainConfig), *field_names(Start)}
    if clash := names & set(field_names(config)):
        raise UserError(f"algorithm '{algorithm}': its setting '{clash.pop()}' is train's own name")
    family, train_default, learner_default = saved or (family, TrainConfig(), config())
    if algorithm and family:
        preset, file = (take_option(argv, f"--{name}")[0] for name in ("preset", "config"))
        train_default, learner_default = start_from(
            (train_default, learner_default), family, algorithm,
            PLAIN if saved and preset is None else preset, file,
        )  # fmt: skip
    family_doc = "A registered name (`metarl families`), or file.py:Class."
    algorithm_doc = "Likewise (`metarl algorithms`)."
    flat = tyro.conf.arg(name="", help="")  # with no help, tyro would read the sources for one
    members = [
        ("family", _word("FAMILY", family_doc), *_default(family if saved else None)),
        ("algorithm", _word("ALGORITHM", algorithm_doc), *_default(algorithm if saved else None)),
        ("train", Annotated[TrainConfig, flat], field(default=with_target(train_default, argv))),
        ("learner", Annotated[config, flat], field(default=learner_default)),
    ]
    cls = make_dataclass("Train", members, bases=(Start,), frozen=True)
    cls.__doc__ = (
        "Meta-train an algorithm on a task family. With --resume DIR instead of FAMILY ALGORITHM, "
        "go on with the run in DIR, to the same bits as if it had not stopped. With --seeds 1 2 3 "
        "and --sweep NAME=A,B, train every combination side by side, --jobs at once, and compare "
        "them; the same command goes on with what is left."
    )
    return parse(cls, argv, prog=PROG)


def _word(name: str, text: str) -> Any:
    return Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar=name, help=text)]


def _default(value: str | None) -> tuple[Any, ...]:
    return () if value is None else (field(default=value),)

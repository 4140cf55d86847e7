"""The `metarl` command: which subcommand it is, and how errors become one line.

Exit codes: 0 done; 1 a check failed; 2 bad input, or a file that cannot be read or written;
129 stopped by a closed terminal (SIGHUP), 130 by Ctrl-C and 143 by SIGTERM, each after saving what
a running training needs to go on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TextIO, cast

from metarl.base.distributed import says
from metarl.base.errors import UserError, did_you_mean, printable, shortened
from metarl.base.output import Output
from metarl.base.plugins import plugin_error
from metarl.runs.signals import ending_by_signals, exit_code

COMMANDS = {
    "families": ("commands.families", "list the task families, or show one in full"),
    "algorithms": ("commands.algorithms", "list the algorithms and their settings"),
    "presets": (
        "commands.training.experiment",
        "list the tuned settings, and what was measured with them",
    ),
    "train": (
        "commands.training.train",
        "meta-train an algorithm on a family, or go on with a run",
    ),
    "skills": (
        "commands.training.skills",
        "find what a robot can do without a reward, as tasks to meta-train on",
    ),
    "overfitting": (
        "commands.training.overfitting",
        "measure what is reached by number of training tasks, and where",
    ),
    "tune": ("commands.tuning.tune", "search good settings of a family and an algorithm"),
    "evaluate": (
        "commands.evaluating.evaluate",
        "draw a run's adaptation curve on tasks it has not seen",
    ),
    "probe": ("commands.evaluating.probe", "show whether a run adapts, and to what"),
    "stream": (
        "commands.evaluating.stream",
        "show how a run fares where tasks change without notice",
    ),
    "adapt": ("commands.evaluating.adapt", "adapt a trained policy to one task, and save it"),
    "demos": ("commands.demos", "record what an agent does, for others to imitate"),
    "render": (
        "commands.viewing.render",
        "show a trained policy adapt: a video of before and after",
    ),
    "play": ("commands.viewing.play", "let it act in MuJoCo's viewer, with sliders for its task"),
    "report": ("commands.report", "write one HTML page: curves, tasks, videos; runs compared"),
    "export": ("commands.export", "make an agent folder to share: weights, settings, a model card"),
    "agents": ("commands.hub.agents", "list the trained agents, with their scores and videos"),
    "push": ("commands.hub.push", "put an agent on the Hugging Face hub, with its model card"),
    "pull": ("commands.hub.pull", "fetch an agent from the Hugging Face hub"),
    "completion": ("commands.completion", "print what lets bash, zsh or fish complete all this"),
    "bridge": (
        "commands.suites.bridge",
        "check and remember another interpreter, for Meta-World or any gymnasium environment",
    ),
    "check": ("commands.check", "check that a task family, yours for example, is sound"),
}
"""Subcommand -> the module it is in, and what it does. Modules are imported when needed."""

GROUPS = {
    "what there is": ("families", "algorithms", "presets", "agents"),
    "train": ("train", "tune", "skills", "overfitting"),
    "judge": ("evaluate", "probe", "stream", "report"),
    "use": ("adapt", "render", "play", "demos", "export", "push", "pull"),
    "your own robots, other suites, your shell": ("check", "bridge", "completion"),
}
"""In what order `metarl --help` lists them."""

EXAMPLES = """\
examples, the first three of which take seconds:
  metarl agents
  metarl adapt half-cheetah-vel-pearl --set goal_velocity=2.2
  metarl evaluate half-cheetah-vel-rl2
  metarl train half-cheetah-vel rl2 --seed 1 --out runs/vel
  metarl train --resume runs/vel
  metarl evaluate runs/vel --split ood
  metarl render runs/vel --set goal_velocity=2.5 --out adapts.mp4

`metarl COMMAND --help` explains a command, and `metarl train FAMILY ALGORITHM
--help` also an algorithm's own settings. `metarl --version` prints the version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments after ``metarl``; None takes them from `sys.argv`.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    # Commands draw into files, and a backend that is none would end imports.
    os.environ["MPLBACKEND"] = "agg"
    trains = words[:1] in (["train"], ["tune"], ["skills"], ["overfitting"])
    trains = trains and not {"-h", "--help"} & set(words)
    return guarded(_dispatch, words, unheard=trains)


def guarded(command: Callable[[list[str]], int], argv: list[str], *, unheard: bool = True) -> int:
    """Call ``command(argv)``; turn what a user may cause into one line and an exit code.

    Warnings are a line, too.

    Args:
        command: what to call.
        argv: its arguments.
        unheard: whether its work is worth the same where the standard output cannot be written.
            If not, a full or closed one is an error; a reader that has gone (`| head`) is none.
    """
    out, err = Output(sys.stdout), Output(sys.stderr)

    def say(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, (UserWarning, FutureWarning)):
            _say(f"metarl: warning: {message}")
        else:
            _say(f"{category.__name__}: {message}")

    with contextlib.ExitStack() as stack:
        for number in range(3):  # or the next file to be opened becomes the standard output
            if not _is_open(number):
                os.open(os.devnull, os.O_RDWR)
        stack.enter_context(contextlib.redirect_stdout(cast("TextIO", out)))
        stack.enter_context(contextlib.redirect_stderr(cast("TextIO", err)))
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = say
        logging.getLogger("matplotlib").addFilter(_of_no_folder)
        try:
            with ending_by_signals():
                code = _code(command, argv)
        except KeyboardInterrupt as stop:  # came after the command, or while its end was told
            code = exit_code(stop)
        out.flush()
        if out.lost and not (code or unheard or isinstance(out.lost, BrokenPipeError)):
            _say(f"metarl: error: cannot write to the standard output: {out.lost.strerror}")
            code = 2
        return code


def _code(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Call the command, and return its exit code or that of what it raised, which is printed."""
    try:
        return command(argv)
    except UserError as error:
        return _refuse(str(error)) if says(error) else 2
    except MemoryError as error:
        return _refuse(f"out of memory: {str(error) or 'use fewer tasks or rollouts'}")
    except KeyboardInterrupt as stop:
        if says(stop):
            _say(f"metarl: {stop if str(stop) else 'interrupted'}")
        return exit_code(stop)
    except OSError as error:
        if error.filename is None:
            return _confess(error)
        return _refuse(f"cannot use '{error.filename!s:.200}': {error.strerror}")
    except Warning as warning:  # python -W error
        kind = type(warning).__name__
        return _refuse(f"a warning, and Python was told to stop at warnings: {kind}: {warning}")
    except BaseException as error:  # a plug-in may raise anything
        if "tried to allocate" in str(error).lower():  # torch's words on a CPU and on a GPU
            return _refuse(f"out of memory: use fewer tasks or rollouts ({error})")
        if words := plugin_error(error):
            return _refuse(words)
        if not isinstance(error, SystemExit):
            return _confess(error)
        return error.code if isinstance(error.code, int) else 0  # --help


def _of_no_folder(record: logging.LogRecord) -> bool:
    """Whether matplotlib says something else than that it cannot write into the home folder."""
    return not re.match("mkdir -p failed|Matplotlib created a temp", record.getMessage())


def _refuse(line: str) -> int:
    _say(f"metarl: error: {line}")
    return 2


def _confess(error: BaseException) -> int:
    """Print the traceback of an error of metarl's own, without control characters."""
    sys.stdout.flush()
    for line in "".join(traceback.format_exception(error)).splitlines():
        print(printable(line), file=sys.stderr)
    _say("metarl: this is an error of metarl's own: please report it, with the lines above")
    return 1


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        from metarl import __version__

        print(f"metarl {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        raise UserError(
            f"unknown command '{name}'{did_you_mean(name, COMMANDS)}; "
            f"it is one of {', '.join(COMMANDS)}"
        )
    return getattr(import_module(f"metarl.{COMMANDS[name][0]}"), name)(rest)


def _usage() -> str:
    lines = ["usage: metarl COMMAND [options]", ""]
    lines += ["Meta-trains robot policies that adapt to new dynamics, terrains and goals.", ""]
    width = max(map(len, COMMANDS))
    for title, names in GROUPS.items():
        lines.append(f"{title}:")
        for name in names:
            head, more = f"  {name:<{width}}  ", " " * (width + 4)
            lines += textwrap.wrap(COMMANDS[name][1], 80, initial_indent=head,
                                   subsequent_indent=more)  # fmt: skip
        lines.append("")
    return "\n".join([*lines, EXAMPLES])


def _say(line: str) -> None:
    sys.stdout.flush()
    print(shortened(" ".join(line.split())), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

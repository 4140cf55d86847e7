"""The `metarl` command: which subcommand it is, and how errors become one line.

Exit codes: 0 done; 1 a check failed; 2 bad input, or a file that cannot be read or written;
130 stopped by Ctrl-C and 143 by SIGTERM, both after saving what a running training needs to go on.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from metarl.errors import UserError, did_you_mean, shortened

COMMANDS = {
    "families": ("commands.families", "list the task families, or show one in full"),
    "algorithms": ("commands.evaluate", "list the algorithms and their settings"),
    "train": ("commands.train", "meta-train an algorithm on a family, or go on with a run"),
    "evaluate": ("commands.evaluate", "draw a run's adaptation curve on tasks it has not seen"),
    "adapt": ("commands.evaluate", "adapt a trained policy to one task, and save it"),
    "render": ("commands.render", "show a trained policy adapt: a video of before and after"),
    "report": ("commands.report", "write one HTML page: curves, tasks, videos; runs compared"),
    "export": ("commands.export", "make an agent folder to share: weights, settings, a model card"),
    "check": ("commands.evaluate", "check that a task family, yours for example, is sound"),
}
"""Subcommand -> the module it is in, and what it does. Modules are imported when needed."""

EXAMPLES = """\
examples, the first two of which take seconds:
  metarl adapt half-cheetah-vel-pearl --set goal_velocity=2.2
  metarl evaluate half-cheetah-vel-rl2
  metarl train half-cheetah-vel maml-trpo --seed 1
  metarl train --resume runs/half-cheetah-vel-maml-trpo-seed1
  metarl evaluate runs/half-cheetah-vel-maml-trpo-seed1 --split ood
  metarl adapt runs/half-cheetah-vel-maml-trpo-seed1 --set goal_velocity=1.7
  metarl render runs/half-cheetah-vel-maml-trpo-seed1 --set goal_velocity=2.5 --out adapts.mp4

`metarl COMMAND --help` explains a command; `metarl train FAMILY ALGORITHM --help` also lists the
algorithm's own settings."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments after ``metarl``; None takes them from `sys.argv`.
    """
    return guarded(_dispatch, sys.argv[1:] if argv is None else list(argv))


def guarded(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Call ``command(argv)``; turn what a user may cause into one line and an exit code.

    Warnings are a line, too.
    """

    def say(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, UserWarning):
            _say(f"metarl: warning: {message}")
        else:
            _say(f"{category.__name__}: {message}")

    try:
        with warnings.catch_warnings():
            warnings.showwarning = say
            return command(argv)
    except UserError as error:
        _say(f"metarl: error: {error}")
        return 2
    except MemoryError as error:
        _say(f"metarl: error: out of memory: {error or 'use fewer tasks or rollouts'}")
        return 2
    except RuntimeError as error:
        if "tried to allocate" not in str(error).lower():  # torch's words on a CPU and on a GPU
            raise
        _say(f"metarl: error: out of memory: use fewer tasks or rollouts ({error})")
        return 2
    except KeyboardInterrupt as stop:
        _say(f"metarl: {stop if str(stop) else 'interrupted'}")
        return getattr(stop, "exit_code", 130)
    except BrokenPipeError:
        # The reader of a pipe (`| head`) has gone. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else 0


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
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: metarl COMMAND [options]",
            "",
            "Meta-trains robot policies that adapt to new dynamics, terrains and goals.",
            "",
            "commands:",
            *lines,
            "",
            EXAMPLES,
        ]
    )


def _say(line: str) -> None:
    sys.stdout.flush()
    print(shortened(" ".join(line.split())), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

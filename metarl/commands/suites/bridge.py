"""`metarl bridge SUITE --python PATH`: environments that another interpreter has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from metarl.base.errors import UserError, did_you_mean, quoted
from metarl.commands.arguments import parse
from metarl.tasks.bridge.client import Worker
from metarl.tasks.bridge.families import SUITES
from metarl.tasks.bridge.known import bridges, interpreter, remember


@dataclass(frozen=True)
class Bridge:
    """Check an interpreter that has a suite, remember it, and list what can be trained.

    Without a suite, list what is remembered.
    """

    suite: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[SUITE]")] = ""
    """metaworld, or gymnasium for any environment."""
    env_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[ENV_ID]")] = ""
    """Of gymnasium: an environment to check."""
    python: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """The interpreter; without it, the one that is remembered."""


def bridge(argv: Sequence[str]) -> int:
    """Check, remember and list."""
    args = parse(Bridge, argv, prog="metarl bridge")
    if not args.suite:
        known = {name: path for name, path in bridges().items() if name in SUITES}
        lines = [f"{name}: {path}" for name, path in known.items()]
        print("\n".join(lines) or "no interpreter is remembered: metarl bridge SUITE --python PATH")
        return 0
    if args.suite not in SUITES:
        raise UserError(
            f"unknown suite '{args.suite}'{did_you_mean(args.suite, SUITES)}; it is one of "
            f"{', '.join(SUITES)}"
        )
    python = args.python or interpreter(args.suite)
    worker = Worker(python, args.suite)
    try:
        if args.env_id:
            found = worker.ask("describe", name=args.env_id, seed=0)
            kinds = [found[name]["kind"] for name in ("observation", "action")]
            print(f"{args.env_id}: observes {kinds[0]}, acts {kinds[1]}, {found['horizon']} steps")
    finally:
        worker.close()
    remember(args.suite, python)
    versions = ", ".join(f"{name} {version}" for name, version in worker.versions.items())
    print(f"{python}: {versions}")
    if worker.names:
        print("can be trained: " + " ".join(f"{args.suite}:{name}" for name in worker.names))
    name = f"{args.suite}:{args.env_id or (worker.names or ['ENV_ID'])[-1]}"
    print(f"metarl train {quoted(name)} {'rl2' if worker.names else 'ppo'}")
    return 0

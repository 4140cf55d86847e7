"""Which interpreter has which suite: what `metarl bridge` found, and what it remembers.

In the user's state folder, ``$XDG_STATE_HOME/metarl/bridges.json`` or ``~/.local/state/metarl/…``.
METARL_BRIDGE_PYTHON in the environment names an interpreter for one command.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from metarl.base.errors import UserError, warn
from metarl.base.files import file_errors, read_json, state_file, write_json
from metarl.tasks.bridge.client import Worker

REMEMBERED = "bridges.json"


def bridges() -> dict[str, Any]:
    """Return what is remembered: suite -> interpreter; and descriptions that took long."""
    path = state_file(REMEMBERED)
    with contextlib.suppress(UserError):
        found = read_json(path) if path is not None else {}
        if isinstance(found, dict):
            return found
    return {}


def remember(suite: str, python: str) -> None:
    """Use this interpreter for the suite from now on."""
    _write(bridges() | {suite: python})


def interpreter(suite: str) -> str:
    """Return the interpreter of a suite. Raises UserError if none is known."""
    python = os.environ.get("METARL_BRIDGE_PYTHON") or bridges().get(suite)
    if not isinstance(python, str):
        raise UserError(
            f"no interpreter is known that has {suite}: run `metarl bridge {suite} --python PATH`, "
            "or set METARL_BRIDGE_PYTHON=PATH"
        )
    return python


_DESCRIBED: dict[tuple[str, str, str], dict[str, Any]] = {}


def described(python: str, suite: str, name: str, seed: int) -> dict[str, Any]:
    """Return what the worker says of an environment or a benchmark.

    The tasks of a benchmark take minutes to make: they are remembered with the versions that made
    them.
    """
    if (python, suite, name) in _DESCRIBED:
        return _DESCRIBED[python, suite, name]
    worker = Worker(python, suite)  # not the shared one: forks of this process would hold it open
    try:
        made = json.dumps([python, suite, name, seed, worker.versions], sort_keys=True)
        tasks = bridges().get("tasks", {})
        if suite != "gymnasium" and made in tasks:
            from metarl.tasks.bridge.worker import unpacked

            text, body = (bytes.fromhex(part) for part in tasks[made])
            found = unpacked(text, body)
        else:
            if suite != "gymnasium":
                warn(f"{name}: {suite} makes its tasks, which can take minutes, once")
            found = worker.ask("describe", name=name, seed=seed)
            found["versions"] = worker.versions
            if suite != "gymnasium":
                _keep(made, found)
    finally:
        worker.close()
    _DESCRIBED[python, suite, name] = found
    return found


def _keep(made: str, found: dict[str, Any]) -> None:
    from metarl.tasks.bridge.worker import HEAD, packed

    whole = packed(found)
    _, text, _ = HEAD.unpack(whole[: HEAD.size])
    parts = whole[HEAD.size : HEAD.size + text].hex(), whole[HEAD.size + text :].hex()
    known = bridges()
    with contextlib.suppress(UserError):  # it is only slower
        _write(known | {"tasks": known.get("tasks", {}) | {made: parts}})


def _write(known: dict[str, Any]) -> None:
    path = state_file(REMEMBERED)
    if path is None:
        raise UserError("bridge: there is no home to remember it in: set METARL_BRIDGE_PYTHON=PATH")
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, known)

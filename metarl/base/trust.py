"""Which plug-in files a checkpoint may run: loading ``file.py:Class`` runs the file.

A checkpoint, an agent or an adapted policy may come from anybody, and names its family and its
algorithm. A file that it names is run only if

- the user names that file (``--family FILE.py:Class``, ``--algorithm``; in Python likewise), or
- the user trusts whatever it names (``--trust-code``), or
- this machine has trained a run with that file: its path and sha256 are then in the user's state
  folder, ``$XDG_STATE_HOME/metarl/trained_with.json`` or ``~/.local/state/metarl/…``.

A file is looked for where it lay, and then where it lay as seen from the run.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from metarl.base.errors import UserError, quoted, warn
from metarl.base.files import state_file, write_bytes
from metarl.base.plugins import KINDS, absolute, digest, plugin_file, run_alone, run_freely

MOST_VERSIONS = 50
"""How many contents of one file are remembered."""


class CodeError(UserError):
    """A checkpoint names code that may not be run, or cannot be: the line says what to give."""


class _Named(NamedTuple):
    """A file that a checkpoint names."""

    kind: str
    file: Path
    """Where it lay in training, if the checkpoint is honest."""
    words: str
    """What of it: a class and its variations."""
    sha256: str | None
    """Of the file in training, likewise."""
    beside: Path | None
    """Where the file is, if it lies as it did as seen from the run."""

    def at(self, file: Path) -> str:
        return f"{file}:{self.words}"

    def places(self) -> Iterator[Path]:
        """Where the file may be: those of the places at which there is a file."""
        for file in (self.file, self.beside):
            if file is not None and digest(file) is not None:
                yield file


def admitted(
    folder: Path,
    body: Mapping[str, Any],
    *,
    family: str | None = None,
    algorithm: str | None = None,
    trust_code: bool = False,
) -> tuple[str, str]:
    """Return the family and the algorithm of a checkpoint, if what they name may be run.

    Args:
        folder: of the checkpoint or adapted policy; named in messages.
        body: its JSON object.
        family: what the user named in place of the checkpoint's family.
        algorithm: likewise.
        trust_code: whether the user said that whatever is named may be run.

    Returns:
        Registered names, or ``file.py:Class`` with the file's full path.

    Raises:
        CodeError: a file is named that the user has neither named nor trained with here, or that
            is missing; or the user named something else than the checkpoint holds.
    """
    names, refused = [], []
    for kind, given in zip(KINDS, (family, algorithm), strict=True):
        named = str(body[kind])
        if plugin_file(named) is None:
            if given is not None and given != named:
                raise CodeError(f"the {kind} of '{folder}' is '{named}': leave out --{kind}")
            names.append(named)
            continue
        one = _named(kind, named, folder, body)
        if given is not None:
            names.append(_as_named(one, given, folder))
        elif (file := _anywhere(one) if trust_code else _trained_with(one)) is not None:
            names.append(one.at(file))
        else:
            refused.append(one)
    if refused:
        raise _refusal(folder, refused)
    return names[0], names[1]


def located(folder: Path, names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return what a header keeps of plug-in files: where they lie as seen from the run, and sha256.

    Args:
        folder: of the checkpoint or adapted policy.
        names: of the family and the algorithm, by kind.
    """
    kept = {}
    for kind, name in names.items():
        if (file := plugin_file(absolute(name))) is not None:
            kept[kind] = {
                "relative": os.path.relpath(file, _run_folder(folder)),
                "sha256": digest(file),
            }
    return kept


# --- one file ----------------------------------------------------------------------------------


def _run_folder(folder: Path) -> Path:
    """The run folder of a checkpoint; of an agent or an adapted policy, its own folder."""
    whole = folder.resolve()
    return whole.parent.parent if whole.parent.name == "checkpoints" else whole


def _named(kind: str, named: str, folder: Path, body: Mapping[str, Any]) -> _Named:
    path, _, words = named.rpartition(".py:")
    known = body.get("files", {}).get(kind, {})
    relative, sha256 = known.get("relative"), known.get("sha256")
    beside = None if relative is None else (_run_folder(folder) / str(relative)).resolve()
    return _Named(kind, Path(path + ".py"), words, sha256, beside)


def _as_named(one: _Named, given: str, folder: Path) -> str:
    """The name that the user gave in place of a checkpoint's; it must be of the same class."""
    file = plugin_file(given)
    if file is None or given.rpartition(".py:")[2] != one.words:
        raise CodeError(
            f"--{one.kind} {given}: the {one.kind} of '{folder}' is of a file: give "
            f"--{one.kind} FILE.py:{one.words}"
        )
    run_freely(file.resolve())
    _note_change(one, file.resolve())
    return absolute(given)


def _anywhere(one: _Named) -> Path | None:
    """The first file there is, those with the contents of training before others."""
    places = [file.resolve() for file in one.places()]
    for file in sorted(places, key=lambda file: digest(file) != one.sha256):
        run_freely(file)
        _note_change(one, file)
        return file
    return None


def _trained_with(one: _Named) -> Path | None:
    """The first file with which this machine has trained, or None."""
    known = _read(_state())
    everything = {sha256 for versions in known.values() for sha256 in versions}
    for place in one.places():
        file, found = place.resolve(), str(digest(place.resolve()))
        versions = known.get(str(file), [])
        # One's own file that was edited since. A stranger does not know its path and contents,
        # and a path that only leads to it is none that metarl writes.
        edited = file == place == one.file and one.sha256 in versions
        if found in versions or edited:
            _note_change(one, file)
            return file
        if found in everything:  # it was moved, so what lies beside it now may be somebody else's
            run_alone(file, found)
            return file
    return None


def _note_change(one: _Named, file: Path) -> None:
    if one.sha256 is not None and digest(file) != one.sha256:
        warn(f"{one.kind} file '{file}' has changed since training")


def _refusal(folder: Path, refused: list[_Named]) -> CodeError:
    wanted = []
    for one in refused:
        file = next(iter(one.places()), None)
        if file is None:
            return CodeError(
                f"'{folder}': its {one.kind} is in '{one.file}', which is not there: give "
                f"--{one.kind} FILE.py:{one.words}"
            )
        wanted.append((one.kind, one.at(file.resolve())))
    named = " and ".join(f"the {kind} '{name}'" for kind, name in wanted)
    flags = " ".join(f"--{kind} {quoted(name)}" for kind, name in wanted)
    return CodeError(
        f"'{folder}' would run {named}, with which nothing was trained on this machine: look at "
        f"the code, then give {flags}, or --trust-code"
    )


# --- what this machine has trained with --------------------------------------------------------

_TRAINED_HERE: dict[str, list[str]] = {}
"""What `remember` was told in this process: the state folder may not be writable."""


def remember(names: Iterable[str]) -> None:
    """Keep in mind that a run was trained with plug-ins, if they are files.

    Args:
        names: of a family and an algorithm, as `metarl.base.plugins.reference` returns them.
    """
    found = {plugin_file(absolute(name)) for name in names} - {None}
    for file in found:
        if file is not None and (sha256 := digest(file)) is not None:
            _TRAINED_HERE.setdefault(str(file), []).append(sha256)
    path = _state()
    if not found or path is None:
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            known = _read(path)  # which merges
            kept = {file: versions[-MOST_VERSIONS:] for file, versions in known.items()}
            write_bytes(path, json.dumps(kept, indent=1).encode())
    except OSError as error:
        warn(
            f"what this run is trained with cannot be remembered in '{path}' "
            f"({error.strerror or error}): commands that use the run will ask for --trust-code"
        )


def _state() -> Path | None:
    """The file that remembers, if the user has a folder for it."""
    return state_file("trained_with.json")


def _read(path: Path | None) -> dict[str, list[str]]:
    """File -> the sha256 of its contents in each training; without what cannot be read."""
    try:
        found = json.loads(path.read_bytes()) if path is not None and path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        found = {}
    known = {}
    for file, versions in found.items() if isinstance(found, dict) else ():
        known[file] = list(map(str, versions)) if isinstance(versions, list) else []
    for file, versions in _TRAINED_HERE.items():
        known[file] = list(dict.fromkeys([*known.get(file, []), *versions]))
    return known


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock, for which others wait; systems without locks do without."""
    with path.open("a") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield

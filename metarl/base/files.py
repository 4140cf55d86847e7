"""Files and folders that are written whole: after `kill -9` the old one is there, or the new one.

What is written goes to a temporary name beside its place, is synced to the disk and renamed. A
folder cannot be renamed over another one, so the old one is set aside first, and counts until the
new one is in its place. What a killed process left behind, the next one that writes there removes.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import math
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metarl.base.errors import UserError

_KINDS = {
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}  # fmt: skip
_DRAFT, _ASIDE = ".writing-", ".replaced-"


def as_path(path: Path | str) -> Path:
    """Return the path that a caller gave. Raises UserError for what can be none."""
    if not isinstance(path, str | os.PathLike) or "\0" in str(path):
        raise UserError(f"give the path of a file or folder, not {path!r:.80}")
    return Path(path)


def user_folder(variable: str, *below_home: str) -> Path:
    """Return metarl's folder below the one that a variable names, or else below the user's home.

    It is not absolute where there is no home: then nothing may be written there.

    Args:
        variable: of the XDG base directories.
        below_home: where that folder is by default.
    """
    folder = Path(os.environ.get(variable, ""))
    if not folder.is_absolute():
        folder = Path(os.path.expanduser("~")).joinpath(*below_home)
    return folder / "metarl"


def state_file(name: str) -> Path | None:
    """Return a file of the user's state folder, if there is one; never of the working folder."""
    folder = user_folder("XDG_STATE_HOME", ".local", "state")
    return folder / name if folder.is_absolute() else None


@contextlib.contextmanager
def file_errors(path: Path, note: str = "") -> Iterator[None]:
    """Turn an OSError (disk full, read-only, no permission) into one line about `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise UserError(f"cannot write '{error.filename or path}': {reason}{note}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole."""
    with whole_file(path) as draft:
        draft.write_bytes(data)


def check_writable(path: Path, *, folder: bool = False) -> None:
    """Raise UserError if a file cannot be written there, before the work that it is to hold.

    Args:
        path: of the file; the folders above are made.
        folder: whether it is a folder that is to be written whole.
    """
    with file_errors(path):
        if not (folder and path.is_dir()):
            refuse_special(path)
            if folder and path.exists():
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{_DRAFT}{os.getpid()}-{path.name}")
        try:
            draft.touch()
        except OSError as error:
            error.filename = str(path)
            raise
        draft.unlink()


def refuse_special(path: Path) -> None:
    """Raise OSError where a file cannot be put by a rename: over a folder, a device or a pipe.

    So is a link to an open file, as /dev/stdout is one, whatever that file is.
    """
    if path.is_dir():
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = _KINDS.get(stat.S_IFMT(path.stat().st_mode)) if path.exists() else None
    if path.is_symlink() and "/fd/" in os.readlink(path):
        kind = "an open file of this process"
    if kind:
        raise OSError(errno.EINVAL, f"it is {kind} and no plain file", str(path))


def finite(value: object) -> object:
    """Return `value` with every NaN and infinity replaced by None: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(finite(value), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises UserError, one line, if it is missing or malformed."""
    try:
        return json.loads(read_text(path))
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read '{path}': it is not JSON: {error}") from None


def read_text(path: Path) -> str:
    """Return the text of a regular file. Raises OSError, or UnicodeDecodeError."""
    with open_regular(path, encoding="utf-8") as file:
        return file.read()


def open_regular(path: Path, mode: str = "r", **more: Any) -> Any:
    """Open a file as `open` does, but no pipe or device, which could be waited for for ever.

    Raises OSError.
    """

    def at_once(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK, 0o666)

    file = open(path, mode, opener=at_once, **more)  # noqa: SIM115  (the caller has it)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give the name to write a file under; it becomes `path` when the block ends without error.

    Raises OSError if there is something else than a plain file: it would be replaced.
    """
    refuse_special(path)
    clean_up(path.parent, path.name)
    draft = path.with_name(f"{_DRAFT}{os.getpid()}-{path.name}")
    try:
        yield draft
        _sync(draft)
        draft.replace(path)
    except OSError as error:
        error.filename = str(path)  # what the user knows, not the temporary name
        raise
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it replaces `path` when the block ends without error.

    The folders above are made. Raises OSError if something else than a folder is there.
    """
    if not path.is_dir():
        refuse_special(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clean_up(path.parent, path.name)
    draft = path.with_name(f"{_DRAFT}{os.getpid()}-{path.name}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir()
        yield draft
        for file in draft.iterdir():
            _sync(file)
        _sync(draft)
        _publish(draft, path)
    except OSError as error:
        if error.filename and Path(error.filename).is_relative_to(draft):
            error.filename = str(path / Path(error.filename).relative_to(draft))
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def standing(path: Path) -> Path:
    """Return `path`, or what it was to replace where a kill came between the two renames."""
    if path.exists():
        return path
    return next((aside for aside, name in set_aside(path.parent) if name == path.name), path)


def set_aside(folder: Path) -> list[tuple[Path, str]]:
    """Return the folders in `folder` that made way for a new one, each with the name it had."""
    found = ((path, path.name.split("-", 2)) for path in folder.glob(f"{_ASIDE}*-*"))
    return [(path, parts[2]) for path, parts in found if parts[1].isdecimal() and path.is_dir()]


def clean_up(folder: Path, name: str | None = None) -> None:
    """Undo the replacements that a kill cut short, and remove what it left half-written.

    Args:
        folder: where to look.
        name: of one file or folder that is written there; None is for a folder that nobody else
            writes to. A process on another machine that shares the disk looks like a killed one.
    """
    for aside, had in set_aside(folder):
        if name in (None, had) and not (folder / had).exists():
            os.rename(aside, folder / had)
    which = "*" if name is None else glob.escape(name)
    for kind in (_DRAFT, _ASIDE):
        for left in folder.glob(f"{kind}*-{which}"):
            owner, _, had = left.name.removeprefix(kind).partition("-")
            if not owner.isdecimal() or name not in (None, had) or _alive(int(owner)):
                continue
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _publish(draft: Path, path: Path) -> None:
    """Rename a folder into place; the one that is there makes way first, and counts until then."""
    aside = path.with_name(f"{_ASIDE}{os.getpid()}-{path.name}")
    replaces = path.exists()
    if replaces and not path.is_dir():
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if replaces:
        os.rename(path, aside)
    try:
        os.rename(draft, path)
    except OSError:
        if replaces:
            os.rename(aside, path)
        raise
    _sync(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)  # it is somebody else's
    return True

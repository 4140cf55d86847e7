"""Files and folders that are written whole, whatever stops their writer."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from metarl.base.errors import UserError
from metarl.base.files import (
    check_writable,
    read_json,
    standing,
    whole_file,
    whole_folder,
    write_bytes,
)

GONE = 2**22 + 1
"""A process number that no process has."""


def fill(path: Path, text: str) -> None:
    with whole_folder(path) as draft:
        (draft / "text").write_text(text)


def test_what_is_there_is_replaced_and_nothing_else_is_left(tmp_path):
    for text in ("old", "new"):
        write_bytes(tmp_path / "file", text.encode())
        fill(tmp_path / "deep" / "folder", text)
    assert (tmp_path / "file").read_text() == "new"
    assert [path.name for path in (tmp_path / "deep").rglob("*")] == ["folder", "text"]
    assert (tmp_path / "deep" / "folder" / "text").read_text() == "new"


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_an_error_leaves_what_was_there(tmp_path, whole):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(RuntimeError), whole(tmp_path / "a"):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["", "/text"])
def test_an_error_names_the_folder_that_was_to_be_and_not_its_draft(name, tmp_path, monkeypatch):
    def no(path: Path, *_: object, **__: object) -> None:
        if path != tmp_path:
            raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "write_text" if name else "mkdir", no)
    with pytest.raises(OSError, match="Read-only") as caught, whole_folder(tmp_path / "a") as draft:
        (draft / "text").write_text("x")
    assert caught.value.filename == f"{tmp_path}/a{name}"


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    (tmp_path / f".writing-{GONE}-a [1].mp4").write_text("half")
    (tmp_path / f".writing-{GONE}-other").write_text("another machine may write this")
    (tmp_path / f".writing-{os.getppid()}-a [1].mp4").write_text("alive")
    write_bytes(tmp_path / "a [1].mp4", b"whole")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a [1].mp4", f".writing-{GONE}-other", f".writing-{os.getppid()}-a [1].mp4"}
    (tmp_path / f".writing-{GONE}-folder").mkdir()
    fill(tmp_path / "folder", "x")
    assert not (tmp_path / f".writing-{GONE}-folder").exists()


def test_a_folder_counts_until_its_successor_is_in_place(tmp_path):
    fill(tmp_path / "a", "old")
    (tmp_path / "a").rename(tmp_path / f".replaced-{GONE}-a")  # and then it was killed
    assert (standing(tmp_path / "a") / "text").read_text() == "old"
    assert standing(tmp_path / "b") == tmp_path / "b"
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "a"):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("kind", ["a pipe that nobody writes to", "a device without an end"])
def test_only_a_regular_file_is_read(kind, tmp_path):
    """A pipe would be waited for for ever, and a device fill the memory."""
    path = Path("/dev/zero")
    if "pipe" in kind:
        path = tmp_path / "pipe"
        os.mkfifo(path)
    with pytest.raises(UserError, match=f"cannot read '{path}': it is no regular file"):
        read_json(path)


def test_where_nothing_can_be_written_is_known_beforehand(tmp_path):
    (tmp_path / "file").write_text("old")
    for path in (tmp_path, tmp_path / "file" / "below", tmp_path / ("a" * 300)):
        with pytest.raises(UserError, match="cannot write"):
            check_writable(path)
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "file")
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "new"]


def special(kind: str, folder: Path) -> Path:
    """Return something in a folder that a rename must not replace."""
    path = folder / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        os.chdir(folder)  # a socket's name is short
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(kind)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a device":
        path.symlink_to("/dev/null")
    elif kind == "link to an open file":
        (folder / "out.txt").write_text("printed")
        path.symlink_to("/proc/self/fd/1")
    return Path("/dev/full") if kind == "device" else path


KINDS = ["pipe", "socket", "folder", "device", "link to a device", "link to an open file"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_pipe_device_or_folder_is_replaced_by_a_file(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = special(kind, tmp_path)
    before = path.lstat()
    with pytest.raises(UserError, match=f"cannot write '{path}': (Is a dir|it is a.* no plain)"):
        check_writable(path)
    with pytest.raises(OSError, match=r"Is a dir|no plain file"):
        write_bytes(path, b"new")
    if kind != "folder":
        with pytest.raises(OSError, match="no plain file"):
            fill(path, "new")
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert not list(path.parent.glob(".writing-*"))


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(NotADirectoryError):
        fill(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]

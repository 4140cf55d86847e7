"""Files and folders that are written whole, whatever stops their writer."""

from __future__ import annotations

import os
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

"""What torchrun sets is read in one module."""

import re
from pathlib import Path

import pytest

import metarl
from metarl.base.distributed import (
    environment_of_one,
    follows,
    local_rank,
    local_world_size,
    rank_of_process,
    ranks,
    restarted,
    world_size,
)
from metarl.base.errors import UserError

NAMES = r"""["'](RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_\w+|TORCHELASTIC_\w+)["']"""


def test_only_one_module_reads_what_torchrun_sets():
    package = Path(metarl.__file__).parent
    readers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(NAMES, path.read_text())
    }
    assert readers == {"base/distributed.py"}


def test_a_process_knows_its_ranks_and_starts_one_that_is_none(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("OTHER", "kept")
    assert (rank_of_process(), local_rank(), local_world_size()) == (3, 1, 4)
    alone = environment_of_one()
    assert alone.keys().isdisjoint({"RANK", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT"})
    assert alone["OTHER"] == "kept"


@pytest.mark.parametrize("text", ["abc", "", "-1", "0", "1.5", " 2", "٣", "9" * 5000])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("WORLD_SIZE", world_size), ("RANK", rank_of_process), ("LOCAL_RANK", local_rank),
        ("LOCAL_WORLD_SIZE", local_world_size), ("TORCHELASTIC_RESTART_COUNT", restarted),
    ],
)  # fmt: skip
def test_what_is_no_number_is_one_line(name, read, text, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, text)
    if text == "0" and name not in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        assert read() == 0
        return
    with pytest.raises(UserError, match=f"{name} in the environment.* from [01] to 65535, not '"):
        read()
    assert not follows()  # so that it is said


def test_a_rank_beyond_the_world_or_without_one_is_one_line(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"RANK in the environment.*but is not set"):
        rank_of_process()
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(UserError, match="RANK in the environment must be less than WORLD_SIZE"):
        rank_of_process()
    monkeypatch.delenv("WORLD_SIZE")
    assert rank_of_process() == 0  # another program's word, and one process


@pytest.mark.parametrize("port", ["abc", "", "70000", None])
def test_a_port_that_cannot_be_is_one_line(port, monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("METARL_RANK_TIMEOUT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    if port is not None:
        monkeypatch.setenv("MASTER_PORT", port)
    for agent in ("True", "False"):
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", agent)
        with pytest.raises(UserError, match=r"MASTER_PORT|cannot reach the others"):
            ranks(None)

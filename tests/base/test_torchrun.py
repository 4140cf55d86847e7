"""What torchrun sets is read in one module."""

import re
from pathlib import Path

import pytest

import metarl
from metarl.base.distributed import (
    environment_of_one,
    local_rank,
    local_world_size,
    rank_of_process,
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
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("OTHER", "kept")
    assert (rank_of_process(), local_rank(), local_world_size()) == (3, 1, 4)
    alone = environment_of_one()
    assert alone.keys().isdisjoint({"RANK", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT"})
    assert alone["OTHER"] == "kept"


def test_a_rank_that_is_no_number_is_one_line(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "first")
    with pytest.raises(UserError, match="LOCAL_RANK in the environment must be a whole number"):
        local_rank()

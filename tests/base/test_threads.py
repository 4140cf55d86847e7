"""Who gets how many threads, and that waiting threads do not spin."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from metarl import TaskWorlds, set_threads
from metarl.base import threads


@pytest.fixture(autouse=True)
def _as_found(monkeypatch) -> None:
    monkeypatch.setattr(threads, "_threads", None)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux has affinities")
def test_the_default_is_every_core_that_this_process_may_use() -> None:
    cores = os.sched_getaffinity(0)
    assert threads.physics_threads() == threads.available_cores() == len(cores)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert threads.available_cores() == threads.physics_threads() == 1
        assert set_threads() == 1
    finally:
        os.sched_setaffinity(0, cores)


def test_physics_and_torch_get_the_same_number() -> None:
    assert set_threads(3) == 3
    assert (threads.physics_threads(), torch.get_num_threads()) == (3, 3)
    assert TaskWorlds("point-goal", 8).simulator.batch.nthread == 3
    assert TaskWorlds("point-goal", 2).simulator.batch.nthread == 2
    assert TaskWorlds("point-goal", 8, threads=1).simulator.batch.nthread == 1


def test_at_least_one() -> None:
    assert set_threads(0) == 1


def test_sampling_takes_one_thread_of_torch_and_gives_back() -> None:
    set_threads(2)
    with threads.sampling():
        assert torch.get_num_threads() == 1
        assert threads.physics_threads() == 2
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), threads.sampling():
        raise KeyError
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_the_wait_policy_is_set_before_torch_loads_openmp(given, expected) -> None:
    """`import metarl` alone, in a fresh process; a policy that the user chose stays."""
    code = """if True:
        import builtins, os, sys
        import_, seen = builtins.__import__, {}
        def spy(name, *rest):
            if name == "torch" and "torch" not in sys.modules:
                seen.setdefault("policy", os.environ.get("OMP_WAIT_POLICY"))
            return import_(name, *rest)
        builtins.__import__ = spy
        import metarl
        metarl.TaskWorlds
        print(seen["policy"])"""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if given:
        environment["OMP_WAIT_POLICY"] = given
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected


FAULTS = """if True:
    import resource
    import torch
    from metarl import set_threads
    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(3):
            torch.ones(10 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    before = faults()
    set_threads(1)
    for _ in range(10):
        faults()
    print(before, faults())
"""


def page_faults(**environment: str) -> list[int]:
    """How often three tensors of 40 MiB, made and dropped in turn, had to ask for pages.

    By torch as it is found, and after `set_threads`, once the heap has settled: an aligned block
    does not fit where one of its size was freed, so it grows for up to three rounds.
    """
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="only glibc can be told"
)
def test_freed_memory_is_kept_for_the_next_tensors() -> None:
    before, after = page_faults()
    assert after < 10 <= before
    assert page_faults(MALLOC_MMAP_MAX_="65536")[1] >= 10  # as the user wishes


@pytest.mark.parametrize(
    ("first", "environment", "held"),
    [("torch", {}, True), ("metarl", {}, False), ("torch", {"OMP_WAIT_POLICY": "PASSIVE"}, False)],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU OpenMP is Linux's")
def test_a_team_is_held_where_torch_came_first_and_may_spin(first, environment, held) -> None:
    code = f"""if True:
        import {first}
        import torch
        before = torch.get_num_threads()
        import metarl, threading
        names = [thread.name for thread in threading.enumerate()]
        print("metarl-openmp" in names, torch.get_num_threads() == before)"""
    own = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=own | environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(held), "True"]


def test_what_a_run_sets_is_put_back() -> None:
    torch.set_num_threads(2)
    with threads.using(1) as given:
        assert (given, torch.get_num_threads(), threads.physics_threads()) == (1, 1, 1)
    assert torch.get_num_threads() == 2
    assert threads.physics_threads() == threads.available_cores()
    with pytest.raises(KeyError), threads.using(3):
        raise KeyError
    assert torch.get_num_threads() == 2

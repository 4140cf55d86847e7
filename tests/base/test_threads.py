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
        import builtins, os
        import_ = builtins.__import__
        def spy(name, *rest):
            if name == "torch":  # which takes seconds, and the policy is read as it begins
                print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
                os._exit(0)
            return import_(name, *rest)
        builtins.__import__ = spy
        import metarl
        metarl.TaskWorlds"""
    assert in_a_fresh_process(code, {"OMP_WAIT_POLICY": given} if given else {}) == expected


def in_a_fresh_process(code: str, environment: dict[str, str]) -> str:
    own = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=own | environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return done.stdout.strip()


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


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="only glibc can be told"
)
def test_freed_memory_is_kept_for_the_next_tensors(after_torch) -> None:
    """How often three tensors of 40 MiB, made and dropped in turn, had to ask for pages.

    By torch as it is found, and after `set_threads`, once the heap has settled: an aligned block
    does not fit where one of its size was freed, so it grows for up to three rounds.
    """
    before, after = map(int, after_torch(FAULTS).split())
    assert after < 10 <= before
    as_the_user_wishes = after_torch(FAULTS, MALLOC_MMAP_MAX_="65536")
    assert int(as_the_user_wishes.split()[1]) >= 10


TEAM = """if True:
    torch = __import__("sys").modules.get("torch")
    before = torch and torch.get_num_threads()
    import metarl, threading
    import metarl.base.threads
    names = [thread.name for thread in threading.enumerate()]
    print("metarl-openmp" in names, (torch and torch.get_num_threads()) == before)"""


@pytest.mark.parametrize(
    ("environment", "held"), [({}, True), ({"OMP_WAIT_POLICY": "PASSIVE"}, False)]
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU OpenMP is Linux's")
def test_a_team_is_held_where_torch_came_first_and_may_spin(after_torch, environment, held) -> None:
    assert after_torch(TEAM, **environment).split() == [str(held), "True"]


def test_no_team_is_held_where_metarl_came_first() -> None:
    assert in_a_fresh_process(TEAM, {}).split() == ["False", "True"]


def test_what_a_run_sets_is_put_back() -> None:
    torch.set_num_threads(2)
    with threads.using(1) as given:
        assert (given, torch.get_num_threads(), threads.physics_threads()) == (1, 1, 1)
    assert torch.get_num_threads() == 2
    assert threads.physics_threads() == threads.available_cores()
    with pytest.raises(KeyError), threads.using(3):
        raise KeyError
    assert torch.get_num_threads() == 2

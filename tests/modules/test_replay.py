"""Per-task replay: rings, clearing, uniform sampling within a task, memory that is refused."""

import pytest
import torch
from helpers.refusals import refused

from metarl import TaskWorlds, UserError, collect, find_learner
from metarl.base.keys import Key
from metarl.base.versions import free_memory
from metarl.modules.replay import TaskReplay, pack

IDS = torch.tensor([2, 0])


def rows(*values: list[float]) -> torch.Tensor:
    """(M, n, 1) rows that hold one number each."""
    return torch.tensor(values, dtype=torch.float32)[..., None]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def held(replay: TaskReplay, task: int) -> list[float]:
    return sorted(replay.data[task, : int(replay.size[task]), 0].tolist())


def test_rows_go_to_their_own_task() -> None:
    replay = TaskReplay(3, 4, 1)
    replay.add(IDS, rows([1, 2], [3, 4]), torch.ones(2, 2, dtype=torch.bool))
    assert replay.size.tolist() == [2, 0, 2]
    assert held(replay, 2) == [1, 2]
    assert held(replay, 0) == [3, 4]
    assert held(replay, 1) == []


def test_the_oldest_make_way() -> None:
    replay = TaskReplay(3, 4, 1)
    valid = torch.ones(2, 3, dtype=torch.bool)
    replay.add(IDS, rows([1, 2, 3], [11, 12, 13]), valid)
    replay.add(IDS, rows([4, 5, 6], [14, 15, 16]), valid)
    assert replay.size.tolist() == [4, 0, 4]
    assert held(replay, 2) == [3, 4, 5, 6]
    assert held(replay, 0) == [13, 14, 15, 16]
    assert replay.cursor.tolist() == [2, 0, 2]  # 6 modulo 4


def test_more_than_fits_leaves_the_newest() -> None:
    replay = TaskReplay(3, 4, 1)
    replay.add(IDS, torch.arange(18.0).view(2, 9, 1), torch.ones(2, 9, dtype=torch.bool))
    assert held(replay, 2) == [5, 6, 7, 8]
    assert held(replay, 0) == [14, 15, 16, 17]


def test_invalid_rows_are_left_out() -> None:
    replay = TaskReplay(3, 4, 1)
    valid = torch.tensor([[True, False, True], [False, False, False]])
    replay.add(IDS, rows([1, 2, 3], [4, 5, 6]), valid)
    assert replay.size.tolist() == [0, 0, 2]
    assert held(replay, 2) == [1, 3]


def test_adding_is_a_plain_ring_buffer_for_each_task() -> None:
    replay, plain = TaskReplay(5, 7, 2), [[] for _ in range(5)]
    draw = generator()
    for _ in range(30):
        ids = torch.randperm(5, generator=draw)[:3]
        n = int(torch.randint(1, 12, (1,), generator=draw))
        new = torch.randn(3, n, 2, generator=draw)
        valid = torch.rand(3, n, generator=draw) > 0.3
        replay.add(ids, new, valid)
        for m, task in enumerate(ids.tolist()):
            plain[task] = (plain[task] + new[m][valid[m]].tolist())[-7:]
    for task in range(5):
        got = replay.data[task, : int(replay.size[task])].tolist()
        assert sorted(got) == sorted(plain[task])


def test_clearing_forgets_only_the_tasks_named() -> None:
    replay = TaskReplay(3, 4, 1)
    replay.add(torch.arange(3), rows([1, 2], [3, 4], [5, 6]), torch.ones(3, 2, dtype=torch.bool))
    replay.clear(torch.tensor([1]))
    assert replay.size.tolist() == [2, 0, 2]
    replay.add(torch.tensor([1]), rows([7]), torch.ones(1, 1, dtype=torch.bool))
    assert held(replay, 1) == [7]
    assert set(replay.sample(torch.tensor([1]), 50, generator()).flatten().tolist()) == {7.0}


def test_sampling_is_uniform_and_within_the_task() -> None:
    replay = TaskReplay(3, 10, 1)
    replay.add(IDS, torch.arange(10.0).view(2, 5, 1), torch.ones(2, 5, dtype=torch.bool))
    drawn = replay.sample(IDS, 20_000, generator())[..., 0]
    assert drawn.shape == (2, 20_000)
    for got, low in zip(drawn, (0, 5), strict=True):
        counts = torch.bincount((got - low).long(), minlength=5)
        assert len(counts) == 5
        # 4000 each; the standard deviation of a count is sqrt(20000 / 5 * 4 / 5) = 57
        assert (counts - 4000).abs().max() < 5 * 57


def test_sampling_is_a_function_of_the_generator() -> None:
    replay = TaskReplay(3, 10, 1)
    replay.add(IDS, torch.arange(10.0).view(2, 5, 1), torch.ones(2, 5, dtype=torch.bool))
    one, two, other = (replay.sample(IDS, 50, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_a_saved_replay_goes_on_to_the_same_bits() -> None:
    one, two = TaskReplay(3, 6, 1), TaskReplay(3, 6, 1)
    valid = torch.ones(2, 5, dtype=torch.bool)
    one.add(IDS, torch.arange(10.0).view(2, 5, 1), valid)
    saved = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    assert saved["data"].shape == (3, 5, 1)  # only what is filled
    two.load_state_dict(saved)
    for replay in (one, two):
        replay.add(IDS, torch.arange(10.0, 20.0).view(2, 5, 1), valid)
    assert all(torch.equal(a, two.state_dict()[name]) for name, a in one.state_dict().items())


@pytest.mark.parametrize("shape", [(2, 5, 1), (3, 7, 1), (3, 5, 2)])
def test_a_replay_of_another_shape_is_refused(shape: tuple[int, int, int]) -> None:
    other = TaskReplay(*shape)
    other.size += shape[1]
    with pytest.raises(UserError, match="replay does not fit"):
        TaskReplay(3, 6, 1).load_state_dict(other.state_dict())


def test_memory_is_said_before_it_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    TaskReplay.pair(4, (2**18, 16), (16, 1), torch.device("cpu"))
    # 4 tasks x 2^18 rows x 16 numbers x 4 bytes = 64 MiB (and 256 bytes)
    assert "4 tasks x 262144 transitions, 0.0625 GiB on cpu" in capsys.readouterr().err


def test_too_much_memory_is_one_line_that_says_what_to_lower() -> None:
    with refused(match=r"lower replay_capacity \(now 1000000000\)"):
        TaskReplay.pair(1000, (10**9, 16), (42, 1), torch.device("cpu"))
    assert (free_memory(torch.device("cpu")) or 1) > 0


def test_packing_keeps_transitions_whole() -> None:
    worlds = TaskWorlds("point-goal", 6, 1)
    cls = find_learner("pearl")
    learner = cls(worlds.spec, cls.Config(hidden=(8,), encoder_hidden=(8,)))
    worlds.seed(Key(0))
    worlds.reset()
    rollout, _ = collect(worlds, learner, learner.begin(1, 6), 5, Key(0), explore=True)
    rollout = rollout._replace(tasks=3)
    packed, valid = pack(rollout)
    assert packed.shape == (3, 10, 12)
    assert valid.all()
    for task, world, t in ((0, 0, 0), (1, 3, 4), (2, 4, 2)):
        row = packed[task, (world % 2) * 5 + t]
        assert torch.equal(row[:4], rollout.obs[t, world])
        assert torch.equal(row[4:6], rollout.action[t, world])
        assert row[6] == rollout.reward[t, world]
        assert torch.equal(row[7:11], rollout.next_obs[t, world])
        assert row[11] == 0

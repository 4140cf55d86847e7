"""Memories: acting step by step gives what the whole trial at once gives, and causality holds."""

import pytest
import torch
from torch import Tensor, nn

from metarl.base.errors import UserError
from metarl.networks.memories import scan
from metarl.networks.memories.choice import (
    MEMORIES,
    Attention,
    History,
    Hyper,
    Mann,
    Memory,
    TemporalConvolution,
    make_memory,
)
from metarl.networks.memories.scan import MinGruLayer, linear_scan

WORLDS, INPUTS, UNITS, CONTEXT = 3, 5, 16, 40
RESTARTING = ("gru", "lstm", "mingru", "s5", "mann", "hyper")
"""Those in which a trial can begin in one world alone."""


@pytest.fixture(params=MEMORIES)
def memory(request: pytest.FixtureRequest) -> Memory:
    return made(request.param)


def made(name: str, context: int = CONTEXT) -> Memory:
    torch.manual_seed(0)
    memory = make_memory(name, INPUTS, UNITS, context=context)
    if isinstance(memory, Hyper):  # whose weights are the same for every past at first
        nn.init.normal_(memory.generate.weight, std=0.3)
    return memory


def inputs(steps: int, seed: int = 1) -> Tensor:
    return torch.randn(steps, WORLDS, INPUTS, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def stepped(memory: Memory, x: Tensor) -> Tensor:
    state, out = memory.begin(x.shape[1]), []
    for part in x:
        y, state = memory.step(part, state)
        out.append(y)
    return torch.stack(out)


@pytest.mark.parametrize("steps", [1, 33, CONTEXT, 3 * CONTEXT + 7])
def test_stepping_equals_unrolling(memory: Memory, steps: int) -> None:
    """Beyond the context, too, where the ring of blocks has gone round."""
    x = inputs(steps)
    with torch.no_grad():
        whole = memory.unroll(x)
    assert whole.shape == (steps, WORLDS, memory.outputs)
    assert (stepped(memory, x) - whole).abs().max() < 1e-5


@pytest.mark.parametrize("name", RESTARTING)
def test_stepping_equals_unrolling_where_trials_begin_in_the_middle(name: str) -> None:
    memory, x = made(name), inputs(50)
    begins = torch.zeros(50, WORLDS, dtype=torch.bool)
    begins[[0, 20, 20, 33, 49], [1, 0, 2, 2, 1]] = True
    state, out = memory.begin(WORLDS), []
    with torch.no_grad():
        whole = memory.unroll(x, begins)
        for part, new in zip(x, begins, strict=True):
            y, state = memory.step(part, memory.restart(state, new))
            out.append(y)
        alone = memory.unroll(x[20:33, ::2])
    assert (torch.stack(out) - whole).abs().max() < 1e-5
    assert (alone - whole[20:33, ::2]).abs().max() < 1e-5


def test_what_comes_later_changes_nothing_before(memory: Memory) -> None:
    x = inputs(30)
    other = x.clone()
    other[20] += 1.0
    with torch.no_grad():
        a, b = memory.unroll(x), memory.unroll(other)
    assert torch.allclose(a[:20], b[:20], atol=1e-6)
    changed = (a[20:] - b[20:]).abs().amax((1, 2))
    assert (changed > 1e-7).all()  # and everything after remembers it


def test_worlds_do_not_mix(memory: Memory) -> None:
    x = inputs(30)
    other = x.clone()
    other[:, 1] += 1.0
    with torch.no_grad():
        a, b = memory.unroll(x), memory.unroll(other)
    assert torch.allclose(a[:, ::2], b[:, ::2], atol=1e-6)
    assert not torch.allclose(a[:, 1], b[:, 1], atol=1e-2)


def test_a_step_leaves_the_state_as_it_is(memory: Memory) -> None:
    x = inputs(35)
    state = memory.begin(WORLDS)
    for part in x[:-1]:
        with torch.no_grad():
            _, state = memory.step(part, state)
    kept = [tensor.clone() for tensor in state]
    with torch.no_grad():
        one, after = memory.step(x[-1], state)
        two, _ = memory.step(x[-1] + 1, state)
        three, again = memory.step(x[-1], state)
    assert all(torch.equal(a, b) for a, b in zip(state, kept, strict=True))
    assert torch.equal(one, three)
    assert not torch.equal(one, two)
    assert all(torch.equal(a, b) for a, b in zip(after, again, strict=True))


def test_a_state_keeps_its_shapes_and_has_a_row_for_every_world(memory: Memory) -> None:
    begun = memory.begin(WORLDS)
    with torch.no_grad():
        _, state = memory.step(inputs(1)[0], begun)
    assert [(t.shape, t.dtype) for t in begun] == [(t.shape, t.dtype) for t in state]
    assert all(len(tensor) == WORLDS for tensor in state)


@pytest.mark.parametrize("begins", [False, True])
def test_the_gradient_matches_finite_differences(memory: Memory, begins: bool) -> None:
    """Of the weights and the inputs; with trials that begin in the middle, too."""
    memory.double()
    x, steps = inputs(6).double().requires_grad_(), None
    if begins and memory.restarts:
        steps = torch.tensor([0, 0, 1, 0, 0, 1], dtype=torch.bool)[:, None].repeat(1, WORLDS)
        steps[2, 1:] = False

    def loss() -> Tensor:
        return memory.unroll(x, steps).square().sum()

    params = [x, *memory.parameters()]
    gradient = torch.autograd.grad(loss(), params)
    direction = [torch.randn_like(p) for p in params]
    slope = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(params, direction, strict=True):
                p += sign * 1e-5 * d
            values.append(loss())
            for p, d in zip(params, direction, strict=True):
                p -= sign * 1e-5 * d
    assert torch.isclose((values[0] - values[1]) / 2e-5, slope, rtol=1e-5)


def test_a_history_is_a_list_that_forgets() -> None:
    history = History(11, 2, size=4)
    assert history.count == 4  # ten steps before the last may begin in the middle of a block
    blocks, plain = history.begin(torch.zeros(0), WORLDS), []
    for p in range(50):
        x = torch.full((WORLDS, 2), float(p + 1))
        blocks = history.add(blocks, p, x)
        plain.append(p + 1)
        seen = torch.cat(history.upto(blocks, p), 1)[0, :, 0].tolist()
        assert seen == plain[-11:]
        for ago in range(11):
            value = plain[p - ago] if ago <= p else 0
            assert (history.at(blocks, p - ago) == value).all()


def test_attention_is_the_textbook_formula() -> None:
    """One head without rotation: softmax(q k / sqrt(d)) v over the last three steps."""
    torch.manual_seed(0)
    attend = Attention(INPUTS, 4, 1, 3, rotary=False)
    x = inputs(6)
    with torch.no_grad():
        got = attend.unroll(x)
        query, key, value = attend.project(x).chunk(3, -1)
        for t in range(6):
            past = slice(max(0, t - 2), t + 1)
            weight = torch.softmax(torch.einsum("bd,jbd->bj", query[t], key[past]) / 2.0, -1)
            assert torch.allclose(
                got[t], torch.einsum("bj,jbd->bd", weight, value[past]), atol=1e-6
            )


def test_rotary_keys_tell_only_how_long_ago_they_were() -> None:
    """Delaying a sequence whose keys and queries are the same leaves the scores as they were."""
    torch.manual_seed(0)
    attend = Attention(INPUTS, 8, 2, 50, rotary=True)
    query, key = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)
    at = torch.arange(5)
    scores = [attend._rotate(query, at + d) @ attend._rotate(key, at + d).mT for d in (0, 17)]
    assert torch.allclose(scores[0], scores[1], atol=1e-5)


def test_the_convolutions_reach_back_over_the_context() -> None:
    torch.manual_seed(0)
    convolution = TemporalConvolution(INPUTS, 2, 16)
    assert convolution.dilations == [1, 2, 4, 8]
    x = inputs(40).requires_grad_()
    (gradient,) = torch.autograd.grad(convolution.unroll(x)[30].sum(), x)
    reached = gradient.abs().amax((1, 2)) > 0
    assert reached[15:31].all()  # 1 + 2 + 4 + 8 steps ago and since
    assert not reached[:15].any()
    assert not reached[31:].any()


def test_a_memory_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean"):
        make_memory("gruu", 3, 4, context=5)
    with pytest.raises(UserError, match="multiple"):
        make_memory("transformer", 3, 12, context=5)


@torch.no_grad()
def test_slots_are_written_and_read_as_a_plain_loop_does() -> None:
    """Santoro et al. 2016, slot by slot, until every slot has been written to."""
    torch.manual_seed(0)
    memory = Mann(INPUTS, UNITS, slots=5)
    width = memory.width
    nn.init.normal_(memory.address.weight, std=1.0)
    x = inputs(12)[:, :1]
    hidden, cell, read = torch.zeros(1, UNITS), torch.zeros(1, UNITS), torch.zeros(width)
    slots, usage, weight = torch.zeros(5, width), torch.zeros(5), torch.zeros(5)
    cleared = []
    for t, got in enumerate(memory.unroll(x)[:, 0]):
        hidden, cell = memory.controller(torch.cat((x[t], read[None]), -1), (hidden, cell))
        raw = memory.address(hidden)[0]
        key, gate = raw[:width].tanh(), raw[-1].sigmoid()
        strength = 1 + (1 + raw[-2].exp()).log()
        least = min(range(5), key=lambda i: float(usage[i]))
        cleared.append(least)
        write = gate * weight
        write[least] += 1 - gate
        slots[least] = 0
        score = torch.zeros(5)
        for i in range(5):
            slots[i] += write[i] * key
            alike = (slots[i] @ key) / ((slots[i] @ slots[i] + 1e-6) * (key @ key + 1e-6)).sqrt()
            score[i] = (strength * alike).exp()
        weight = score / score.sum()
        read = sum(weight[i] * slots[i] for i in range(5))
        usage = 0.95 * usage + weight + write
        assert torch.allclose(got, torch.cat((hidden[0], read)), atol=1e-5)
    assert cleared[:3] == [0, 1, 2]
    assert set(cleared) == set(range(5))


@torch.no_grad()
def test_generated_weights_are_one_network_at_first_and_then_each_tasks_own() -> None:
    """At first what came before makes no difference; y = tanh(W_2 tanh(W_1 x + b_1) + b_2)."""
    torch.manual_seed(0)
    memory, x = make_memory("hyper", INPUTS, 32, context=1), inputs(6)
    assert isinstance(memory, Hyper)
    other = x.clone()
    other[:5] += 1.0
    assert torch.equal(memory.unroll(x)[5], memory.unroll(other)[5])
    first = memory.generate.bias[: INPUTS * 8].view(8, INPUTS)
    torch.testing.assert_close(first.T @ first, 2 * torch.eye(INPUTS))  # orthogonal, gain sqrt(2)
    nn.init.normal_(memory.generate.weight, std=0.3)
    assert not torch.allclose(memory.unroll(x)[5], memory.unroll(other)[5], atol=1e-3)
    hidden = memory.core.unroll(x)
    for t, world in ((0, 0), (5, 2)):
        given = memory.generate(memory.task(hidden[t, world]))
        w1, b1, w2, b2 = given.split((8 * INPUTS, 8, 64, 8))
        y = torch.tanh(w1.view(8, INPUTS) @ x[t, world] + b1)
        y = torch.tanh(w2.view(8, 8) @ y + b2)
        torch.testing.assert_close(memory.unroll(x)[t, world], y)


def test_gru_and_lstm_are_torchs_own() -> None:
    x = inputs(7)
    for name, kind in (("gru", nn.GRU), ("lstm", nn.LSTM)):
        memory = made(name)
        reference = kind(INPUTS, UNITS)
        reference.load_state_dict(memory.net.state_dict())
        assert torch.allclose(reference(x)[0], stepped(memory, x), atol=1e-6)


@pytest.mark.parametrize(("steps", "worlds"), [(1, 1), (7, 3), (90, 5), (3, 200)])
def test_the_gradient_of_the_gru_is_torchs(steps: int, worlds: int) -> None:
    """To the precision of float64, in one block of steps and in several."""
    torch.manual_seed(0)
    memory, x = made("gru").double(), torch.randn(steps, worlds, INPUTS, dtype=torch.float64)
    params, weight = [x.requires_grad_(), *memory.parameters()], torch.randn(UNITS).double()
    mine, theirs = (
        torch.autograd.grad((hidden * weight).square().sum(), params)
        for hidden in (memory.unroll(x), memory.net(x)[0])
    )
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
@pytest.mark.parametrize("steps", [2, 5, 12])
def test_a_scan_is_the_loop_and_so_is_its_gradient(steps: int, kind: torch.dtype) -> None:
    a, b, weight = torch.randn(3, steps, 2, dtype=kind).requires_grad_().unbind(0)
    loop = [b[0]]
    for t in range(1, steps):
        loop.append(a[t] * loop[-1] + b[t])
    scanned = linear_scan(a, b)
    torch.testing.assert_close(scanned, torch.stack(loop))
    both = [
        torch.autograd.grad((h * weight).abs().square().sum(), (a, b), retain_graph=True)
        for h in (scanned, torch.stack(loop))
    ]
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("cached", [1, 700, 1 << 18])
@pytest.mark.parametrize("steps", [1, 2, 3, 16, 17, 40])
def test_mingrus_scan_by_parts_has_the_bits_of_the_whole(monkeypatch, steps: int, cached: int):
    """In parts of one block, of a few, and of all; with a shorter last block and without."""
    monkeypatch.setattr(scan, "CACHED", cached)
    torch.manual_seed(0)
    layer, x = MinGruLayer(8, 16, 40), torch.randn(steps, 3, 8)
    params, weight = [x.requires_grad_(), *layer.gate.parameters()], torch.randn(steps, 3, 16)
    params += layer.enter.parameters()
    whole, parts = linear_scan(*layer.drive(x)), layer.states(x, None)
    assert torch.equal(whole, parts)
    gradients = [torch.autograd.grad((h * weight).sum(), params) for h in (whole, parts)]
    assert all(map(torch.equal, *gradients))

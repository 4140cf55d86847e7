"""The metric on trials: kernel, posterior and places by hand, the contrast against a plain loop."""

import math

import pytest
import torch
from torch import Tensor

from metarl.networks.memories.choice import make_memory
from metarl.networks.prototypes import (
    EmbeddedTrials,
    Places,
    PrototypeEncoder,
    divergence,
    log_kernel,
)

STEPS, TRIALS, INPUTS, SIZE, KINDS, TASK = 5, 4, 6, 3, 3, 2


def encoder(temperature: float = 0.4) -> PrototypeEncoder:
    torch.manual_seed(0)
    net = PrototypeEncoder(INPUTS, 6, make_memory("gru", 6, 8, context=5), SIZE, KINDS, temperature)
    with torch.no_grad():
        net.prototypes.copy_(torch.randn(KINDS, SIZE))
    return net


def trials(seed: int = 1) -> EmbeddedTrials:
    rng = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng)

    valid = torch.ones(STEPS, TRIALS)
    valid[2, 1] = valid[4, 3] = 0.0
    task = draw(STEPS, TRIALS, TASK)
    return EmbeddedTrials(draw(STEPS, TRIALS, INPUTS), task, valid, draw(TRIALS, SIZE))


PLACES = torch.tensor([[0.0, 0.5], [-1.0, 0.2], [0.7, -0.7]])
SOME = torch.tensor([0, 2, 4])
"""Steps that are compared."""


def loss(net: PrototypeEncoder, data: EmbeddedTrials, ids: list[int], weight: float = 0.6):
    return net.loss(
        data, torch.tensor(ids), SOME, PLACES, bandwidth=0.8, contrast_weight=weight
    )  # fmt: skip


def test_the_posterior_is_a_softmax_of_squared_distances() -> None:
    """Prototypes at 0, 1 and 3 on a line, τ = 2, from 1: distances 1, 0, 4 give e^-½, 1, e^-2."""
    net = PrototypeEncoder(2, 2, make_memory("gru", 2, 2, context=2), 1, 3, temperature=2.0)
    with torch.no_grad():
        net.prototypes.copy_(torch.tensor([[0.0], [1.0], [3.0]]))
        found = net.log_posterior(torch.tensor([1.0])).exp()
    weights = torch.tensor([math.exp(-0.5), 1.0, math.exp(-2.0)])
    torch.testing.assert_close(found, weights / weights.sum())


def test_the_kernel_counts_distance_for_each_number_of_a_task() -> None:
    """At a distance of (1, 1) from one task and 0 from the other: e^(-(1 + 1) / (2 · 2 · ½²))."""
    tasks, others = torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    found = log_kernel(tasks, others, 0.5).exp()
    far = math.exp(-2.0)
    torch.testing.assert_close(found, torch.tensor([[1.0, far]]) / (1 + far))
    out = torch.tensor([[True, False]])
    assert log_kernel(tasks, others, 0.5, out).exp().tolist() == [[0.0, 1.0]]


def test_a_divergence_by_hand() -> None:
    """KL((½, ½) ‖ (¼, ¾)) = ½ log 2 + ½ log ⅔."""
    wanted, found = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert divergence(wanted, found).item() == pytest.approx(expected)
    assert divergence(wanted, wanted).item() == 0


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def test_the_contrast_is_a_sum_over_trials_steps_and_others() -> None:
    net, data, near, alike = encoder(), trials(), [], []
    points = net(data.inputs).detach()

    def apart(a: Tensor, b: Tensor) -> float:
        return sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True))

    def kernel(a: Tensor, b: Tensor) -> float:
        return -apart(a, b) / (2 * TASK * 0.8**2)

    for i in range(TRIALS):
        for t in SOME.tolist():
            if data.valid[t, i] == 0:
                continue
            q, e = points[t, i], data.task[t, i]
            others = [j for j in range(TRIALS) if j != i and data.valid[-1, j] > 0]
            for kept, wanted, found in (
                (near, [kernel(e, m) for m in PLACES],
                 [-apart(q, c) / 0.4 for c in net.prototypes.detach()]),
                (alike, [kernel(e, data.task[-1, j]) for j in others],
                 [-apart(q, data.keys[j]) / 0.4 for j in others]),
            ):  # fmt: skip
                w, p = softmax(wanted), softmax(found)
                kept.append(sum(a * math.log(a / b) for a, b in zip(w, p, strict=True)))
    total, metrics = loss(net, data, list(range(TRIALS)))
    expected = torch.tensor([sum(near) / len(near), sum(alike) / len(alike)])
    torch.testing.assert_close(metrics, expected)
    torch.testing.assert_close(total.detach(), expected[0] + 0.6 * expected[1])


def test_parts_of_the_trials_add_up_to_the_whole() -> None:
    net, data = encoder(), trials()
    whole = loss(net, data, [0, 1, 2, 3])
    parts = [loss(net, data, ids) for ids in ([2, 0], [1], [3])]
    for one, *others in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(others), one)


def test_what_a_diverged_step_holds_is_nobodys_like() -> None:
    """Neither its own task nor its point counts."""
    net, data = encoder(), trials()
    keys, task = data.keys.clone(), data.task.clone()
    keys[3], task[4, 3], task[2, 1] = 1e3, 1e3, 1e3
    results = []
    for one in (data, data._replace(keys=keys, task=task)):
        value, _ = loss(net, one, [0, 1, 2, 3])
        results.append([value, *torch.autograd.grad(value, list(net.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_trial_without_others_has_a_gradient_all_the_same() -> None:
    net, data = encoder(), trials()
    alone = data._replace(valid=torch.zeros(STEPS, TRIALS))
    for one in (alone, EmbeddedTrials(*(part[..., :1, :] for part in data[:2]), data.valid[:, :1],
                                      data.keys[:1])):  # fmt: skip
        value, _ = loss(net, one, [0])
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, list(net.parameters())))


def test_places_are_means_of_the_tasks_nearest_to_them() -> None:
    """Each begins as a task of its own: (0 + 0.3 + 0.1 - 0.1) / 4, and (1 + 0.8) / 2."""
    places = Places(2, 1, 0, torch.device("cpu"))
    places.places = torch.tensor([[0.0], [1.0]])
    places.update(torch.tensor([[0.3], [0.8], [0.1]]))
    places.update(torch.tensor([[-0.1]]))
    torch.testing.assert_close(places.places, torch.tensor([[0.3 / 4], [0.9]]))
    assert places.counts.tolist() == [4.0, 2.0]


def test_places_begin_spread_over_the_tasks() -> None:
    """Of 16 of one number, one lies in each sixteenth of [-1, 1]; of another seed elsewhere."""
    places = Places(16, 1, 3, torch.device("cpu")).places
    assert sorted(((places[:, 0] + 1) * 8).long().tolist()) == list(range(16))
    assert not torch.equal(places, Places(16, 1, 4, torch.device("cpu")).places)
    assert torch.equal(places, Places(16, 1, 3, torch.device("cpu")).places)


@torch.no_grad()
def test_stepping_gives_the_points_of_the_whole_trial() -> None:
    net, x = encoder(), trials().inputs
    state, points = net.memory.begin(TRIALS), []
    for part in x:
        point, state = net.step(part, state)
        points.append(point)
    assert (torch.stack(points) - net(x)).abs().max() < 1e-6

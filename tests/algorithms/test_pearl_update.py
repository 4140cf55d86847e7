"""PEARL's gradient step: what trains what, and its plain reference."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small_pearl import SMALL, batch, learner, snapshot
from torch.autograd import grad

from metarl.modules.context import kl_from_prior, product_of_gaussians


def reference() -> ModuleType:
    """benchmarks/pearl_update.py, whose plain implementation the update is held to."""
    folder = Path(__file__).parents[2] / "benchmarks"
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("pearl_update", folder / "pearl_update.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(folder))


@pytest.mark.parametrize("per_task", [True, False])
def test_ten_updates_are_those_of_the_plain_implementation(per_task: bool) -> None:
    made = learner(replace(SMALL, lr=3e-3))
    plain, start = reference().EagerPearl(made, per_task=per_task), snapshot(made)
    for k in range(10):
        made.gradient_step(batch(made, k))
        plain.update(batch(made, k))
    mine = snapshot(made)
    for name, expected in plain.weights().items():
        key = name if name == "target" else f"{name}.params"
        assert (mine[key] - expected).abs().max() < 1e-5
        assert (mine[key] - start[key]).abs().max() > 1e-4  # and they did learn


def test_the_actor_teaches_the_encoder_nothing() -> None:
    """The encoder's step is the gradient of critics' loss and KL, whatever the actor's noise is."""
    one, two = learner(), learner()
    data = batch(one)
    one.gradient_step(data)
    two.gradient_step(data._replace(noise=data.noise + 1))
    a, b = snapshot(one), snapshot(two)
    assert torch.equal(a["encoder.params"], b["encoder.params"])
    assert torch.equal(a["critic.params"], b["critic.params"])
    assert not torch.equal(a["policy.params"], b["policy.params"])


def test_critics_and_divergence_both_teach_the_encoder() -> None:
    steps = {}
    for weight in (0.0, 1.0, 1e6):
        made = learner(replace(SMALL, kl_weight=weight))
        made.gradient_step(batch(made))
        steps[weight] = made.encoder.weights.tensors()["exp_avg"].clone()
    # Adam's first moment is a tenth of the gradient after one step
    assert steps[0.0].abs().max() > 0
    assert not torch.allclose(steps[0.0], steps[1.0])
    made = learner()
    kl = kl_from_prior(*product_of_gaussians(*made.encoder(batch(made).context)))
    (by_kl,) = grad(kl, made.encoder.weights.params)
    torch.testing.assert_close(steps[1.0] - steps[0.0], 0.1 * by_kl, rtol=1e-3, atol=1e-5)


def test_a_batch_keeps_the_tasks_apart() -> None:
    made = learner()
    replay, context = made._replay()
    for part in (replay, context):
        part.data[:] = torch.arange(4.0)[:, None, None]
    data = batch(made)
    assert data.rows.shape == (3, 8, 12)
    assert data.context.shape == (3, 6, 7)
    for rows, seen in zip(data.rows, data.context, strict=True):
        assert len(torch.unique(torch.cat((rows.flatten(), seen.flatten())))) == 1
    assert len(torch.unique(data.rows[:, 0, 0])) == 3  # different tasks


def test_a_meta_batch_larger_than_the_pool_repeats_tasks_evenly() -> None:
    made = learner(replace(SMALL, train_tasks=2, meta_batch=5))
    made._replay()[0].data[:] = torch.arange(2.0)[:, None, None]
    counts = torch.bincount(batch(made).rows[:, 0, 0].long())
    assert sorted(counts.tolist()) == [2, 3]


def test_the_temperature_is_fixed_unless_it_is_automatic() -> None:
    for automatic in (False, True):
        made = learner(replace(SMALL, automatic_temperature=automatic, temperature=0.7))
        made.gradient_step(batch(made))
        changed = made.sac.temperature().item() != pytest.approx(0.7, rel=1e-6)
        assert changed is automatic

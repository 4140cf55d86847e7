"""The whole update of MAML-TRPO against its equations, and in worlds."""

import hashlib

import pytest
import torch
from small_maml_trpo import batch, chunks, learner
from torch import Tensor
from torch.autograd import grad
from torch.distributions import Independent, Normal, kl_divergence

from envs.half_cheetah import HalfCheetahDynamics
from metarl import TaskDistribution, TaskWorlds, evaluate
from metarl.algorithms import maml_trpo
from metarl.algorithms.maml_trpo import Batch, MamlTrpo, MamlTrpoConfig, State
from metarl.base.errors import UserError
from metarl.base.keys import Key

# --- the whole update against the equations, one task and one sample at a time -------------------


def plain_policy(agent: MamlTrpo, params: Tensor, obs: Tensor) -> Independent:
    """One task's policy from torch's own parts; `params` is (D,)."""
    w1, b1, w2, b2, log_std = params.split([3 * 5, 5, 5 * 2, 2, 2])
    mean = torch.tanh(obs @ w1.view(3, 5) + b1) @ w2.view(5, 2) + b2
    scale = agent.config.action_scale
    return Independent(Normal(scale * mean, (scale * log_std.exp()).expand_as(mean)), 1)


def plain_adapted(agent: MamlTrpo, theta: Tensor, data: list[Batch], m: int) -> Tensor:
    """Task m: φ = θ − α ∇ E[−log π A], once a batch but the last."""
    phi = theta
    for part in data[:-1]:
        log_prob = plain_policy(agent, phi, part.obs[m]).log_prob(part.action[m])
        loss = -(log_prob * part.advantage[m]) @ part.weight[m]
        phi = phi - agent.config.inner_lr * grad(loss, phi, create_graph=True)[0]
    return phi


def plain_objective(
    agent: MamlTrpo, theta: Tensor, old: list[Independent], data: list[Batch]
) -> tuple[Tensor, Tensor]:
    """The meta-loss and the mean KL at a prior, both means over the tasks."""
    last, losses, kls = data[-1], [], []
    for m in range(len(old)):
        new = plain_policy(agent, plain_adapted(agent, theta, data, m), last.obs[m])
        ratio = (new.log_prob(last.action[m]) - old[m].log_prob(last.action[m])).exp()
        losses.append(-(ratio * last.advantage[m] * last.weight[m]).sum())
        kls.append((kl_divergence(old[m], new) * last.weight[m]).sum())
    return torch.stack(losses).mean(), torch.stack(kls).mean()


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_what_an_update_hands_to_the_trust_region(inner_steps: int, monkeypatch) -> None:
    """Gradient against central differences, Fisher product, loss and KL: all of the same data."""
    agent = learner(inner_steps=inner_steps, inner_lr=0.3)
    theta, data = agent.theta, [batch(seed) for seed in range(inner_steps + 1)]
    handed = {}

    def spy(params, gradient, product, objective, loss, **settings):
        handed.update(gradient=gradient, product=product, objective=objective, loss=loss)
        return step(params, gradient, product, objective, loss, **settings)

    step = maml_trpo.trust_region_step
    monkeypatch.setattr(maml_trpo, "trust_region_step", spy)
    taken = agent._trust_region_step(*chunks(agent, data))

    start = theta.clone().requires_grad_()
    phi = [plain_adapted(agent, start, data, m).detach() for m in range(4)]
    old = [plain_policy(agent, phi[m], data[-1].obs[m]) for m in range(4)]

    def plain(x: Tensor) -> tuple[Tensor, Tensor]:
        loss, kl = plain_objective(agent, x.clone().requires_grad_(), old, data)
        return loss.detach(), kl.detach()

    def kl_gradient(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return grad(plain_objective(agent, x, old, data)[1], x)[0]

    basis, h = torch.eye(len(theta), dtype=torch.float64), 2e-6
    numeric = torch.stack(
        [(plain(theta + h * e)[0] - plain(theta - h * e)[0]) / (2 * h) for e in basis]
    )
    assert float((handed["gradient"] - numeric).norm() / numeric.norm()) < 1e-6
    v = torch.randn(len(theta), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    hessian = (kl_gradient(theta + h * v) - kl_gradient(theta - h * v)) / (2 * h)
    assert float((handed["product"](v) - hessian).norm() / hessian.norm()) < 1e-6
    assert handed["loss"] == pytest.approx(plain(theta)[0].item(), rel=1e-12)
    there = theta + 0.1 * v
    torch.testing.assert_close(handed["objective"](there), plain(there), rtol=1e-10, atol=0)

    assert taken.accepted
    loss, kl = plain(taken.params)
    assert float(kl) <= agent.config.max_kl * (1 + 1e-9)
    assert float(loss) < handed["loss"]
    assert torch.equal(agent.theta, taken.params)


def test_the_inner_step_does_not_shrink_with_the_number_of_tasks() -> None:
    """The inner loss sums over tasks: one task copied four times takes the same step each time."""
    agent, data = learner(inner_lr=0.3), batch(1, tasks=1)
    copies = Batch(*(part.expand(4, *part.shape[1:]) for part in data))
    alone = agent.inner.adapt(State(agent.theta.expand(1, -1)), data).params
    together = agent.inner.adapt(State(agent.theta.expand(4, -1)), copies).params
    assert torch.allclose(together, alone.expand(4, -1), rtol=1e-12)


def test_damping_is_added_to_the_diagonal() -> None:
    data = [batch(0), batch(1)]
    agents = [learner(cg_damping=c) for c in (0.0, 0.25)]
    plain, damped = (agent._fisher_product(*chunks(agent, data)) for agent in agents)
    v = torch.ones_like(learner().theta)
    assert torch.allclose(damped(v), plain(v) + 0.25 * v)


# --- in the worlds -------------------------------------------------------------------------------


def test_exploring_is_the_mean_plus_noise_times_the_std() -> None:
    worlds = TaskWorlds("point-goal", 12, threads=1)
    agent = MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,), init_std=0.5))
    noise = Key(0).normal(3, 1, 4, 2)[0]
    state = agent.begin(3, 4)
    plain, _ = agent.act(worlds.current, state, explore=False, noise=None)
    noisy, _ = agent.act(worlds.current, state, explore=True, noise=noise)
    torch.testing.assert_close(noisy, plain + 0.1 * 0.5 * noise)


def test_no_global_generator_changes_a_meta_step() -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        worlds = TaskWorlds("point-goal", 8, threads=1)
        agent = MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,), inner_steps=2))
        agent.meta_step(worlds, TaskDistribution(worlds.family).split("train", 4), Key(3))
        results.append(agent.theta)
    assert torch.equal(*results)


@pytest.mark.parametrize("first_order", [False, True])
def test_accepted_steps_keep_the_trust_region(first_order: bool) -> None:
    worlds = TaskWorlds("point-goal", 40, threads=1)
    config = MamlTrpoConfig(hidden=(16,), max_kl=0.005, first_order=first_order)
    agent, tasks = MamlTrpo(worlds.spec, config), TaskDistribution(worlds.family)
    accepted = 0
    for i in range(6):
        before = agent.theta
        metrics = agent.meta_step(worlds, tasks.sample(8, Key(i).numpy()), Key(0, i))
        accepted += int(metrics["accepted"])
        assert metrics["kl"] <= 0.005
        assert bool(metrics["accepted"]) != torch.equal(agent.theta, before)
        assert metrics["loss"] <= 1e-6
    assert accepted >= 5


def test_the_same_weights_on_1_2_and_4_physics_threads(monkeypatch) -> None:
    monkeypatch.setattr(HalfCheetahDynamics, "horizon", 40)
    digests = set()
    for threads in (1, 2, 4):
        worlds = TaskWorlds("half-cheetah-dynamics", 8, threads=threads)
        agent = MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,)))
        tasks = TaskDistribution(worlds.family)
        for i in range(2):
            agent.meta_step(worlds, tasks.sample(4, Key(i).numpy()), Key(0, i))
        digests.add(hashlib.sha256(agent.theta.numpy().tobytes()).hexdigest())
    assert len(digests) == 1


def test_a_step_does_not_depend_on_what_the_worlds_did_before() -> None:
    results = []
    for disturb in (False, True):
        worlds = TaskWorlds("point-goal", 8, threads=1)
        agent = MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(8,)))
        if disturb:
            for _ in range(7):
                worlds.step(torch.ones(8, 2))
        agent.meta_step(worlds, TaskDistribution(worlds.family).split("train", 4), Key(3))
        results.append(agent.theta)
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("inner_lr", float("nan")), ("inner_lr", 0.0), ("max_kl", -1.0), ("gamma", 1.5),
        ("gae_lambda", 0.0), ("inner_steps", 0), ("hidden", ()), ("hidden", (0,)),
        ("cg_iterations", 0), ("cg_damping", -1.0), ("fisher_fraction", 0.0),
        ("init_std", float("inf")), ("action_scale", -0.1), ("min_std", 1.5),
        ("min_std", 0.0),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match=field):
        MamlTrpoConfig(**{field: value})


def test_foreign_weights_are_refused() -> None:
    agent = learner()
    for tensors in ({}, {"theta": torch.zeros(3)}, agent.state_dict() | {"x": torch.zeros(1)}):
        with pytest.raises(UserError, match=r"do not fit this maml-trpo.*'(theta|x)'"):
            agent.load_state_dict(tensors)


@pytest.mark.slow
def test_it_learns_to_adapt_on_the_toy() -> None:
    """20 updates (4 s of one core): the first step towards goals never seen is six times as far."""
    worlds = TaskWorlds("point-goal", 200, threads=1)
    agent = MamlTrpo(worlds.spec, MamlTrpoConfig(inner_lr=0.5, max_kl=0.03), seed=1)
    tasks = TaskDistribution(worlds.family)
    heldout = tasks.split("heldout", 20)
    untrained = evaluate(agent, worlds, heldout, episodes=2, seed=0).mean
    for i in range(20):
        agent.meta_step(worlds, tasks.sample(20, Key(i).numpy()), Key(1, i))
    report = evaluate(agent, worlds, heldout, episodes=2, seed=0)
    assert report.mean[0] == pytest.approx(report.stand_still, rel=0.1)  # blind, it stays put
    assert report.mean[1] - report.mean[0] > 6 * (untrained[1] - untrained[0])
    assert report.mean[2] > 0.65 * report.mean[0]
    assert report.difference()[1] > 0.3 * -report.mean[0]  # the lower end of the interval

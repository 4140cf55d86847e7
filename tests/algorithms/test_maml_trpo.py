"""MAML-TRPO: gradients against finite differences, batches against loops, and a learnable toy."""

import hashlib
import json

import pytest
import safetensors.torch
import torch
from small_maml_trpo import batch, chunks, learner
from torch import Tensor
from torch.autograd import grad

from metarl import TaskDistribution, TaskWorlds
from metarl.algorithms.maml_trpo import Batch, MamlTrpo, MamlTrpoConfig, State


def surrogate(new, old, batch: Batch) -> Tensor:
    """(M,) mean over samples of −π_new / π_old A."""
    ratio = (new.log_prob(batch.action) - old.log_prob(batch.action)).exp()
    return -(ratio * batch.advantage * batch.weight).sum(1)


def plainly_adapted(agent: MamlTrpo, learned: Tensor, data: list[Batch]) -> Tensor:
    """(M, D) the parameters after the inner steps, as a plain function of what is learned."""
    size, lr = len(agent.theta), agent.config.inner_lr
    phi = learned[:size].expand(len(data[0].obs), -1).clone().requires_grad_()
    sizes = learned[size:].exp() if len(learned) > size else torch.full_like(learned, lr)
    for one in data[:-1]:
        (gradient,) = grad(agent.inner.loss(phi, one), phi)
        phi = (phi - sizes * gradient).detach().requires_grad_()
    return phi.detach()


def meta_loss(agent: MamlTrpo, learned: Tensor, data: list[Batch]) -> Tensor:
    """The mean surrogate after the inner steps, as a plain function of what is learned."""
    phi = plainly_adapted(agent, learned, data)
    old = agent.policy(agent.theta.expand(len(phi), -1) * 0.9, data[-1].obs).detach()
    return surrogate(agent.policy(phi, data[-1].obs), old, data[-1]).mean()


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("inner_steps", [1, 2, 3])
def test_meta_gradient_equals_finite_differences(inner_steps: int, learned: bool) -> None:
    agent = learner(inner_steps=inner_steps, inner_lr=0.3, learn_inner_lr=learned)
    data = [batch(seed) for seed in range(inner_steps + 1)]
    start = agent._start(agent._learned(), 4)
    phi = agent._adapted(start, data[:-1], second_order=True)[-1]
    torch.testing.assert_close(phi, plainly_adapted(agent, agent._learned(), data))
    old = agent.policy(agent.theta.expand(4, -1) * 0.9, data[-1].obs).detach()
    loss = surrogate(agent.policy(phi, data[-1].obs), old, data[-1]).mean()
    (by_task,) = grad(loss, start)
    exact = by_task.sum(0)
    assert len(exact) == (1 + learned) * len(agent.theta)
    numeric = torch.empty_like(exact)
    step = 1e-5
    for i in range(len(exact)):
        shift = torch.zeros_like(exact)
        shift[i] = step
        up, down = (meta_loss(agent, agent._learned() + s * shift, data) for s in (1, -1))
        numeric[i] = (up - down) / (2 * step)
    assert float((exact - numeric).norm() / numeric.norm()) < 1e-6


@pytest.mark.parametrize("first_order", [False, True])
def test_learned_step_sizes_are_stepped_on_saved_and_adapted_with(first_order: bool) -> None:
    agent, data = learner(learn_inner_lr=True, first_order=first_order), [batch(0), batch(1)]
    before = agent.log_lr.clone()
    step = agent._trust_region_step(*chunks(agent, data))
    assert step.accepted
    assert step.kl <= agent.config.max_kl
    assert (agent.log_lr != before).all()
    assert agent.state_dict().keys() == {"theta", "log_inner_lr"}
    saved = safetensors.torch.load(safetensors.torch.save(agent.state_dict()))
    other = learner(learn_inner_lr=True, inner_lr=0.7)
    other.load_state_dict(saved)
    adapted = [
        one.inner.adapt(State(one.theta.expand(4, -1)), data[0]).params for one in (agent, other)
    ]
    assert torch.equal(*adapted)
    torch.testing.assert_close(adapted[0], plainly_adapted(agent, agent._learned(), data))
    assert learner().state_dict().keys() == {"theta"}


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_first_order_replaces_the_jacobian_by_one_in_gradient_and_fisher(inner_steps: int) -> None:
    """FOMAML differentiates L(θ + c) and KL(π_old ‖ π_θ+c), with c = φ(θ) − θ held fixed."""
    agent = learner(first_order=True, inner_steps=inner_steps, inner_lr=0.3)
    data = [batch(seed) for seed in range(inner_steps + 1)]
    parts, tasks = chunks(agent, data)
    theta, last = agent.theta, data[-1]
    shift = plainly_adapted(agent, theta, data) - theta
    old = agent.policy(theta + shift, last.obs)

    def moved(x: Tensor):
        new = agent.policy(x + shift, last.obs)
        kl = (old.kl(new) * last.weight).sum(1).mean()
        return surrogate(new, old, last).mean(), kl

    def kl_gradient(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return grad(moved(x)[1], x)[0]

    h, rows = 1e-5, agent._gradient(parts[0], tasks)[0]
    basis = torch.eye(len(theta), dtype=torch.float64)
    numeric = torch.stack(
        [(moved(theta + h * e)[0] - moved(theta - h * e)[0]) / (2 * h) for e in basis]
    )
    assert float((rows.sum(0) - numeric).norm() / numeric.norm()) < 1e-6
    v = torch.randn(len(theta), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    hessian = (kl_gradient(theta + h * v) - kl_gradient(theta - h * v)) / (2 * h)
    product = agent._fisher_product(parts, tasks)
    assert float((product(v) - hessian).norm() / hessian.norm()) < 1e-6


def test_with_a_tiny_inner_step_first_order_is_maml() -> None:
    data, rows = [batch(0), batch(1)], []
    for first_order in (False, True):
        agent = learner(first_order=first_order, inner_lr=1e-9)
        rows.append(agent._gradient(*with_tasks(agent, data))[0])
    torch.testing.assert_close(*rows, rtol=1e-6, atol=1e-9)


def with_tasks(agent: MamlTrpo, data: list[Batch]):
    parts, tasks = chunks(agent, data)
    return parts[0], tasks


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_the_credit_of_exploration_is_that_of_the_log_likelihood(inner_steps: int) -> None:
    """E-MAML: Σ_k E[log π(a before)] Ā more, differentiated through φ_k; Ā by hand."""
    data = [batch(seed) for seed in range(inner_steps + 1)]
    plain, credited = (
        learner(inner_steps=inner_steps, inner_lr=0.3, exploration_credit=w) for w in (0.0, 0.7)
    )
    merit = torch.tensor([-2.0, -1.0, 0.0, 3.0], dtype=torch.float64) / (14 / 3) ** 0.5
    h, size = 1e-5, len(plain.theta)

    def credit(x: Tensor) -> Tensor:
        total = torch.zeros(4, dtype=torch.float64)
        for k, one in enumerate(data[:-1]):
            phi = plainly_adapted(plain, x, data[: k + 1])
            total += (plain.policy(phi, one.obs).log_prob(one.action) * one.weight).sum(1)
        return 0.7 * (merit * total).mean()

    rows = [agent._gradient(*with_tasks(agent, data))[0].sum(0) for agent in (plain, credited)]
    basis = torch.eye(size, dtype=torch.float64)
    numeric = torch.stack(
        [(credit(plain.theta + h * e) - credit(plain.theta - h * e)) / (2 * h) for e in basis]
    )
    assert float((rows[0] - rows[1] - numeric).norm() / numeric.norm()) < 1e-6


@pytest.mark.parametrize("settings", [{}, {"learn_inner_lr": True}, {"exploration_credit": 0.5}])
def test_tasks_in_chunks_make_the_same_step_to_the_bit(settings: dict) -> None:
    data, steps = [batch(0), batch(1)], []
    for size in (None, 1, 3):
        agent = learner(**settings)
        steps.append(agent._trust_region_step(*chunks(agent, data, size)))
    assert steps[0].accepted
    for step in steps[1:]:
        assert torch.equal(step.params, steps[0].params)
        assert step[1:] == steps[0][1:]


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize(("inner_steps", "min_std"), [(1, 1e-3), (2, 1e-3), (1, 1.0)])
def test_fisher_product_is_the_hessian_of_the_kl(
    inner_steps: int, min_std: float, learned: bool
) -> None:
    agent = learner(
        inner_steps=inner_steps, inner_lr=0.3, min_std=min_std, learn_inner_lr=learned
    )  # fmt: skip
    if min_std == 1.0:
        agent.theta[-agent.spec.action_size :] -= 0.5  # below the floor
    data = [batch(seed) for seed in range(inner_steps + 1)]
    product = agent._fisher_product(*chunks(agent, data))
    point = agent._learned()
    old = agent.policy(plainly_adapted(agent, point, data), data[-1].obs).detach()

    def kl_gradient(params: Tensor) -> Tensor:
        start = agent._start(params, 4)
        phi = agent._adapted(start, data[:-1], second_order=True)[-1]
        kl = (old.kl(agent.policy(phi, data[-1].obs)) * data[-1].weight).sum(1).mean()
        return grad(kl, start)[0].sum(0)

    rng = torch.Generator().manual_seed(9)
    for _ in range(3):
        v = torch.randn(len(point), generator=rng, dtype=torch.float64)
        step = 1e-5
        up, down = (kl_gradient(point + sign * step * v) for sign in (1, -1))
        numeric = (up - down) / (2 * step)
        assert float((product(v) - numeric).norm() / numeric.norm()) < 1e-6


def test_batched_tasks_equal_a_loop_over_tasks() -> None:
    agent, data = learner(inner_lr=0.3), batch(0)
    together = agent.inner.adapt(State(agent.theta.expand(4, -1)), data).params
    for m in range(4):
        alone = Batch(*(part[m : m + 1] for part in data))
        params = agent.inner.adapt(State(agent.theta[None]), alone).params
        assert torch.allclose(params[0], together[m], rtol=1e-12, atol=1e-14)


def test_inner_step_by_hand() -> None:
    """One weight a layer short of a network: the log std's gradient is E[(z² − 1) A]."""
    agent, data = learner(inner_lr=0.1), batch(2)
    params = agent.inner.adapt(State(agent.theta.expand(4, -1)), data).params
    policy = agent.policy(agent.theta.expand(4, -1), data.obs)
    z = (data.action - policy.mean) / policy.log_std.exp()
    gradient = ((z**2 - 1) * (data.advantage * data.weight)[..., None]).sum(1)
    assert torch.allclose(params[:, -2:], agent.theta[-2:] + 0.1 * gradient, rtol=1e-10)


@pytest.mark.parametrize(("trained", "sizes"), [(1, [1, 1 / 2, 1 / 3]), (2, [1, 1, 2 / 3])])
def test_steps_beyond_those_trained_for_shrink(trained: int, sizes: list[float]) -> None:
    agent, data = learner(inner_steps=trained), batch(0)
    state = agent.begin(4, 3)
    for k, size in enumerate(sizes):
        params = state.params.clone().requires_grad_()
        (gradient,) = grad(agent.inner.loss(params, data), params)
        after = agent.inner.adapt(state, data)
        expected = state.params - agent.config.inner_lr * size * gradient
        torch.testing.assert_close(after.params, expected)
        assert after.steps == k + 1
        state = after


def test_agreement_of_the_inner_gradients_by_halves() -> None:
    agent, data = learner(), batch(0)
    theta = agent.theta.expand(4, -1)
    got = agent.inner.agreement(theta, data)
    for m in range(4):
        halves = []
        for part in (slice(0, 6), slice(6, 12)):
            params = theta[m : m + 1].clone().requires_grad_()
            one = Batch(*(x[m : m + 1, part] for x in data))
            halves.append(grad(agent.inner.loss(params, one), params)[0][0])
        expected = halves[0] @ halves[1] / (halves[0].norm() * halves[1].norm())
        assert float(got[m]) == pytest.approx(float(expected), abs=1e-5)
    twice = Batch(*(torch.cat((x[:, :6], x[:, :6]), 1) for x in data))
    torch.testing.assert_close(agent.inner.agreement(theta, twice).float(), torch.ones(4))


def test_a_policy_that_was_adapted_by_an_earlier_version_is_read(tmp_path) -> None:
    from metarl.learning import checkpoint as checkpoints
    from metarl.learning.adaptation import HEADER, WEIGHTS, adapt_to, load_adapted, save_adapted

    worlds = TaskWorlds("point-goal", 3, 1)
    agent = MamlTrpo(worlds.spec, MamlTrpoConfig(hidden=(4,)))
    task = TaskDistribution(worlds.family).make(goal_x=0.5)
    path = checkpoints.save(tmp_path / "c", agent, family="point-goal", step=1, meta={})
    rounds = list(adapt_to(agent, worlds, task, episodes=2, seed=0))[2:]
    folder = save_adapted(tmp_path / "a", checkpoints.load(path), agent, task, rounds)
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    del tensors["state.steps"]
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    about = json.loads((folder / HEADER).read_text())
    del about["round"]
    about["experience"] = [0, 3, 6]
    about["sha256"] = {WEIGHTS: hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()}
    (folder / HEADER).write_text(json.dumps(about))
    _, state = load_adapted(folder)
    assert state.steps == 2
    assert torch.equal(state.params, rounds[0].state.params)


def test_masked_samples_change_nothing() -> None:
    agent, data = learner(), batch(0)
    obs, action = data.obs.clone(), data.action.clone()
    obs[0, 3], action[0, 3] = 50.0, -50.0
    changed = Batch(obs, action, data.advantage, data.weight)
    state = State(agent.theta.expand(4, -1))
    assert torch.equal(
        agent.inner.adapt(state, data).params, agent.inner.adapt(state, changed).params
    )

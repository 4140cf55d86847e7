"""MAML-TRPO: gradients against finite differences, batches against loops, and a learnable toy."""

import hashlib
import json

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.autograd import grad
from torch.distributions import Independent, Normal, kl_divergence

from envs.half_cheetah import HalfCheetahDynamics
from metarl import TaskDistribution, TaskWorlds, evaluate
from metarl.algorithms import maml_trpo
from metarl.algorithms.maml_trpo import Batch, MamlTrpo, MamlTrpoConfig, State
from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.modules.gradients.inner_loop import Phases
from metarl.worlds.vector import Spec

SPEC = Spec(3, 2, 10)


def learner(**changes: object) -> MamlTrpo:
    """A float64 learner with a policy of few parameters."""
    settings = {"hidden": (5,), "fisher_fraction": 1.0, "cg_damping": 0.0, "action_scale": 0.5}
    agent = MamlTrpo(SPEC, MamlTrpoConfig(**(settings | changes)))
    agent.theta = agent.theta.double()
    spread = 0.3 * torch.randn(len(agent.theta), generator=torch.Generator().manual_seed(7))
    agent.log_lr = agent.log_lr.double() + spread  # read only if step sizes are learned
    return agent


def batch(seed: int, tasks: int = 4, samples: int = 12) -> Batch:
    """Random data in float64; one sample of the first task is masked out."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    weight = torch.full((tasks, samples), 1 / samples, dtype=torch.float64)
    weight[0] = 1 / (samples - 1)
    weight[0, 3] = 0.0
    return Batch(draw(tasks, samples, 3), draw(tasks, samples, 2), draw(tasks, samples), weight)


def chunks(agent: MamlTrpo, data: list[Batch], size: int | None = None):
    """The data of 4 tasks, which earned 1, 2, an unknown return and 6, as an update takes it."""
    returns = torch.tensor([1.0, 2.0, torch.nan, 6.0], dtype=torch.float64)
    phases = Phases(data, [returns] * len(data), torch.zeros(4))
    return phases.chunks(size, agent.sum_tasks), 4


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

"""The clipped meta-gradient of ProMP and CAVIA against the equations, one task at a time."""

import pytest
import torch
from torch import Tensor
from torch.autograd import grad
from torch.distributions import Independent, Normal, kl_divergence

from metarl import Spec, TaskDistribution, TaskWorlds, UserError, evaluate, find_learner
from metarl.algorithms import Cavia, CaviaConfig, ProMp, ProMpConfig
from metarl.base.keys import Key
from metarl.modules.gradients.inner_loop import Batch, Phases, State
from metarl.modules.gradients.proximal import adapted_kl_weight
from metarl.modules.optim import FlatAdam

SPEC, TASKS, HIDDEN, CONTEXT = Spec(3, 2, 10), 4, 5, 2
RETURNS = torch.tensor([1.0, 2.0, torch.nan, 6.0], dtype=torch.float64)
MERIT = torch.tensor([-2.0, -1.0, 0.0, 3.0], dtype=torch.float64) / (14 / 3) ** 0.5


def learner(name: str, **changes) -> ProMp | Cavia:
    """A float64 learner of few parameters, whose steps are long enough to be clipped."""
    settings = {"hidden": (HIDDEN,), "inner_lr": 0.3, "action_scale": 1.0, "lr": 0.05, "epochs": 2,
                "clip": 0.1, "kl_weight": 0.2} | changes  # fmt: skip
    cls, config = (ProMp, ProMpConfig) if name == "promp" else (Cavia, CaviaConfig)
    if name == "cavia":
        settings["context_size"] = CONTEXT
    agent = cls(SPEC, config(**settings))
    start = agent.learned.params.detach().double()
    noise = torch.randn(len(start), generator=Key(7).torch(), dtype=torch.float64)
    agent.learned = FlatAdam(start + 0.2 * noise, settings["lr"])
    return agent


def batch(seed: int, samples: int = 12) -> Batch:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    rng, weight = Key(seed).torch(), torch.full((TASKS, samples), 1 / samples).double()
    weight[0] = 1 / (samples - 1)
    weight[0, 3] = 0.0  # masked out
    return Batch(
        draw(TASKS, samples, 3), draw(TASKS, samples, 2), draw(TASKS, samples), weight
    )  # fmt: skip


def plain_policy(agent, weights: Tensor, context: Tensor, obs: Tensor) -> Independent:
    """One task's policy of torch's own parts."""
    inputs = torch.cat((obs, context.expand(len(obs), -1)), 1)
    size = inputs.shape[1]
    w1, b1, w2, b2, log_std = weights.split([size * HIDDEN, HIDDEN, HIDDEN * 2, 2, 2])
    mean = torch.tanh(inputs @ w1.view(size, HIDDEN) + b1) @ w2.view(HIDDEN, 2) + b2
    scale = agent.config.action_scale
    return Independent(Normal(scale * mean, (scale * log_std.exp()).expand_as(mean)), 1)


def plain_chain(agent, learned: Tensor, data: list[Batch], m: int, old: list | None) -> list:
    """Task m's policies in all phases; `old` None: they are the old ones themselves."""
    config, none, lr = agent.config, learned.new_zeros(0), torch.tensor(0.3, dtype=torch.float64)
    weights, moves = None, learned
    if isinstance(agent, Cavia):
        weights, moves = learned, learned.new_zeros(CONTEXT, requires_grad=True)
    elif config.learn_inner_lr:
        moves, log_lr = learned.chunk(2)
        lr = log_lr.exp()

    def policy(moves: Tensor, obs: Tensor) -> Independent:
        both = (moves, none) if weights is None else (weights, moves)
        return plain_policy(agent, *both, obs)

    policies = []
    for k, part in enumerate(data):
        policies.append(policy(moves, part.obs[m]))
        if k < len(data) - 1:
            log_prob = policies[k].log_prob(part.action[m])
            before = log_prob.detach() if old is None else old[k].log_prob(part.action[m])
            ratio = (log_prob - before).exp()
            loss = -(ratio * part.advantage[m]) @ part.weight[m]
            moves = moves - lr * grad(loss, moves, create_graph=True)[0]
    return policies


def plain_loss(agent, learned: Tensor, data: list[Batch], old: list[list]) -> Tensor:
    config, total = agent.config, []
    for m in range(TASKS):
        new, last = plain_chain(agent, learned, data, m, old[m]), data[-1]
        ratio = (new[-1].log_prob(last.action[m]) - old[m][-1].log_prob(last.action[m])).exp()
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        gain = torch.minimum(ratio * last.advantage[m], clipped * last.advantage[m])
        loss = -gain @ last.weight[m]
        for k, part in enumerate(data[:-1]):
            kl = kl_divergence(old[m][k], new[k]) @ part.weight[m]
            loss = loss + config.kl_weight * kl / (len(data) - 1)
            moved = (new[k].log_prob(part.action[m]) - old[m][k].log_prob(part.action[m])).exp()
            loss = loss - config.exploration_credit * MERIT[m] * (moved @ part.weight[m])
        total.append(loss)
    return torch.stack(total).mean()


CASES = [
    ("promp", {}), ("promp", {"inner_steps": 2}), ("promp", {"learn_inner_lr": True}),
    ("promp", {"exploration_credit": 0.7, "task_chunk": 2}), ("cavia", {"inner_steps": 2}),
    ("cavia", {"exploration_credit": 0.7, "task_chunk": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_the_meta_gradient_equals_finite_differences(name, settings, monkeypatch) -> None:
    """At the first step, and at the second one, where the policies are no longer the old ones."""
    agent, seen = learner(name, **settings), []
    data = [batch(seed) for seed in range(agent.config.inner_steps + 1)]
    start = agent.learned.params.detach().clone().requires_grad_()
    old = [plain_chain(agent, start, data, m, None) for m in range(TASKS)]
    old = [[_detached(policy) for policy in of] for of in old]

    def step(self: FlatAdam, gradient: Tensor) -> None:
        seen.append((self.params.detach().clone(), gradient))
        taken(self, gradient)

    taken = FlatAdam.step
    monkeypatch.setattr(FlatAdam, "step", step)
    phases = Phases(data, [RETURNS] * len(data), torch.zeros(TASKS))
    metrics = agent.update([phases], Key(0))
    assert len(seen) == 2
    for at, gradient in seen:
        for seed in range(3):
            along, h = torch.randn(len(at), generator=Key(seed).torch()).double(), 1e-6
            up, down = (
                plain_loss(agent, (at + sign * h * along).requires_grad_(), data, old).item()
                for sign in (1, -1)
            )
            assert float(gradient @ along) == pytest.approx((up - down) / (2 * h), rel=1e-6)
    end = agent.learned.params.detach().clone().requires_grad_()
    assert metrics["loss"] == pytest.approx(plain_loss(agent, end, data, old).item(), rel=1e-7)


def _detached(policy: Independent) -> Independent:
    base = policy.base_dist
    return Independent(Normal(base.loc.detach(), base.scale.detach()), 1)


def test_first_order_leaves_the_second_derivatives_out() -> None:
    """With a tiny inner step there are none to leave out; otherwise they matter."""
    for lr, same in ((1e-9, True), (0.3, False)):
        ends = []
        for first_order in (False, True):
            agent = learner("promp", inner_lr=lr, first_order=first_order, epochs=1)
            data = [batch(0), batch(1)]
            agent.update([Phases(data, [RETURNS] * 2, torch.zeros(TASKS))], Key(0))
            ends.append(agent.learned.tensors()["exp_avg"])
        assert torch.allclose(*ends, rtol=1e-5, atol=1e-8) is same


def test_the_kl_weight_follows_the_divergence() -> None:
    assert [adapted_kl_weight(0.4, kl, 0.03) for kl in (0.019, 0.021, 0.044, 0.046)] == [
        0.2, 0.4, 0.4, 0.8,
    ]  # fmt: skip
    assert adapted_kl_weight(0.4, 9.0, 0.0) == 0.4
    agent, data = learner("promp", desired_kl=1e-9), [batch(0), batch(1)]
    agent.update([Phases(data, [RETURNS] * 2, torch.zeros(TASKS))], Key(0))
    assert float(agent.kl_weight) == 0.4
    assert float(agent.state_dict()["kl_weight"]) == 0.4


def test_only_the_context_adapts_and_it_begins_at_zero() -> None:
    agent = learner("cavia")
    state = agent.begin(TASKS, 3)
    assert torch.equal(state.params, torch.zeros(TASKS, CONTEXT))
    after = agent.inner().adapt(State(state.params.double()), batch(0)).params
    for m in range(TASKS):
        context = torch.zeros(CONTEXT, dtype=torch.float64, requires_grad=True)
        data = [part[m] for part in batch(0)]
        policy = plain_policy(agent, agent.learned.params.detach(), context, data[0])
        loss = -(policy.log_prob(data[1]) * data[2]) @ data[3]
        torch.testing.assert_close(after[m], -0.3 * grad(loss, context)[0])
    assert agent.adapted_state_dict(state)["state.params"].numel() == TASKS * CONTEXT


def test_chunks_cover_all_tasks_and_none_has_one_alone() -> None:
    tasks = torch.arange(7.0)
    part = Batch(tasks[:, None, None], tasks[:, None, None], tasks[:, None], tasks[:, None])
    for size, lengths in ((None, [7]), (1, [3, 2, 2]), (3, [3, 2, 2]), (4, [4, 3]), (99, [7])):
        found = Phases([part, part], [tasks, tasks], tasks).chunks(size, lambda rows: rows.sum(0))
        assert [len(chunk.merit) for chunk in found] == lengths
        assert torch.equal(torch.cat([chunk.batches[1].weight[:, 0] for chunk in found]), tasks)


def test_settings_that_cannot_work_are_refused() -> None:
    for config, name, value in (
        (ProMpConfig, "clip", 0.0), (ProMpConfig, "desired_kl", -1.0), (ProMpConfig, "epochs", 0),
        (CaviaConfig, "context_size", 0), (ProMpConfig, "min_std", 2.0),
        (CaviaConfig, "task_chunk", 0),
    ):  # fmt: skip
        with pytest.raises(UserError, match=name):
            config(**{name: value})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [("promp", {"inner_lr": 0.5, "lr": 8e-3}), ("cavia", {"inner_lr": 5.0, "lr": 8e-3}),
     ("docs/examples/anil.py:Anil", {"inner_lr": 0.5, "lr": 15e-3})],
    ids=["promp", "cavia", "anil"],
)  # fmt: skip
def test_it_learns_to_adapt_on_the_toy(name: str, settings: dict) -> None:
    """After 12 updates a step towards goals never seen gains more than it did before training."""
    worlds, cls = TaskWorlds("point-goal", 200, threads=1), find_learner(name)
    agent = cls(worlds.spec, cls.Config(**settings), seed=1)
    tasks = TaskDistribution(worlds.family)
    heldout = tasks.split("heldout", 20)
    untrained = evaluate(agent, worlds, heldout, episodes=1, seed=0).mean
    for i in range(12):
        agent.meta_step(worlds, tasks.sample(20, Key(i).numpy()), Key(1, i))
    report = evaluate(agent, worlds, heldout, episodes=2, seed=0)
    assert report.mean[1] - report.mean[0] > 3 * (untrained[1] - untrained[0])
    assert report.difference()[1] > 0.05 * -report.mean[0]  # the lower end of the interval

"""RL² (Duan et al. 2016; Wang et al. 2016): a policy with a memory that adapts as it acts.

The policy sees, besides the observation, what it did last, what reward that brought, and whether an
episode begins; its memory lasts through the episodes of a trial. Trained by PPO (Schulman et al.
2017) on whole trials, it learns to find out which task it is in and to make use of it:

    max_θ  E[min(ρ_t A_t, clip(ρ_t, 1 ± ε) A_t)],    ρ_t = π_θ(a_t | h_t) / π_old(a_t | h_t)

where h_t is the history of the trial. Advantages cross the boundaries of episodes: what exploring
costs in the first episode pays in the next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.errors import UserError, did_you_mean
from metarl.keys import Key
from metarl.learner import Learner
from metarl.memory import MEMORIES, MemoryState, make_memory
from metarl.networks import Gaussian
from metarl.normalise import RunningMoments
from metarl.returns import generalized_advantages
from metarl.rollout import Rollout, collect
from metarl.tasks import Tasks
from metarl.worlds import Spec, Step, TaskWorlds


@dataclass(frozen=True)
class Rl2Config:
    """Settings of RL²."""

    memory: Literal["gru", "lstm", "transformer", "snail"] = "gru"
    """The sequence backbone."""
    units: int = 128
    """Width of the memory."""
    hidden: int = 64
    """Width of the input's embedding, and of the hidden layer of policy and of value."""
    layers: int = 2
    """Layers of a transformer, or pairs of convolution and attention in SNAIL."""
    heads: int = 4
    """Attention heads of a transformer; each takes its part of the units."""
    context: int | None = None
    """Steps that a transformer or SNAIL looks back; default: a training trial."""
    episodes: int = 2
    """Episodes in a training trial."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 0.95
    """λ of the advantage estimation; 1 is Monte Carlo."""
    clip: float = 0.2
    """ε: how far the probability of an action may move before its gain stops to count."""
    epochs: int = 3
    """Passes over the trials of an iteration."""
    minibatches: int = 4
    """Groups of worlds in a pass, with a gradient step each."""
    lr: float = 1e-3
    """Initial step size of Adam."""
    desired_kl: float = 0.02
    """KL divergence of an iteration, in nats, that the step size is adapted to; 0 keeps it."""
    entropy_weight: float = 0.0
    """Weight of the policy's entropy."""
    value_weight: float = 0.5
    """Weight of the value function's loss."""
    max_grad_norm: float = 0.5
    """Longer gradients are scaled down to this."""
    init_std: float = 0.5
    """Initial exploration: standard deviation of an action, in units of half its range."""
    min_std: float = 0.02
    """Floor of the exploration."""
    shards: int = 4
    """Parts of a minibatch whose gradients are computed side by side, on a thread each."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        if self.memory not in MEMORIES:
            raise UserError(
                f"memory must be one of {', '.join(MEMORIES)}, not '{self.memory}'"
                f"{did_you_mean(self.memory, MEMORIES)}"
            )
        for name in ("clip", "lr", "max_grad_norm", "init_std", "min_std"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} must be positive and finite, not {value}")
        for name in ("gamma", "gae_lambda"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"{name} must be in (0, 1], not {getattr(self, name)}")
        for name in ("desired_kl", "entropy_weight", "value_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{name} must not be negative, not {value}")


_COUNTS = (
    "units", "hidden", "layers", "heads", "context", "episodes", "epochs", "minibatches", "shards",
)  # fmt: skip


class State(NamedTuple):
    """What the policy remembers of the trial, in each world."""

    memory: MemoryState


class Network(nn.Module):
    """Embedding, memory, and the heads of policy and value, which also see the embedding."""

    def __init__(self, spec: Spec, config: Rl2Config) -> None:
        """Initialise; torch's global generator decides the weights."""
        super().__init__()
        hidden, actions = config.hidden, spec.action_size
        self.embed = nn.Linear(spec.observation_size + actions + 2, hidden)
        self.memory = make_memory(
            config.memory, hidden, config.units, layers=config.layers, heads=config.heads,
            context=config.context or config.episodes * spec.horizon,
        )  # fmt: skip
        self.body = nn.Linear(self.memory.outputs + hidden, 2 * hidden)
        self.mean = nn.Linear(hidden, actions)
        self.value = nn.Linear(hidden, 1)
        self.log_std = nn.Parameter(torch.full((actions,), math.log(config.init_std)))
        self.min_log_std = math.log(config.min_std)
        for layer, gain in (
            (self.embed, 1.0), (self.body, 1.0), (self.mean, 0.01), (self.value, 1.0),
        ):  # fmt: skip
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, Tensor, MemoryState]:
        """Return the mean action (B, A), the value (B,) and the new state, given (B, inputs)."""
        embedded = torch.tanh(self.embed(x))
        remembered, state = self.memory.step(embedded, state)
        return *self._heads(embedded, remembered), state

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (T, B, A) mean actions and (T, B) values for (T, B, inputs) of whole trials."""
        embedded = torch.tanh(self.embed(x))
        return self._heads(embedded, self.memory.unroll(embedded))

    def _heads(self, embedded: Tensor, remembered: Tensor) -> tuple[Tensor, Tensor]:
        body = torch.tanh(self.body(torch.cat((remembered, embedded), -1)))
        actor, critic = body.chunk(2, -1)
        return self.mean(actor), self.value(critic).squeeze(-1)

    def policy(self, mean: Tensor) -> Gaussian:
        """Return the action distribution around a mean."""
        return Gaussian(mean, self.log_std.clamp(min=self.min_log_std))


class Batch(NamedTuple):
    """What an iteration learns from, time first."""

    inputs: Tensor
    """(T, B, I)"""
    action: Tensor
    """(T, B, A)"""
    log_prob: Tensor
    """(T, B), when it was chosen"""
    advantage: Tensor
    """(T, B), normalised"""
    target: Tensor
    """(T, B), for the value function"""
    weight: Tensor
    """(T, B), 1, or 0 where the physics diverged"""


class Rl2(Learner):
    """Recurrent PPO over whole trials."""

    name = "rl2"
    Config = Rl2Config
    config: Rl2Config

    def __init__(
        self, spec: Spec, config: Rl2Config, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the network, its optimiser and the running statistics."""
        super().__init__(spec, config, seed=seed, device=device)
        with torch.random.fork_rng([]):
            torch.manual_seed(Key(seed, "policy").uint64() >> 1)
            self.net = Network(spec, config).to(self.device)
        self.params = list(self.net.parameters())
        self.adam = Adam(self.params)
        self.lr = config.lr
        self.obs_moments = RunningMoments(spec.observation_size, self.device)
        self.reward_moments = RunningMoments(1, self.device)
        self.return_moments = RunningMoments(1, self.device)

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return an empty memory for every world."""
        return State(self.net.memory.begin(tasks * worlds))

    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Remember the step and act on it: the mean, plus noise times the std to explore."""
        action, _, state = self._act(step, state, noise if explore else None)
        return action, state

    def _act(
        self, step: Step, state: State, noise: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor], State]:
        with torch.no_grad():
            mean, value, memory = self.net.step(self._inputs(step), state.memory)
            action = mean
            if noise is not None:
                action = mean + noise * self.net.policy(mean).log_std.exp()
        return action, (mean, value), State(memory)

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Return the state as it is: acting has adapted it already."""
        return state

    def _inputs(self, step: Step | Rollout) -> Tensor:
        """(…, O + A + 2): observation, last action, its reward, and whether an episode begins.

        The first step of an episode has no last action; whether the worlds still hold the one
        before (they do when they began the episode themselves) must make no difference.
        """
        going = (~step.first)[..., None].to(step.obs.dtype)
        reward = self.reward_moments.normalise(step.prev_reward[..., None])
        return torch.cat(
            (
                self.obs_moments.normalise(step.obs), step.prev_action * going, reward * going,
                1 - going,
            ), -1,
        )  # fmt: skip

    # --- the meta-update -----------------------------------------------------------------------

    def meta_step(self, worlds: TaskWorlds, tasks: Tasks, key: Key) -> dict[str, float]:
        """Collect one trial in every world, and make PPO's gradient steps on them."""
        started = time.perf_counter()
        worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
        worlds.seed(key.fold("reset"))
        rollout, returns, mean, value, last_value = self._collect(worlds, key)
        sampled = time.perf_counter()
        batch = self._batch(rollout, mean, value, last_value)
        losses = self._update(batch, key)
        self.obs_moments.update(rollout.obs[rollout.valid])
        self.reward_moments.update(rollout.reward[rollout.valid][:, None])
        return {
            "return_before": returns[0],
            "return_after": returns[-1],
            "diverged": float(rollout.diverged.sum()),
            **losses,
            "lr": self.lr,
            "std": float(self.net.policy(mean).log_std.detach().exp().mean()),
            "seconds_sampling": sampled - started,
            "seconds_update": time.perf_counter() - sampled,
        }

    def _collect(
        self, worlds: TaskWorlds, key: Key
    ) -> tuple[Rollout, list[float], Tensor, Tensor, Tensor]:
        """Return the trials, each episode's mean return, and what the network made of each step.

        Every episode starts with a reset of all worlds, as in evaluation.
        """
        state = self.begin(len(worlds.tasks), worlds.worlds_per_task)
        recorder, parts = _Recorder(self), []
        for k in range(self.config.episodes):
            worlds.reset()
            part, state = collect(
                worlds, recorder, state, self.spec.horizon, key.fold("noise", k), explore=True
            )
            parts.append(part)
        rollout = Rollout(
            *(torch.cat(pieces) for pieces in zip(*(p[:-1] for p in parts), strict=True)),
            tasks=len(worlds.tasks),
        )
        returns = [float(part.first_episode_return().mean()) for part in parts]
        end = Step(
            rollout.next_obs[-1], rollout.action[-1].clamp(-1, 1), rollout.reward[-1],
            torch.zeros_like(rollout.first[-1]),
        )  # fmt: skip
        _, (_, last_value), _ = self._act(end, state, None)
        mean, value = (torch.stack(part) for part in zip(*recorder.heads, strict=True))
        return rollout, returns, mean, value, last_value

    @torch.no_grad()
    def _batch(self, rollout: Rollout, mean: Tensor, value: Tensor, last_value: Tensor) -> Batch:
        """Estimate advantages and value targets.

        The time limit of an episode inside the trial is no end: the value of what follows is that
        of the next episode's first step. The trial's own end bootstraps from the true successor.
        A failure has no successor; a diverged step teaches nothing, and the step before it
        bootstraps.
        """
        config, weight = self.config, rollout.valid.float()
        self.return_moments.update(discounted_sums(rollout, config.gamma)[rollout.valid][:, None])
        reward = rollout.reward / self.return_moments.std.float()
        ended = rollout.terminated | rollout.diverged
        advantage = generalized_advantages(
            torch.where(rollout.diverged, value, reward), value,
            torch.cat((value[1:], last_value[None])), ended, ended,
            gamma=config.gamma, gae_lambda=config.gae_lambda,
        )  # fmt: skip
        total = weight.sum().clamp(min=1.0)
        centred = (advantage - (advantage * weight).sum() / total) * weight
        std = (centred.square().sum() / total).sqrt()
        return Batch(
            self._inputs(rollout), rollout.action,
            self.net.policy(mean).log_prob(rollout.action), centred / (std + 1e-8),
            advantage + value, weight,
        )  # fmt: skip

    def _update(self, batch: Batch, key: Key) -> dict[str, float]:
        """Pass over the trials several times, in minibatches of worlds."""
        config, worlds = self.config, batch.weight.shape[1]
        sums: list[Tensor] = []
        with side_by_side() as pool:
            for epoch in range(config.epochs):
                order = torch.randperm(worlds, generator=key.fold("minibatches", epoch).torch())
                sums = []
                for chosen in order.chunk(min(config.minibatches, worlds)):
                    gradient, metrics = self._gradient(batch, chosen, pool)
                    self.adam.step(self.params, gradient, self.lr, config.max_grad_norm)
                    sums.append(metrics)
        policy_loss, value_loss, kl, clipped = torch.stack(sums).mean(0).tolist()
        if config.desired_kl and kl > 2 * config.desired_kl:
            self.lr = max(self.lr / 1.5, 1e-5)
        elif config.desired_kl and kl < config.desired_kl / 2:
            self.lr = min(self.lr * 1.5, 1e-2)
        return {
            "loss": policy_loss, "value_loss": value_loss, "kl": kl, "clip_fraction": clipped,
        }  # fmt: skip

    def _gradient(
        self, batch: Batch, chosen: Tensor, pool: ThreadPoolExecutor
    ) -> tuple[list[Tensor], Tensor]:
        """Return the loss's gradient on the worlds `chosen`, and its metrics.

        The minibatch is cut into as many shards whatever the number of threads, and their gradients
        are added in order: the sum has the same bits on any number of threads.
        """
        total = batch.weight[:, chosen].sum().clamp(min=1.0)

        def shard(ids: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            part = Batch(*(tensor[:, ids] for tensor in batch))
            with torch.enable_grad():
                loss, metrics = self._loss(part, total)
                return torch.autograd.grad(loss, self.params), metrics

        shards = chosen.chunk(min(self.config.shards, len(chosen)))
        done = list(pool.map(shard, [ids.to(self.device) for ids in shards]))
        gradient = [sum(parts[1:], parts[0]) for parts in zip(*(g for g, _ in done), strict=True)]
        return gradient, torch.stack([metrics for _, metrics in done]).sum(0)

    def _loss(self, part: Batch, total: Tensor) -> tuple[Tensor, Tensor]:
        """PPO's clipped surrogate, the value's Huber loss and the entropy, summed over `total`."""
        config, weight = self.config, part.weight / total
        mean, value = self.net(part.inputs)
        policy = self.net.policy(mean)
        log_ratio = policy.log_prob(part.action) - part.log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        gain = torch.minimum(ratio * part.advantage, clipped * part.advantage)
        policy_loss = -(gain * weight).sum()
        error = functional.smooth_l1_loss(value, part.target, reduction="none")
        value_loss = (error * weight).sum()
        entropy = policy.log_std.sum() * weight.sum()
        loss = policy_loss + config.value_weight * value_loss - config.entropy_weight * entropy
        with torch.no_grad():
            kl = ((ratio - 1 - log_ratio) * weight).sum()
            outside = (((ratio - 1).abs() > config.clip) * weight).sum()
            return loss, torch.stack((policy_loss, value_loss, kl, outside))

    # --- saving --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return weights, optimiser, step size and running statistics."""
        parts: dict[str, dict[str, Tensor]] = {
            "net": {name: tensor.detach() for name, tensor in self.net.state_dict().items()},
            "adam": self.adam.state_dict(),
            "obs": self.obs_moments.state_dict(),
            "reward": self.reward_moments.state_dict(),
            "return": self.return_moments.state_dict(),
        }
        named = {f"{part}.{name}": t for part, d in parts.items() for name, t in d.items()}
        return named | {"lr": torch.tensor(self.lr, dtype=torch.float64)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        mine = self.state_dict()
        differ = [
            name for name in sorted(set(mine) | set(tensors))
            if name not in mine or name not in tensors or mine[name].shape != tensors[name].shape
        ]  # fmt: skip
        if differ:
            name = differ[0]
            shapes = [tuple(d[name].shape) if name in d else None for d in (mine, tensors)]
            raise UserError(
                f"the weights do not fit this rl2: {len(differ)} tensors differ, the first of them "
                f"'{name}': expected {shapes[0]}, found {shapes[1]}"
            )

        def part(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): t for name, t in tensors.items()
                if name.startswith(prefix)
            }  # fmt: skip

        self.net.load_state_dict(part("net."))
        self.adam.load_state_dict(part("adam."))
        self.obs_moments.load_state_dict(part("obs."))
        self.reward_moments.load_state_dict(part("reward."))
        self.return_moments.load_state_dict(part("return."))
        self.lr = float(tensors["lr"])

    def adapted_state_dict(self, state: State) -> dict[str, Tensor]:
        """Return the memory, one row a world; the weights are those of the checkpoint."""
        return {f"memory.{i}": tensor.contiguous() for i, tensor in enumerate(state.memory)}


class Adam:
    """Adam (Kingma and Ba 2015) on a flat gradient of bounded norm, with its state in the open."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        """Start with no gradients seen."""
        size = sum(p.numel() for p in params)
        self.first = torch.zeros(size, device=params[0].device)
        self.second = torch.zeros(size, device=params[0].device)
        self.steps = 0

    @torch.no_grad()
    def step(
        self, params: list[nn.Parameter], gradient: list[Tensor], lr: float, max_norm: float
    ) -> None:
        """Change the parameters in place."""
        flat = torch.cat([part.flatten() for part in gradient])
        flat *= max_norm / flat.norm().clamp(min=max_norm)
        self.steps += 1
        self.first.lerp_(flat, 1 - 0.9)
        self.second.lerp_(flat.square(), 1 - 0.999)
        mean = self.first / (1 - 0.9**self.steps)
        scale = (self.second / (1 - 0.999**self.steps)).sqrt() + 1e-8
        change = (lr * mean / scale).split([p.numel() for p in params])
        for param, part in zip(params, change, strict=True):
            param -= part.view_as(param)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the moments and the number of steps."""
        return {"first": self.first, "second": self.second, "steps": torch.tensor(self.steps)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        self.first = tensors["first"].to(self.first).clone()
        self.second = tensors["second"].to(self.second).clone()
        self.steps = int(tensors["steps"])


class _Recorder:
    """Acts as a learner does, exploring, and keeps what its network made of each step."""

    def __init__(self, learner: Rl2) -> None:
        self._learner, self.device = learner, learner.device
        self.heads: list[tuple[Tensor, Tensor]] = []

    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        action, heads, state = self._learner._act(step, state, noise)
        self.heads.append(heads)
        return action, state


def discounted_sums(rollout: Rollout, gamma: float) -> Tensor:
    """Return (T, B) sums of the rewards so far in the trial, each discounted by its age."""
    total, out = torch.zeros_like(rollout.reward[0]), torch.empty_like(rollout.reward)
    for t in range(len(out)):
        total = rollout.reward[t] + gamma * total
        out[t] = total
    return out


@contextmanager
def side_by_side() -> Iterator[ThreadPoolExecutor]:
    """Give torch's threads to as many workers, on one thread each.

    A recurrence is many small products one after the other. Several threads to each of them wait
    for each other more than they compute; one thread to a share of the worlds does not.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)

"""FTML (Finn, Rajeswaran, Kakade, Levine 2019): follow the meta-leader, meta-learning online.

Tasks come one after the other, and nothing that was met is put away. Round t brings rollouts D_t,
which a buffer keeps; then the prior moves to where adapting would have gone best in all rounds so
far, and now and then the policy starts there again:

    w_{t+1} = argmin_w Σ_{k ≤ t} L(U_k(w); D_k'),    U_k(w) = w − α ∇ L(w; D_k)
    φ_{t+1} = w_{t+1} after every N rounds, else φ_t − α ∇ L(φ_t; D_t)

D_k and D_k' are two halves of a round. The argmin is a few steps of Adam, each on rounds drawn from
the buffer and differentiated through U; the policies that collected a round have moved on since,
so L is weighted by importance (`metarl.modules.gradients.remembered`). A known task would begin
with φ = w; where tasks change without notice, every N rounds have to do.

A training does the same to one prior, with all tasks of an iteration as its round; a stream of
tasks, to a prior of its own in each stream, as a part of what adapts. What a prior has learned in a
stream is never put back into the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import grad

from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_tensors, refuse_misfit, split_state
from metarl.modules.batched_ppo import Adam
from metarl.modules.gradients import inner_loop
from metarl.modules.gradients.inner_loop import InnerLoop, InnerSettings, Phases
from metarl.modules.gradients.remembered import halves, kept, weighted_loss, width
from metarl.modules.replay import TaskReplay
from metarl.modules.settings import Count, Positive
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class FtmlConfig(InnerSettings):
    """Settings of FTML."""

    lr: Positive = 1e-3
    """Step size of Adam for the prior."""
    updates: Count = 5
    """Steps of Adam after each round."""
    update_tasks: Count = 20
    """Rounds, drawn from the buffer with replacement, in such a step."""
    buffer: Count = 50
    """Rounds that the buffer keeps, of a training in all and of each stream; the oldest make way
    for new ones."""
    samples: Count = 200
    """Transitions that are kept of each half of a round, evenly spread over it."""
    max_ratio: Positive = 2.0
    """c: importance weights are cut off there."""
    max_grad_norm: Positive = 0.5
    """Bound on the norm of the prior's gradient."""
    restart: Count | None = 5
    """N: rounds after which the policy starts from the prior again; None: never."""
    online: bool = True
    """Go on learning the prior in a stream; otherwise it stays as it was trained."""


class State(NamedTuple):
    """A policy, its prior and what the prior learns from, in each of M streams."""

    params: Tensor
    """(M, D) φ"""
    prior: Tensor
    """(M, D) w"""
    first: Tensor
    """(M, D), of Adam"""
    second: Tensor
    """(M, D), of Adam"""
    steps: Tensor
    """() int64, of Adam"""
    buffer: Tensor
    """(M, K, 2, S, W) the halves of rounds, round t in place t mod K"""
    rounds: int
    """That were met"""
    seed: int
    """of what is drawn from the buffer"""
    first_task: int
    """Index of the first stream, for its draws not to depend on how streams are split"""


class Ftml(Learner):
    """Follow the meta-leader, by policy gradients."""

    name = "ftml"
    Config = FtmlConfig
    adapts_per_task = True
    adapts_on_exploration = True
    config: FtmlConfig

    def __init__(
        self, spec: Spec, config: FtmlConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the prior w, and an empty buffer."""
        super().__init__(spec, config, seed=seed, device=device)
        self.policy = config.policy(spec)
        self.inner = InnerLoop(
            self.policy, config.inner_lr, config.gamma, config.gae_lambda, config.inner_steps
        )
        self.prior = self.policy.initial(Key(seed, "policy").torch())[None].to(self.device)
        self.adam = Adam.start(self.prior)
        self.width = width(spec.observation_size, spec.action_size)
        self.buffer = TaskReplay(1, config.buffer, 2 * config.samples * self.width)

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return M copies of the prior, and nothing to learn from yet."""
        return self.begin_seeded(tasks, worlds, 0)

    def begin_seeded(self, tasks: int, worlds: int, seed: int, first_task: int = 0) -> State:
        """Return the same, with the draws of a seed."""
        prior, config = self.prior.expand(tasks, -1), self.config
        empty = prior.new_zeros(tasks, config.buffer, 2, config.samples, self.width)
        return State(prior, prior, *Adam.start(prior), empty, 0, seed, first_task)

    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Act with each stream's policy: the mean, plus noise times the std to explore."""
        acting = inner_loop.State(state.params)
        return self.inner.act(step, acting, explore=explore, noise=noise)[0], state

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Remember a round, follow the leader, and take an inner step or start from the leader."""
        batch, config, buffer = self.inner.batch(rollout), self.config, state.buffer.clone()
        slot, both = state.rounds % config.buffer, (state.params, state.params)
        buffer[:, slot] = kept(self.policy, halves(batch), both, config.samples)
        state = state._replace(buffer=buffer, rounds=state.rounds + 1)
        state = self._followed(state) if config.online else state
        begun = state.rounds % config.restart if config.restart else state.rounds
        if not begun:
            return state._replace(params=state.prior)
        moved = self.inner.adapt(inner_loop.State(state.params, begun - 1), batch)
        return state._replace(params=moved.params)

    def _followed(self, state: State) -> State:
        """Return the state with priors that fit its buffer better."""
        config, streams = self.config, len(state.prior)
        key = Key("ftml", state.seed, state.rounds)
        unit = key.normal(streams, config.updates, config.update_tasks, 1, state.first_task)
        held = min(state.rounds, config.buffer)
        slot = (torch.special.ndtr(unit[..., 0]) * held).long().clamp(max=held - 1)
        slot = slot.unflatten(1, (streams, -1)).to(self.device)  # (updates, M, n)
        prior, adam = state.prior, Adam(state.first, state.second, state.steps)
        where = torch.arange(streams, device=self.device)[:, None]
        for chosen in slot:
            rows = self._gradients(prior, state.buffer[where, chosen])
            prior, adam = adam.step(prior, rows.mean(1), config.lr, config.max_grad_norm)
        return state._replace(prior=prior, first=adam.first, second=adam.second, steps=adam.steps)

    # --- following the leader ------------------------------------------------------------------

    @torch.enable_grad()
    def _gradients(self, prior: Tensor, rounds: Tensor) -> Tensor:
        """Return (M, n, D) gradients by the priors of the loss after adapting to each round.

        Args:
            prior: (M, D).
            rounds: (M, n, 2, S, W), adapted to by the first half and judged by the second.
        """
        streams, count = rounds.shape[:2]
        start = prior.detach().repeat_interleave(count, 0).requires_grad_()
        before, after = rounds.flatten(0, 1).unbind(1)
        params = start
        for _ in range(self.config.inner_steps):
            (step,) = grad(self._loss(params, before), params, create_graph=True)
            params = params - self.config.inner_lr * step
        (rows,) = grad(self._loss(params, after), start)
        return rows.unflatten(0, (streams, count))

    def _loss(self, params: Tensor, rows: Tensor) -> Tensor:
        """Return L(φ; D), summed over (m, D) policies, each on its own rows (m, N, W)."""
        return weighted_loss(
            self.policy, params, rows, self.spec.action_size, self.config.max_ratio
        )

    # --- training ------------------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> tuple[Phases, Tensor]:
        """Roll out with the prior and after each inner step, and keep the first and the last.

        Returns:
            The returns by phase, without their batches; and rows (m, 2, S, W).
        """
        policy = inner_loop.State(self.prior.expand(len(tasks), -1))
        met = self.inner.collect(worlds, self, policy, tasks, key, self.config.inner_steps)
        prior = policy.params
        for batch in met.batches[:-1]:
            policy = self.inner.adapt(policy, batch)
        ends, both = (met.batches[0], met.batches[-1]), (prior, policy.params)
        return met._replace(batches=[]), kept(self.policy, ends, both, self.config.samples)

    def update(self, shards: Sequence[tuple[Phases, Tensor]], key: Key) -> dict[str, float]:
        """Take in the tasks of an iteration, and follow the leader of all that are remembered."""
        config, draws = self.config, key.fold("buffer").torch()
        for rows in self.ranks.every([rows.flatten(1).cpu() for _, rows in shards]):
            new = torch.ones(1, len(rows), dtype=torch.bool)
            self.buffer.add(torch.zeros(1, dtype=torch.int64), rows[None], new)
        count = max(config.update_tasks, self.ranks.shards)
        for _ in range(config.updates):
            drawn = self.buffer.sample(torch.zeros(1, dtype=torch.int64), count, draws)
            rounds = drawn.view(1, count, 2, config.samples, -1).to(self.device)
            parts = [self._gradients(self.prior, rounds[:, p]) for p in self.ranks.slices(count)]
            gradient = self.ranks.sum([part.sum(1) for part in parts]) / count
            self.prior, self.adam = self.adam.step(
                self.prior, gradient, config.lr, config.max_grad_norm
            )
        log_std = self.policy.split(self.prior)[-1]
        metrics = Phases.joined([phases for phases, _ in shards]).metrics(self.sum_tasks)
        return metrics | {"std": float(log_std.exp().mean())}

    # --- saving --------------------------------------------------------------------------------

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the prior, (1, D)."""
        return {"prior": self.prior}

    def _weights(self) -> dict[str, Tensor]:
        adam = {f"adam.{name}": tensor for name, tensor in self.adam._asdict().items()}
        return self.policy_state_dict() | adam

    def state_dict(self) -> dict[str, Tensor]:
        """Return the prior, Adam's state and the buffer."""
        held = self.buffer.state_dict().items()
        return self._weights() | {f"buffer.{name}": tensor for name, tensor in held}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        weights, (held,) = split_state(tensors, ("buffer",))
        refuse_misfit(self._weights(), weights, self.name)
        load_tensors(self._weights(), weights, self.name)
        self.buffer.load_state_dict(held)

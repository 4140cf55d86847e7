"""GrBAL (Nagabandi et al. 2019): a model that adapts at every step of an episode, and plans.

A model predicts, from observation and action, how the observation changes and what is rewarded,
both normalised. At every step it starts from the prior θ again, takes one gradient step on the last
M transitions of its world, and is what the next action is planned with:

    θ' = θ − α ∇ mean (f_θ(o_t, a_t) − (Δo_t, r_t))²    over the last M transitions
    min over θ of the same error of θ' in the K transitions that follow, through the inner step

The action is the first of the best of many sequences that the model tries, in all worlds at once.
The families' reward needs the simulator, which planning does not have: so the reward is predicted,
too, and it adapts with the rest where the task is in the reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.keys import BatchedRNG, Key
from metarl.base.versions import claim
from metarl.learning.learner import Learner, load_parts, load_tensors, refuse_misfit, state_of
from metarl.modules.optim import FlatAdam
from metarl.modules.ppo import parallel_gradient, thread_pool
from metarl.modules.replay import TaskReplay
from metarl.modules.settings import Count, CountOrZero, Layers, NonNegative, Positive, Settings
from metarl.networks.normalise import RunningMoments
from metarl.networks.task_mlp import GaussianMLP
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout, collect, mean_of_finished
from metarl.worlds.vector import Spec, Step, VecWorlds

_ROWS = 1 << 16
"""Candidates that are planned with together, of as many worlds as they belong to."""


@dataclass(frozen=True)
class GrbalConfig(Settings):
    """Settings of GrBAL."""

    adapt: Literal["gradient", "none"] = "gradient"
    """Adapt the model at every step, or plan with the prior: the same model without adaptation."""
    inner_lr: NonNegative = 0.05
    """Step size α of the adaptation."""
    past: Count = 16
    """M: transitions that the model adapts to; until there are as many, the prior plans."""
    future: Count = 16
    """K: transitions that the adapted model must predict, if an episode has them."""
    hidden: Layers = (128, 128)
    """Units of the model's hidden layers (tanh)."""
    lr: Positive = 1e-3
    """Step size of Adam."""
    updates: Count = 200
    """Gradient steps of the model in an iteration."""
    batch_size: Count = 32
    """Windows of M + K transitions in a gradient step."""
    planner: Literal["shooting", "cem", "mppi"] = "shooting"
    """Random shooting, the cross-entropy method, or a mean weighted by exponentiated returns."""
    plan_steps: Count = 10
    """Steps that are planned ahead."""
    candidates: Count = 256
    """Sequences of actions that are tried in a world, in each round of planning."""
    plan_rounds: Count = 5
    """Rounds of cem and mppi, each around what the last found; shooting has one."""
    elites: Count = 25
    """Best candidates that cem continues from."""
    temperature: Positive = 0.1
    """Of mppi's weights, in standard deviations of the candidates' returns."""
    explore_std: NonNegative = 0.1
    """Standard deviation of the noise in the actions of training."""
    replay_episodes: Count = 1000
    """Episodes that are kept for the model; the oldest make way for new ones."""
    save_replay: bool = True
    """Save these in checkpoints; without them a resumed run learns from new ones alone at first."""
    random_iterations: CountOrZero = 1
    """Iterations, from the first, that act at random."""

    def __post_init__(self) -> None:
        """Check the settings. Raises UserError for more elites than candidates."""
        super().__post_init__()
        if self.planner == "cem" and self.elites > self.candidates:
            raise UserError(f"elites ({self.elites}) must be at most candidates")


class State(NamedTuple):
    """What the model adapts to, and what names the draws of planning."""

    window: Tensor
    """(B, M, O + A + O + 1) the last transitions, the newest last"""
    known: Tensor
    """(B,) int64, how many of them there are"""
    last: Tensor
    """(B, O) the observation that was acted on last"""
    world: Tensor
    """(B, 3) int64: task, world within it, and steps so far"""
    seed: int


class Grbal(Learner):
    """Model-predictive control with a dynamics model that adapts online."""

    name = "grbal"
    Config = GrbalConfig
    config: GrbalConfig

    def __init__(
        self, spec: Spec, config: GrbalConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the model. Raises UserError if M transitions are all that an episode has."""
        super().__init__(spec, config, seed=seed, device=device)
        o, a = spec.observation_size, spec.action_size
        if config.past >= spec.horizon:
            raise UserError(f"past must be less than an episode's {spec.horizon} steps")
        self.length = min(config.past + config.future, spec.horizon)
        self.model = GaussianMLP(o + a, o + 1, config.hidden)
        theta = self.model.initial(Key(seed, "model").torch()).to(self.device)
        self.adam = FlatAdam(theta, config.lr)
        self.obs_moments = RunningMoments(o, self.device)
        self.target_moments = RunningMoments(o + 1, self.device)
        self.iterations = torch.zeros((), dtype=torch.int64)
        self._parts = {"obs": self.obs_moments, "target": self.target_moments}
        self._replay: TaskReplay | None = None

    @property
    def theta(self) -> Tensor:
        """(D,) the prior."""
        return self.adam.params.detach()

    # --- the model -----------------------------------------------------------------------------

    def predict(self, params: Tensor, obs: Tensor, action: Tensor) -> Tensor:
        """Return (n, N, O + 1) normalised changes and rewards, of n models at N inputs each."""
        return self.model.mean(params, torch.cat((self.obs_moments.normalise(obs), action), -1))

    def error(self, params: Tensor, rows: Tensor, valid: Tensor) -> Tensor:
        """Return (n,) mean squared errors of n models in the valid ones of N transitions each.

        Args:
            params: (n, D).
            rows: (n, N, O + A + O + 1) observation, action, change and reward.
            valid: (n, N) float, 0 or 1.
        """
        o, a = self.spec.observation_size, self.spec.action_size
        obs, action, target = rows.split((o, a, o + 1), -1)
        wrong = self.predict(params, obs, action) - self.target_moments.normalise(target)
        return (wrong.square().mean(-1) * valid).sum(1) / valid.sum(1).clamp(min=1)

    def adapted_params(
        self, params: Tensor, rows: Tensor, valid: Tensor, *, create_graph: bool = False
    ) -> Tensor:
        """Return (n, D) parameters after the inner step; the arguments are those of `error`."""
        with torch.enable_grad():
            start = params if create_graph else params.detach().requires_grad_()
            error = self.error(start, rows, valid).sum()  # each model has its own part of it
            (gradient,) = torch.autograd.grad(error, start, create_graph=create_graph)
        return params - self.config.inner_lr * gradient

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return empty windows."""
        return self.begin_seeded(tasks, worlds, 0)

    def begin_seeded(self, tasks: int, worlds: int, seed: int, first_task: int = 0) -> State:
        """Return empty windows, and the names of the draws of planning."""
        count, o, a = tasks * worlds, self.spec.observation_size, self.spec.action_size
        index = torch.arange(count)
        world = torch.stack((first_task + index // worlds, index % worlds, 0 * index), 1)
        window = torch.zeros(count, self.config.past, 2 * o + a + 1, device=self.device)
        known = torch.zeros(count, dtype=torch.int64, device=self.device)
        return State(window, known, window.new_zeros(count, o), world.to(self.device), seed)

    @torch.no_grad()
    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Take in the last transition, adapt the model to the window, and plan with it."""
        state = self._seen(step, state)
        draws, groups = state.world.cpu().numpy(), []
        each = max(1, _ROWS // self.config.candidates)
        for start in range(0, len(draws), each):
            part = slice(start, start + each)
            rng = BatchedRNG(
                Key("plan", state.seed), *draws[part].T, device=self.device, dtype=torch.float32
            )
            if explore and int(self.iterations) < self.config.random_iterations:
                groups.append(rng.uniform(-1, 1, self.spec.action_size))
            else:
                params = self._adapted(state.window[part], state.known[part])
                groups.append(self.plan_actions(params, step.obs[part], rng))
        action = torch.cat(groups)
        if explore and noise is not None:
            action = action + self.config.explore_std * noise
        world = state.world + torch.tensor([0, 0, 1], device=self.device)
        return action, state._replace(world=world, last=step.obs)

    def _seen(self, step: Step, state: State) -> State:
        """Return the state with what the last action did, except across the end of an episode."""
        change = step.obs - state.last
        row = torch.cat(
            (state.last, step.prev_action.clamp(-1, 1), change, step.prev_reward[:, None].float()),
            -1,
        )
        new = (~step.first & (state.world[:, 2] > 0)).to(state.window.device)
        moved = torch.cat((state.window[:, 1:], row[:, None]), 1)
        window = torch.where(new[:, None, None], moved, state.window)
        return state._replace(window=window, known=(state.known + new).clamp(max=self.config.past))

    def _adapted(self, window: Tensor, known: Tensor) -> Tensor:
        """(n, D) the models of n worlds: adapted where the window is full."""
        prior = self.theta.expand(len(window), -1)
        if self.config.adapt == "none" or not bool((full := known >= self.config.past).any()):
            return prior
        ones = window.new_ones(window.shape[:2])
        return torch.where(full[:, None], self.adapted_params(prior, window, ones), prior)

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Return the state: acting has taken in the rollout, and what ended it begins no window."""
        return state

    # --- planning ------------------------------------------------------------------------------

    def plan_actions(self, params: Tensor, obs: Tensor, rng: BatchedRNG) -> Tensor:
        """Return (n, A) first actions of the plans of n worlds.

        Args:
            params: (n, D) model of each world.
            obs: (n, O).
            rng: the draws of each world.
        """
        config, size = self.config, self.spec.action_size
        shape = (len(obs), config.candidates, config.plan_steps, size)
        count = config.candidates * config.plan_steps * size
        if config.planner == "shooting":
            tried = rng.uniform(-1, 1, count).view(shape)
            best = self.predicted_returns(params, obs, tried).argmax(1)
            return tried[torch.arange(len(obs), device=obs.device), best, 0]
        mean, std = obs.new_zeros(len(obs), 1, *shape[2:]), 1.0
        for _ in range(config.plan_rounds):
            tried = (mean + std * rng.normal(count).view(shape)).clamp(-1, 1)
            score = self.predicted_returns(params, obs, tried)
            if config.planner == "cem":
                index = score.topk(config.elites, 1).indices[..., None, None]
                std, mean = torch.std_mean(
                    tried.gather(1, index.expand(-1, -1, *shape[2:])), 1, correction=0, keepdim=True
                )
            else:
                scale = config.temperature * score.std(1, correction=0, keepdim=True) + 1e-8
                weight = ((score - score.amax(1, keepdim=True)) / scale).softmax(1)
                weight = weight[..., None, None]
                mean = (weight * tried).sum(1, keepdim=True)
                std = (weight * (tried - mean).square()).sum(1, keepdim=True).sqrt()
        return mean[:, 0, 0]

    def predicted_returns(self, params: Tensor, obs: Tensor, actions: Tensor) -> Tensor:
        """Return (n, C) normalised returns that the models predict of (n, C, H, A) actions."""
        mean, std = self.target_moments.mean.float(), self.target_moments.std.float()
        here = obs[:, None].expand(-1, actions.shape[1], -1)
        total = obs.new_zeros(actions.shape[:2])
        for t in range(actions.shape[2]):
            out = self.predict(params, here, actions[:, :, t])
            total = total + out[..., -1]
            here = here + out[..., :-1] * std[:-1] + mean[:-1]
        return total

    # --- the meta-update -----------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Rollout:
        """Collect an episode's worth of steps in every world."""
        each = worlds.num_worlds // len(tasks)
        worlds.set_tasks(tasks, each)
        worlds.seed(key.fold("reset"))
        worlds.reset()
        state = self.begin_seeded(len(tasks), each, key.fold("plan").seed(), tasks.first)
        return collect(worlds, self, state, self.spec.horizon, key, explore=True)[0]

    def update(self, shards: Sequence[Rollout], key: Key) -> dict[str, float]:
        """Take new episodes into the replay, and make gradient steps on windows of it."""
        replay, o = self._memory(), self.spec.observation_size
        packed = [_packed(part) for part in shards]
        for rows in self.ranks.every(packed):  # each rank holds all
            new = torch.ones(1, len(rows), dtype=torch.bool)
            replay.add(torch.zeros(1, dtype=torch.int64), rows[None], new)
        seen = [
            rows.view(-1, self._width)[rows.view(-1, self._width)[:, -1] > 0] for rows in packed
        ]
        self.obs_moments.update(*(rows[:, :o].to(self.device) for rows in seen), ranks=self.ranks)
        targets = (rows[:, -o - 2 : -1].to(self.device) for rows in seen)
        self.target_moments.update(*targets, ranks=self.ranks)
        before, after = self._learn(replay, key.fold("model").torch())
        self.iterations += 1
        first = self.ranks.rows(torch.cat([part.return_by_task() for part in shards]))
        mean = float(mean_of_finished(first))
        return {
            "return_before": mean, "return_after": mean, "error_prior": before,
            "error_adapted": after,
            "diverged": float(self.ranks.sum([part.diverged.sum() for part in shards])),
        }  # fmt: skip

    def _learn(self, replay: TaskReplay, draws: torch.Generator) -> tuple[float, float]:
        """Make the gradient steps; return the mean errors of prior and adapted model."""
        count, found = max(self.config.batch_size, self.ranks.shards), []
        parts = [torch.arange(part.start, part.stop) for part in self.ranks.slices(count)]
        with thread_pool() as pool:
            for _ in range(self.config.updates):
                rows, valid = self._windows(replay, count, draws)
                (gradient,), errors = parallel_gradient(
                    lambda ids, rows=rows, valid=valid: self._loss(rows[ids], valid[ids], count),
                    [self.adam.params], [[ids.to(self.device)] for ids in parts], pool, self.ranks,
                )  # fmt: skip
                self.adam.step(gradient)
                found.append(errors)
        before, after = torch.stack(found).mean(0).tolist()
        return before, after

    def _loss(self, rows: Tensor, valid: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the share of some windows in the mean loss of `count`, and both errors'."""
        prior, m = self.adam.params.expand(len(rows), -1), self.config.past
        future = rows[:, m:], valid[:, m:]
        before = self.error(prior, *future).sum() / count
        loss = after = before
        if self.config.adapt == "gradient":
            moved = self.adapted_params(prior, rows[:, :m], valid[:, :m], create_graph=True)
            loss = after = self.error(moved, *future).sum() / count
        return loss, torch.stack((before, after)).detach()

    def _windows(
        self, replay: TaskReplay, count: int, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw (n, M + K, W) successive transitions of one world, and (n, M + K) which to use."""
        rows = replay.sample(torch.zeros(1, dtype=torch.int64), count, draws)[0]
        rows = rows.view(count, self.spec.horizon, self._width)
        latest = self.spec.horizon - self.length + 1
        start = torch.randint(latest, (count, 1), generator=draws)
        rows = rows[torch.arange(count)[:, None], start + torch.arange(self.length)]
        rows = rows.to(self.device)
        return rows[..., :-1], rows[..., -1]

    @property
    def _width(self) -> int:
        return 2 * self.spec.observation_size + self.spec.action_size + 2

    def _memory(self) -> TaskReplay:
        """Return the replay, a row an episode, in the host's memory; allocated when needed."""
        if self._replay is None:
            kept, width = self.config.replay_episodes, self.spec.horizon * self._width
            claim(
                f"{kept} episodes", 4 * kept * width, torch.device("cpu"),
                f"replay_episodes (now {kept})",
            )  # fmt: skip
            self._replay = TaskReplay(1, kept, width)
        return self._replay

    # --- saving --------------------------------------------------------------------------------

    def _own(self) -> dict[str, Tensor]:
        adam = {f"adam.{name}": tensor for name, tensor in self.adam.tensors().items()}
        return {"iterations": self.iterations, **adam}

    def state_dict(self) -> dict[str, Tensor]:
        """Return model, optimiser, running statistics and, if to be saved, the replay."""
        tensors = self._own() | state_of(self._parts)
        if self._replay is not None and self.config.save_replay:
            tensors |= state_of({"replay": self._replay})
        return tensors

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the model, and the statistics that scale what it sees and predicts."""
        own = {name: t for name, t in self._own().items() if name in ("iterations", "adam.params")}
        return own | state_of(self._parts)

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned; without a replay in it, the replay is empty."""
        weights, (replay,) = TaskReplay.split_state(tensors, ("replay",))
        own = self._own()
        refuse_misfit(own | state_of(self._parts), weights, self.name)
        load_tensors(own, {name: weights[name] for name in own}, self.name)
        load_parts(self._parts, weights)
        self._replay = None
        if replay:
            self._memory().load_state_dict(replay)


def _packed(rollout: Rollout) -> Tensor:
    """Return (B, T W): a row a world, of W numbers a step.

    They are observation, action, the change of the observation, reward, and whether it is valid.
    """
    parts = (
        rollout.obs, rollout.action.clamp(-1, 1), rollout.next_obs - rollout.obs,
        rollout.reward[..., None], rollout.valid[..., None],
    )  # fmt: skip
    rows = torch.cat([part.float() for part in parts], -1)
    rows = torch.where(rollout.valid[..., None], rows, torch.zeros_like(rows))
    return rows.transpose(0, 1).flatten(1).cpu()

"""PEARL (Rakelly et al. 2019): off-policy meta-RL that infers the task as a probabilistic context.

An encoder turns each transition c of a task into a Gaussian factor, and their product is the
posterior over a latent task variable z, on which soft actor-critic conditions:

    q(z | c_1..n) ∝ Π_n N(z; μ(c_n), σ²(c_n))
    min over encoder and critics:  E[(Q(s, a, z) − y)²] + β Σ_m KL(q(z | c^m) ‖ N(0, I))

Two replays hold the data of every task of a pool: one all of it, for the actor and the critics, and
one only what was collected last with z from the prior, for the encoder, since that is what it will
see at test time. An update samples, encodes and learns for all tasks of its batch at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import grad

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_tensors, split_state, state_parts
from metarl.modules.context import ContextEncoder, Posterior, kl_from_prior, product_of_gaussians
from metarl.modules.cuda_graph import GraphedStep, can_capture
from metarl.modules.replay import Batch, Experience, TaskReplay, pack, refuse_large_rewards
from metarl.modules.sac import ActorCritic
from metarl.modules.settings import (
    Count,
    CountOrZero,
    Fraction,
    Layers,
    NonNegative,
    Positive,
    Settings,
)
from metarl.networks.normalise import RunningMoments
from metarl.tasks.distribution import Tasks
from metarl.worlds.rollout import Rollout, collect, mean_of_finished
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class PearlConfig(Settings):
    """Settings of PEARL; the defaults are the authors' for half-cheetah-vel."""

    train_tasks: Count = 100
    """Size of the pool of training tasks; each has replay buffers of its own."""
    latent_size: Count = 5
    """Dimensions of z."""
    hidden: Layers = (300, 300, 300)
    """Units of the hidden layers of policy and critics (ReLU)."""
    encoder_hidden: Layers = (200, 200, 200)
    """Units of the hidden layers of the encoder (ReLU)."""
    lr: Positive = 3e-4
    """Step size of Adam, for every network."""
    gamma: Fraction = 0.99
    """Discount."""
    target_rate: Fraction = 0.005
    """τ: how far the target critics move to the critics in each step."""
    reward_scale: Positive = 5.0
    """Factor on the reward in the critics' target, against which the temperature is weighed."""
    temperature: Positive = 1.0
    """α, the weight of the entropy; where it starts, if it is automatic."""
    automatic_temperature: bool = False
    """Adjust the temperature to keep the entropy near −A."""
    kl_weight: NonNegative = 0.1
    """β, on the KL divergence from the prior summed over tasks and dimensions."""
    policy_penalty: NonNegative = 1e-3
    """Weight of the mean squares of the policy's mean and log std, before the tanh."""
    context_next_obs: bool = False
    """Show the encoder the next observation too, for tasks that differ in their dynamics."""
    normalise: bool = False
    """Scale observations by their running mean and standard deviation."""
    bfloat16: bool = False
    """Compute the hidden layers of policy and critics in bfloat16, for processors that have it."""
    meta_batch: Count = 16
    """Tasks in a gradient step."""
    batch_size: Count = 256
    """Transitions of each task in a gradient step."""
    context_size: Count = 100
    """Transitions of each task that the encoder sees in a gradient step."""
    gradient_steps: Count = 2000
    """Gradient steps of an iteration."""
    initial_episodes: Count = 10
    """Episodes of a task when it first comes up; gradient steps begin when all tasks have them."""
    prior_episodes: Count = 2
    """Episodes of each task of an iteration with z from the prior; they replace the context."""
    posterior_episodes: CountOrZero = 3
    """Episodes of each task of an iteration with z from the posterior, for actor and critics."""
    adapt_every: CountOrZero = 10
    """When adapting, steps after which the belief is brought up to date, within an episode too; 0
    is the authors' protocol: only between episodes, the first exploration_episodes on the prior."""
    exploration_episodes: CountOrZero = 2
    """With adapt_every 0, episodes with z from the prior before the posterior is used."""
    replay_capacity: Count = 10_000
    """Transitions that are kept of each task."""
    replay_device: Literal["same", "cpu"] = "same"
    """Where the replay lies: with the learner, or in the host's memory."""
    save_replay: bool = True
    """Save the replay in checkpoints; without it a resumed run collects anew before it goes on."""
    cuda_graph: bool = True
    """Capture the gradient step as a CUDA graph where the replay is on a GPU."""


METRICS = ("critic_loss", "actor_loss", "kl", "entropy", "z_variance", "temperature")
"""What `Pearl.gradient_step` returns; kl is nats a task."""


class Pearl(Learner):
    """Soft actor-critic on a task variable that is inferred from a few episodes."""

    name = "pearl"
    unknown_reward = float("nan")
    Config = PearlConfig
    config: PearlConfig

    def __init__(
        self, spec: Spec, config: PearlConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the weights; the replay takes memory when there is something to put in."""
        super().__init__(spec, config, seed=seed, device=device)
        o, a, latent = spec.observation_size, spec.action_size, config.latent_size
        seen = (o, a + 1, o) if config.context_next_obs else (o, a + 1)
        self.context_width = sum(seen)
        self.moments = RunningMoments(o, self.device) if config.normalise else None
        self.sac = ActorCritic(
            o + latent, a, config.hidden, lr=config.lr, temperature=config.temperature,
            generator=Key(seed, "actor-critic").torch(), device=self.device,
            compute_dtype=torch.bfloat16 if config.bfloat16 else torch.float32,
        )  # fmt: skip
        self.encoder = ContextEncoder(
            seen, latent, config.encoder_hidden, lr=config.lr,
            generator=Key(seed, "encoder").torch(), device=self.device, moments=self.moments,
        )  # fmt: skip
        self.exploring_rounds = 0 if config.adapt_every else config.exploration_episodes
        self._replay_device = torch.device("cpu" if config.replay_device == "cpu" else self.device)
        self._memory: tuple[TaskReplay, TaskReplay] | None = None
        self._graph: GraphedStep | None = None
        self._noise = torch.Generator(self.device)
        self._draws = torch.Generator(self._replay_device)

    @property
    def num_train_tasks(self) -> int:
        """The size of the pool of training tasks."""
        return self.config.train_tasks

    # --- the task variable ---------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> Posterior:
        """Return the prior, with draws of z that are the same each time."""
        return self.begin_seeded(tasks, worlds, 0)

    def begin_seeded(self, tasks: int, worlds: int, seed: int, first_task: int = 0) -> Posterior:
        """Return the prior, with a seed's draws of z."""
        key = Key("pearl z", seed) if seed else Key("pearl z")
        state = self._prior(tasks, worlds, key, first_task)
        return state.with_recent(self.spec.observation_size) if self.config.adapt_every else state

    def _prior(self, tasks: int, worlds: int, key: Key, first_task: int) -> Posterior:
        latent = self.config.latent_size
        return Posterior.prior(tasks, worlds, latent, key, self.device, first_task)

    @torch.no_grad()
    def act(
        self, step: Step, state: Posterior, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, Posterior]:
        """Act on the observation and z: what is believed by now, or one draw for each episode."""
        state = state._replace(episode=state.episode + step.first)
        if state.recent is None:
            z = state.z(from_prior=state.rounds < self.config.exploration_episodes)
        else:
            limit, every = self.config.context_size, max(self.config.adapt_every, 1)
            state, z = state.observe(step, self._factors, limit=limit, every=every, draw=explore)
        x = torch.cat((self._scaled(step.obs), z), 1)
        mean, log_std = self.sac.head(self.sac.policy.params, x)
        if explore and noise is not None:
            mean = torch.addcmul(mean, log_std.exp(), noise)
        return mean.tanh(), state

    def _factors(
        self, obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return mean and variance, (…, L) each, of the factors of transitions (…)."""
        context = torch.cat((obs, action, reward[..., None], next_obs), dim=-1)
        return self.encoder(context[..., : self.context_width])

    def _scaled(self, obs: Tensor) -> Tensor:
        return self.moments.normalise(obs) if self.moments else obs

    @torch.no_grad()
    def adapt(self, state: Posterior, rollout: Rollout) -> Posterior:
        """Multiply the belief by the factors of a rollout's transitions, world by world."""
        factors = self._factors(rollout.obs, rollout.action, rollout.reward, rollout.next_obs)
        limit = None if state.recent is None else self.config.context_size
        return state.multiply(*factors, rollout.valid, limit)

    def diagnostics(self, state: Posterior) -> dict[str, Tensor]:
        """Return mean and variance of z, (B, L) each."""
        return dict(zip(("z_mean", "z_variance"), state.posterior(), strict=True))

    # --- the meta-update -----------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Experience:
        """Act in each task with z from the prior, then with z from the posterior given that."""
        if tasks.ids is None or tasks.ids.max() >= self.config.train_tasks:
            raise UserError(
                f"pearl needs tasks with ids below train_tasks = {self.config.train_tasks}, for "
                f"its replay: take them from a PooledTasks sampler"
            )
        worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
        replay, memory = self._replay()
        ids, config, each = torch.from_numpy(tasks.ids), self.config, worlds.worlds_per_task
        context = memory.select(ids)
        seen = bool((replay.size.cpu()[ids] > 0).all())
        prior = -(-(config.prior_episodes if seen else config.initial_episodes) // each)
        extra = -(-config.posterior_episodes // each) if seen else 0
        parts: list[tuple[Tensor, Tensor]] = []
        returns: list[Tensor] = []
        diverged = torch.zeros((), dtype=torch.int64, device=self.device)
        for k in range(prior + extra):
            phase = key.fold("collect", k)
            state = self._prior(len(ids), each, phase.fold("z"), tasks.first)
            if k >= prior:
                state = self._given_context(state, context, each, phase, tasks.first)
            worlds.seed(phase)
            worlds.reset()
            rollout, _ = collect(worlds, self, state, self.spec.horizon, phase, explore=True)
            refuse_large_rewards(rollout, worlds.large_reward)
            rows, valid = pack(rollout)
            if k == 0:
                context.clear(valid.any(1).nonzero()[:, 0])
            if k < prior:
                context.add(torch.arange(len(ids)), rows[..., : self.context_width], valid)
            parts.append((rows, valid))
            returns.append(rollout.first_episode_return())
            diverged += rollout.diverged.sum()
        return Experience(ids, parts, context, torch.stack(returns), diverged)

    @torch.no_grad()
    def _given_context(
        self, state: Posterior, context: TaskReplay, each: int, key: Key, first_task: int
    ) -> Posterior:
        """Return the state with the posterior given a sample of the tasks' contexts."""
        shard = (first_task,) if first_task else ()
        self._draws.manual_seed(key.fold("context", *shard).seed())
        tasks = torch.arange(len(context.size), device=context.size.device)
        rows = context.sample(tasks, self.config.context_size, self._draws)
        factors = self.encoder(rows.to(self.device).transpose(0, 1))
        mean, variance = (part.repeat_interleave(each, 1) for part in factors)
        valid = torch.ones(mean.shape[:2], dtype=torch.bool, device=self.device)
        given = state.multiply(mean, variance, valid)
        return given._replace(rounds=max(given.rounds, self.config.exploration_episodes))

    def update(self, shards: Sequence[Experience], key: Key) -> dict[str, float]:
        """Take everybody's experience into the replays, and make gradient steps on the pool."""
        replay, context = self._replay()
        for shard in (shards := self.ranks.every(shards)):  # each rank holds the whole replay
            for rows, valid in shard.parts:
                replay.add(shard.ids, rows, valid)
                if self.moments is not None:
                    self.moments.update(rows[valid][:, : self.spec.observation_size])
            context.assign(shard.ids, shard.context)
        returns = mean_of_finished(torch.cat([shard.returns for shard in shards], 1)).tolist()
        diverged = float(sum(int(shard.diverged) for shard in shards))
        before, *_, after = [returns[0], *returns]
        metrics = {"return_before": before, "return_after": after, "diverged": diverged}
        ready = bool(((replay.size > 0) & (context.size > 0)).all())
        if ready:
            metrics |= self._gradient_steps(key.fold("update"))
        return metrics | {"gradient_steps": float(self.config.gradient_steps if ready else 0)}

    def _gradient_steps(self, key: Key) -> dict[str, float]:
        """Make the gradient steps of an iteration; the host waits once, at the end."""
        self._draws.manual_seed(key.fold("replay").seed())
        self._noise.manual_seed(key.fold("noise").seed())
        total = torch.zeros(len(METRICS), device=self.device)
        step = self._captured() or self._step
        for _ in range(self.config.gradient_steps):
            total += step()
        mean = (total / self.config.gradient_steps).tolist()
        return dict(zip(METRICS, mean, strict=True))

    def _step(self) -> Tensor:
        return self.gradient_step(self.sample_batch(self._draws, self._noise))

    def _captured(self) -> GraphedStep | None:
        """Return the gradient step as a CUDA graph, or None where it cannot be one."""
        here = can_capture(self._replay_device) and self.ranks.size == 1
        if self._graph is None and here and self.config.cuda_graph:
            generators = [self._draws, self._noise]
            self._graph = GraphedStep(self._step, list(self._weights().values()), generators)
        return self._graph

    def sample_batch(self, draws: torch.Generator, noise: torch.Generator) -> Batch:
        """Draw tasks and transitions from `draws`, and noise from `noise`; nothing waits."""
        config = self.config
        return Batch.sample(
            *self._replay(), (config.meta_batch, config.batch_size, config.context_size),
            (config.latent_size, self.spec.action_size), draws, noise, self.device,
        )  # fmt: skip

    def gradient_step(self, batch: Batch) -> Tensor:
        """Make one gradient step on encoder and critics, then actor; return `METRICS`."""
        sac, encoder, ranks, config = self.sac, self.encoder.weights, self.ranks, self.config
        parts = list(batch.parts(ranks.slices(len(batch.rows))))
        found = [self._critic_gradient(part, share) for part, share in parts]
        sizes = (sac.critic.params.numel(), encoder.params.numel(), 3)
        critic, encoding, losses = ranks.sum([flat for flat, _ in found]).split(sizes)
        sac.critic.step(critic.view_as(sac.critic.params))
        encoder.step(encoding.view_as(encoder.params))
        flat = ranks.sum([sac.actor_gradient(x, part.noise, config.policy_penalty, share)
                          for (_, x), (part, share) in zip(found, parts, strict=True)])  # fmt: skip
        actor_loss, excess = sac.improve_actor(flat, temperature=config.automatic_temperature)
        sac.update_targets(config.target_rate)
        (critic_loss, kl, spread), entropy = losses.split(1), -(excess + self.spec.action_size)
        return torch.cat((critic_loss, actor_loss, kl, entropy, spread, sac.temperature()))

    def _critic_gradient(self, part: Batch, share: float) -> tuple[Tensor, Tensor]:
        """Return what a shard, a `share` of the tasks, adds to the step of critics and encoder.

        That is flat, gradients and metrics; and the features (R, F) of policy and critics. To the
        actor and to the critics' target z is a constant: it does not teach the encoder.
        """
        config, sac, weights = self.config, self.sac, self.encoder.weights.params
        if not share:  # more shards than tasks
            return weights.new_zeros(sac.critic.params.numel() + weights.numel() + 3), part.noise
        obs, action, reward, next_obs, terminated = part.columns(*self.spec[:2])
        obs, next_obs = self._scaled(obs), self._scaled(next_obs)
        mean, variance = product_of_gaussians(*self.encoder(part.context))
        z = torch.addcmul(mean, variance.sqrt(), part.z_noise)
        z = z.repeat_interleave(part.rows.shape[1], 0)  # of each task, for its transitions
        x, fixed = torch.cat((obs, z), 1), z.detach()
        target = sac.bellman_target(
            torch.cat((next_obs, fixed), 1), part.next_noise,
            config.reward_scale * reward[:, 0], config.gamma * (1.0 - terminated[:, 0]),
        )  # fmt: skip
        critic_loss = share * sac.critic_loss(sac.critic.params, x, action, target)
        kl = kl_from_prior(mean, variance)
        gradients = grad(critic_loss + config.kl_weight * kl, (sac.critic.params, weights))
        numbers = (critic_loss, kl * (share / len(mean)), share * variance.mean())
        flat = [*(g.flatten() for g in gradients), torch.stack(numbers).detach()]
        return torch.cat(flat), x.detach()

    def _replay(self) -> tuple[TaskReplay, TaskReplay]:
        """Return the replays, of everything and of the context; allocated when first needed."""
        if self._memory is None:
            config, spec = self.config, self.spec
            width = 2 * spec.observation_size + spec.action_size + 2
            episodes = max(config.initial_episodes, config.prior_episodes)
            recent = min(config.replay_capacity, episodes * spec.horizon)
            self._memory = TaskReplay.pair(
                config.train_tasks, (config.replay_capacity, recent), (width, self.context_width),
                self._replay_device, pinned=self._replay_device != self.device,
            )  # fmt: skip
        return self._memory

    # --- saving --------------------------------------------------------------------------------

    def _weights(self) -> dict[str, Tensor]:
        tensors = self.sac.tensors()
        moments = {} if self.moments is None else self.moments.state_dict()
        for part, own in (("encoder", self.encoder.weights.tensors()), ("obs", moments)):
            tensors |= {f"{part}.{name}": tensor for name, tensor in own.items()}
        return tensors

    def state_dict(self) -> dict[str, Tensor]:
        """Return networks, Adam's moments and, if there is one to be saved, the replay."""
        tensors = self._weights()
        if self._memory is not None and self.config.save_replay:
            for name, part in zip(("replay", "context"), self._memory, strict=True):
                tensors |= {f"{name}.{key}": t for key, t in part.state_dict().items()}
        return tensors

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the policy and the encoder, without Adam's moments."""
        kept = ("policy.params", "encoder.params", "obs.mean", "obs.variance", "obs.count")
        return {name: tensor for name, tensor in self._weights().items() if name in kept}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned; without a replay in it, the replay is empty."""
        weights, parts = split_state(tensors, ("replay", "context"))
        load_tensors(self._weights(), weights, self.name)
        if self.moments is not None:
            self.moments.load_state_dict(self.moments.state_dict())
        self._memory, self._graph = None, None
        if any(parts):
            for replay, part in zip(self._replay(), parts, strict=True):
                replay.load_state_dict(part)

    def upgrade_adapted(self, tensors: dict[str, Tensor], rounds: int) -> dict[str, Tensor]:
        """Add what versions whose belief changed between episodes alone did not save."""
        if "state.seen" in tensors:
            return tensors
        new = dict(state_parts(self.begin(1, len(tensors["state.episode"]))))
        new["state.seen"] += rounds * self.spec.horizon
        return tensors | {name: new[name] for name in new if "seen" in name or "recent" in name}

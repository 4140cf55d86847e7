"""VariBAD (Zintgraf et al. 2020): a policy that is told what a belief about the task says.

A memory turns what was seen of a trial into a belief about a latent task variable, at every step:

    q_t(z) = N(μ_t, σ_t²),    from o_0, a_0, r_0, o_1, …, o_t

It is learned as a variational autoencoder of trials. A draw from the belief of any step t must
predict the reward of every step i of the trial, past or future, and in families that differ in
their dynamics the next observation, too; and a belief may move from the one before it only as far
as that pays:

    max  E_t[ Σ_i E_{z ~ q_t} log p(r_i, o_{i+1} | o_i, a_i, z)  −  β KL(q_t ‖ q_{t−1}) ],
    q_{−1} = N(0, I)

The policy sees the observation and (μ_t, log σ_t), and is trained by PPO over whole trials. To it
the belief is an observation: its loss does not reach the encoder, so what is inferred is the task
and not what happens to pay at the moment.

Settings are a mixture of Gaussians in place of one, with trials in tasks that its decoder imagines
(`metarl.networks.mixture`), and contrast in place of decoders (`metarl.networks.contrastive`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.learning.learner import Learner, load_but_replay, state_of
from metarl.modules import ppo
from metarl.modules.batched_ppo import Adam, BatchedPpo, FeedForwardSettings
from metarl.modules.novelty import Bonus, BonusSettings, Visits
from metarl.modules.optim import ClippedAdam
from metarl.modules.settings import Count, Layers, NonNegative, Positive, VirtualSettings
from metarl.modules.trial_replay import TrialReplay, TrialRows
from metarl.modules.trials import SeenTrial, ending, seen_trial, with_ending
from metarl.networks.belief import BeliefEncoder, Trials, TrialVae, make_decoders
from metarl.networks.contrastive import Code, CodeEncoder, ContrastiveModel
from metarl.networks.memories.choice import MemoryName, MemoryState, make_memory
from metarl.networks.mixture import Mixture, MixtureEncoder, MixtureVae
from metarl.networks.normalise import RunningMoments
from metarl.networks.task_mlp import Gaussian
from metarl.tasks.distribution import Tasks
from metarl.worlds.reward_terms import Pay
from metarl.worlds.rollout import Rollout, mean_of_finished
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class VaribadConfig(FeedForwardSettings, BonusSettings, VirtualSettings):
    """Settings of VariBAD."""

    epochs: Count = 5
    """Passes of the policy over the transitions of an iteration."""
    batch_size: Count = 1000
    """Transitions in a gradient step of the policy, about: a pass is cut evenly."""
    memory: MemoryName = "gru"
    """The encoder's sequence backbone."""
    units: Count = 128
    """Width of the memory."""
    embedding: Count = 64
    """Width of the embedding of what the encoder sees."""
    layers: Count = 2
    """Layers of minGRU, S5 or a transformer, or pairs of convolution and attention in SNAIL."""
    heads: Count = 4
    """Attention heads of a transformer; each takes its part of the units."""
    latent_size: Count = 5
    """Dimensions of the belief."""
    objective: Literal["elbo", "mixture", "contrastive"] = "elbo"
    """What teaches the encoder: decoding a Gaussian belief or a mixture of them, or telling what
    comes from what came in other tasks."""
    episodes: Count = 2
    """Episodes in a trial, which the belief lasts through."""
    decoder_hidden: Layers = (64, 32)
    """Units of the hidden layers of the decoders (ReLU)."""
    decode_state: bool = False
    """Also predict the next observation, for tasks that differ in their dynamics."""
    kl_weight: NonNegative = 0.1
    """β, on the divergence of a belief from the one before."""
    vae_lr: Positive = 1e-3
    """Step size of Adam for encoder and decoders."""
    vae_updates: Count = 3
    """Gradient steps on encoder and decoders in an iteration."""
    vae_trials: Count = 25
    """Trials in such a step."""
    beliefs: Count = 25
    """Steps of a trial whose beliefs are decoded in such a step, at most."""
    decoded_steps: Count = 50
    """Steps that are predicted from each of them, at most."""
    categories: Count = 10
    """Components of the mixture."""
    category_temperature: Positive = 1.0
    """Temperature of the Gumbel-softmax by which learning draws a component."""
    occupancy_weight: NonNegative = 1.0
    """Weight of what the mixture is charged for its later components, relative to β."""
    ahead: Count = 10
    """Steps ahead, at most, that the contrastive objective asks for."""
    negatives: Count = 15
    """Outcomes of other tasks among which it must find the true one."""
    replay_trials: Count = 500
    """Trials that are kept for encoder and decoders; the oldest make way for new ones."""
    save_replay: bool = True
    """Save these in checkpoints; without them a resumed run learns from new ones alone at first."""
    bonus_error: NonNegative = 0.0
    """Weight of what the decoders do not explain, in the rewards that the policy learns from."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        if self.objective == "mixture" and self.categories < 2:
            raise UserError("categories must be at least 2: one alone is no mixture")
        if self.objective != "mixture" and self.virtual_share:
            raise UserError("virtual_share is of tasks of mixed categories: --objective mixture")
        if self.virtual_share and self.virtual_kinds > self.categories:
            raise UserError(f"virtual_kinds must be at most categories = {self.categories}")
        if self.objective == "contrastive" and self.vae_trials < 2:
            raise UserError("vae_trials must be at least 2: one alone has no other to contrast")
        if self.objective != "elbo" and self.bonus_error:
            raise UserError("bonus_error is what the decoders of --objective elbo do not explain")


class State(NamedTuple):
    """What is remembered of the trial in each world, and what is believed of its task."""

    memory: MemoryState
    belief: Gaussian | Mixture | Code
    """(B, L) means and log standard deviations; or what the objective has instead"""
    last: Tensor
    """(B, A + 1) what ended the last episode, from `adapt` to the next step; otherwise zeros"""


class Varibad(Learner):
    """Bayes-adaptive control: PPO on observations and beliefs."""

    name = "varibad"
    Config = VaribadConfig
    config: VaribadConfig
    discrete_actions = True

    def __init__(
        self, spec: Spec, config: VaribadConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the networks; the replay takes memory when there is something to put in."""
        super().__init__(spec, config, seed=seed, device=device)
        o = spec.observation_size
        if self.privileged and not spec.task_size:
            raise UserError(
                "the contrastive objective needs parameters by which tasks differ, and this family "
                "has none: use --objective elbo"
            )
        with torch.random.fork_rng([]):
            torch.manual_seed(Key(seed, "belief").seed())
            self.vae = self._model().to(self.device)
        self.vae_adam = ClippedAdam(list(self.vae.parameters()), config.vae_lr)
        self.obs_moments = RunningMoments(o, self.device)
        self.reward_moments = RunningMoments(1, self.device)
        told = sum(part.shape[-1] for part in self.begin(1, 1).belief)
        wide = spec._replace(observation_size=o + told)
        self.ppo = BatchedPpo(wide, config, self.device)
        self.params = self.ppo.initial(Key(seed, "policy"))
        self.adam = Adam.start(self.params)
        self.lr = torch.tensor(config.lr, dtype=torch.float64)
        self.replay = TrialReplay(
            spec, config.episodes, config.replay_trials, spec.task_size * self.privileged
        )
        self._parts = {
            "vae": self.vae, "vae_adam": self.vae_adam,
            "obs": self.obs_moments, "reward": self.reward_moments,
            "seen": self.ppo.obs_moments, "return": self.ppo.return_moments,
        }  # fmt: skip
        self.bonus = None
        if config.explores:
            sizes, key = (o, told), Key(seed, "bonus")
            self.bonus = Bonus(config, sizes, config.gamma, key, self.device)
            self._parts |= self.bonus.parts

    def _model(self) -> TrialVae | MixtureVae | ContrastiveModel:
        """Return the encoder with what it is learned with."""
        spec, config = self.spec, self.config
        o, a, latent = spec.observation_size, spec.action_size, config.latent_size
        inputs, hidden = o + a + 2, config.decoder_hidden
        memory = make_memory(
            config.memory, config.embedding, config.units, layers=config.layers,
            heads=config.heads, context=config.episodes * spec.horizon,
        )  # fmt: skip
        if config.objective == "contrastive":
            return ContrastiveModel(
                CodeEncoder(inputs, config.embedding, memory, latent), (o, a), hidden,
                ahead=config.ahead, negatives=config.negatives,
            )  # fmt: skip
        if config.objective == "mixture":
            return MixtureVae(
                MixtureEncoder(inputs, config.embedding, memory, latent, config.categories),
                make_decoders((o, a, latent), hidden, decode_state=config.decode_state),
                temperature=config.category_temperature, occupancy_weight=config.occupancy_weight,
            )  # fmt: skip
        encoder = BeliefEncoder(inputs, config.embedding, memory, latent)
        return TrialVae(encoder, (o, a, latent), hidden, decode_state=config.decode_state)

    @property
    def privileged(self) -> bool:
        """Whether training sees which task a trial is of: to contrast it with others."""
        return self.config.objective == "contrastive"

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return an empty memory and the prior, N(0, I), for every world."""
        count = tasks * worlds
        last = torch.zeros(count, self.spec.action_size + 1, device=self.device)
        encoder = self.vae.encoder
        return State(encoder.memory.begin(count), encoder.prior(count, self.device), last)

    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Update the belief and act on it: the mean action, plus noise times the std to explore."""
        action, state, _ = self.act_and_record(step, state, explore=explore, noise=noise)
        return action, state

    @torch.no_grad()
    def act_and_record(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        """Act, and record what is told of the belief, (B, 2 L), for the update."""
        belief, memory = self.vae.encoder.step(
            self._inputs(with_ending(step, state.last)), state.memory
        )
        told = torch.cat(belief, -1)
        wide, window = torch.cat((step.obs, told), -1), self.ppo.window(len(told))
        action, _ = self.ppo.act(
            self.params, step._replace(obs=wide), window, noise if explore else None
        )
        return action, State(memory, belief, torch.zeros_like(state.last)), {"belief": told}

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Take in what ended the rollout; acting has adapted the belief to the rest already."""
        return state._replace(last=ending(rollout))

    def diagnostics(self, state: State) -> dict[str, Tensor]:
        """Return mean and variance of the belief, (B, L) each, or what it has instead."""
        belief = state.belief
        if isinstance(belief, Code):
            return {"code": belief.code}
        said = {"z_mean": belief.mean, "z_variance": (2 * belief.log_std).exp()}
        return said | ({"category": belief.category} if isinstance(belief, Mixture) else {})

    def _inputs(self, step: Step | Rollout) -> Tensor:
        """(…, O + A + 2): observation, last action, its reward, and whether an episode begins."""
        reward = self.reward_moments.normalise(step.prev_reward[..., None])
        first = step.first[..., None].to(step.obs.dtype)
        return torch.cat(
            (self.obs_moments.normalise(step.obs), step.prev_action, reward, first), -1
        )

    # --- the meta-update -----------------------------------------------------------------------

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> SeenTrial:
        """Collect a trial in every world: episodes that each start with a reset of all worlds."""
        pay = self._virtual(tasks, worlds.num_worlds // len(tasks), key.fold("virtual"))
        return seen_trial(
            worlds, tasks, self, self.config.episodes, key, privileged=self.privileged, pay=pay
        )

    def _virtual(self, tasks: Tasks, worlds: int, key: Key) -> Pay | None:
        """Draw which of the trials are in imagined tasks, and return their rewards, if any are."""
        share = self.config.virtual_now(self.ppo.env_steps)
        if not (isinstance(self.vae, MixtureVae) and share and len(self.replay)):
            return None
        size, (low, high) = 1 + self.vae.imagined_from, self.replay.reward_range()
        noise = key.normal(len(tasks), 1, worlds, size, tasks.first)[0].to(self.device)
        imagined = self.vae.imagined(noise[:, 1:], self.config.virtual_kinds)

        def reward(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
            obs, after = self.obs_moments.normalise(obs), self.obs_moments.normalise(after)
            return self.reward_moments.restore(imagined(obs, action, after)).clamp(low, high)

        return Pay(torch.special.ndtr(noise[:, 0]) < share, reward)

    def update(self, shards: Sequence[SeenTrial], key: Key) -> dict[str, float]:
        """Make PPO's gradient steps on the new trials, and the autoencoder's on recent ones."""
        seen, rollouts = [shard.seen for shard in shards], [shard.real for shard in shards]
        paid = seen if self.bonus is None else self._explored(shards, self.bonus, key)
        batch = self.ppo.prepared(paid, self.params, self.ranks)
        self.params, self.adam, metrics = self.ppo.improve(
            self.params, self.adam, batch, epochs=self.config.epochs, lr=float(self.lr), key=key,
            ranks=self.ranks,
        )  # fmt: skip
        self.ppo.update_moments(seen, self.ranks)
        self.obs_moments.update(*(part.obs[part.valid] for part in rollouts), ranks=self.ranks)
        rewards = (part.reward[part.valid][:, None] for part in rollouts)
        self.reward_moments.update(*rewards, ranks=self.ranks)
        lr = ppo.next_lr(float(self.lr), metrics["kl"], self.ppo.env_steps, self.config)
        self.lr = torch.tensor(lr, dtype=torch.float64)
        returns = self.ranks.rows(torch.cat([shard.returns for shard in shards], 1), 1)
        diverged = self.ranks.sum([part.diverged.sum() for part in seen])
        virtual = [shard.virtual.double() for shard in shards] if self.config.virtual_share else []
        return {
            "return_before": float(mean_of_finished(returns[0])),
            "return_after": float(mean_of_finished(returns[-1])),
            "diverged": float(diverged), **metrics, "lr": lr, **self._learn_beliefs(rollouts, key),
            **(self.bonus.means if self.bonus else {}),
            **({"virtual": float(self.ranks.rows(torch.cat(virtual)).mean())} if virtual else {}),
        }  # fmt: skip

    def _explored(self, shards: Sequence[SeenTrial], bonus: Bonus, key: Key) -> list[Rollout]:
        """Return the trials with the bonus in their rewards, for PPO alone; learn what is known."""
        visits, rollouts, o = [], [shard.rollout for shard in shards], self.spec.observation_size
        for shard, part in zip(self.ranks.owned, shards, strict=True):
            belief, error = part.seen.next_obs[..., o:], None
            if self.config.bonus_error:
                assert isinstance(self.vae, TrialVae)
                rows = self.replay.unpacked(self.replay.packed(part.rollout))
                draws = key.fold("bonus", shard).torch()
                error = self.vae.step_error(self._trials(rows.to(self.device)), belief, draws)
            visits.append(Visits(part.rollout.next_obs, belief, error))
        paid = bonus.added(
            [shard.seen for shard in shards], visits, self.ppo.env_steps,
            self.ppo.return_moments.std, self.ranks,
        )  # fmt: skip
        bonus.learn(rollouts, visits, key, self.ranks)
        return paid

    # --- encoder and decoders ------------------------------------------------------------------

    def _learn_beliefs(self, rollouts: Sequence[Rollout], key: Key) -> dict[str, float]:
        """Take new trials into the replay, and make gradient steps on a sample of it."""
        config = self.config
        self.replay.add(rollouts, self.ranks)
        draws = key.fold("beliefs").torch()
        count, found = max(config.vae_trials, self.ranks.shards), []
        least = self.vae.encoder.memory.worth_a_thread
        with ppo.thread_pool() as pool:
            for _ in range(config.vae_updates):
                trials, chosen = self._sample(count, draws)
                gradient, metrics = ppo.parallel_gradient(
                    lambda ids, trials=trials, chosen=chosen: self.vae.loss(
                        trials, ids, chosen, config.kl_weight
                    ),
                    self.vae_adam.params,
                    [
                        ppo.trial_ids(part, config.shards, least, self.device)
                        for part in self.ranks.slices(count)
                    ],
                    pool, self.ranks,
                )  # fmt: skip
                self.vae_adam.step(gradient, config.max_grad_norm)
                found.append(metrics)
        means = torch.stack(found).mean(0).tolist()
        return dict(zip(self.vae.metrics, means, strict=True))

    def _sample(self, count: int, draws: torch.Generator) -> tuple[Trials, Any]:
        """Draw trials, and which terms of their objective to compute."""
        config, rows = self.config, self.replay.sample(count, draws)
        most = (config.beliefs, config.decoded_steps)
        chosen = self.vae.choose(count, len(rows.obs), most, draws)
        return self._trials(rows.to(self.device)), type(chosen)(
            *(t.to(self.device) for t in chosen)
        )

    def _trials(self, rows: TrialRows) -> Trials:
        """Return trials scaled."""
        inputs = self._inputs(rows.step)
        obs, after = inputs[..., : rows.obs.shape[-1]], self.obs_moments.normalise(rows.next_obs)
        gain = self.reward_moments.normalise(rows.reward[..., None])
        return Trials(inputs, obs, rows.action, gain, after, rows.valid, rows.task)

    # --- saving --------------------------------------------------------------------------------

    def _policy(self) -> dict[str, Tensor]:
        adam = {f"adam.{name}": tensor for name, tensor in self.adam._asdict().items()}
        return {"params": self.params, "lr": self.lr} | adam

    def _weights(self) -> dict[str, Tensor]:
        return self._policy() | state_of(self._parts)

    def state_dict(self) -> dict[str, Tensor]:
        """Return networks, optimisers, running statistics and, if to be saved, the replay."""
        replay = self.replay.state_dict() if self.config.save_replay else {}
        return self._weights() | {f"replay.{name}": tensor for name, tensor in replay.items()}

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return policy, encoder, and the statistics that scale what they see."""
        kept = ("params", "vae.encoder.", "obs.", "reward.", "seen.")
        return {name: t for name, t in self._weights().items() if name.startswith(kept)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned; without a replay in it, the replay is empty."""
        replay = load_but_replay(self._policy(), self._parts, tensors, self.name)
        self.replay.load_state_dict(replay)

"""ES-MAML (Song et al. 2020): meta-learning by evolution strategies, without any gradient.

A deterministic policy is judged by its returns alone, so nothing is differentiated, neither through
the policy nor through the adaptation. Directions p and q have standard normal elements:

    U_m(θ) = θ + α mean_e(F_m(θ + σ q_e) q_e) / σ                      adapting, by Monte Carlo
    U_m(θ) = argmax of F_m over θ and θ + σ q_e                        adapting, by hill climbing
    θ ← θ + β mean_m((F_m(U_m(θ + σ p_m)) − F_m(U_m(θ − σ p_m))) p_m) / σ     the meta-update

F_m is a return in task m: standardised over the queries of the task in the adaptation, and over
the differences of all tasks in the meta-update, so that tasks of other levels add no noise. Every
world of a task tries a query q_e of its own, all at once, and each is mirrored. In hill climbing θ
itself is tried again in each round: a lucky return is not kept.

With a context, a few numbers that the policy sees beside the observation, those alone adapt: in a
space of five dimensions twenty queries go a long way, in one of five thousand nowhere. What they
are to say a policy may have learned before, by being told its task (Yu et al. 2019): `start`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from metarl.algorithms.ppo import Ppo, PpoConfig
from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.learning import checkpoint as checkpoints
from metarl.learning.learner import Learner, load_tensors
from metarl.modules.settings import Count, CountOrZero, Layers, Positive, Settings
from metarl.networks.normalise import RunningMoments
from metarl.networks.task_mlp import GaussianMLP
from metarl.tasks.composition import observed
from metarl.tasks.distribution import Tasks
from metarl.tasks.registry import find_family, in_same_file
from metarl.worlds.rollout import Rollout, collect, mean_of_finished, mean_over_tasks
from metarl.worlds.vector import Spec, Step, VecWorlds


@dataclass(frozen=True)
class EsMamlConfig(Settings):
    """Settings of ES-MAML; σ and the step sizes are the authors'."""

    paths: ClassVar[tuple[str, ...]] = ("start",)
    """See `Settings`."""

    adaptation: Literal["mc", "hill-climb"] = "mc"
    """Adapt by a Monte Carlo gradient, or keep the best of what was tried."""
    inner_steps: Count = 1
    """Rounds of adaptation, each of as many episodes as a task has worlds."""
    inner_lr: Positive = 0.05
    """Step size α of the adaptation by Monte Carlo."""
    repeats: Count = 1
    """Worlds in which hill climbing tries each candidate, and takes the mean of."""
    sigma: Positive = 0.1
    """σ: standard deviation of a direction's elements."""
    lr: Positive = 0.01
    """Step size β of the meta-update."""
    hidden: Layers = (32,)
    """Units of the hidden layers (tanh)."""
    action_scale: Positive = 0.3
    """Action that one unit of network output stands for."""
    context: CountOrZero = 0
    """Numbers that the policy sees beside the observation, and that alone adapt; 0: all adapts."""
    context_sigma: Positive = 1.0
    """σ of the queries of a context; `sigma` is then that of the meta-update alone."""
    learns: Literal["all", "context"] = "all"
    """What the meta-update moves: all of the prior, or the context that adapting begins with."""
    start: str | None = None
    """Run of `ppo`, on this family or on it with +told, whose policy the prior is at first; what
    that was told of its task becomes the context."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        if self.learns == "context" and not self.context:
            raise UserError("learns context, but there is none: give context, its size")


class State(NamedTuple):
    """What adapts: one policy a task, and what its worlds try next."""

    params: Tensor
    """(M, D)"""
    queries: Tensor
    """(M, E, D) the parameters that each world tries"""
    rounds: int
    """Rounds of adaptation so far"""
    seed: int
    """of the directions"""
    first_task: int
    """Index of the first task, for its directions not to depend on how tasks are split"""


class EsMaml(Learner):
    """Evolution strategies over what evolution strategies adapt."""

    name = "es-maml"
    Config = EsMamlConfig
    adapts_per_task = True
    adapts_on_exploration = True  # the worlds try different parameters
    config: EsMamlConfig

    def __init__(
        self, spec: Spec, config: EsMamlConfig, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        """Initialise the prior policy θ, and the statistics of what it observes."""
        super().__init__(spec, config, seed=seed, device=device)
        self.policy = GaussianMLP(
            spec.observation_size + config.context, spec.action_size, config.hidden,
            action_scale=config.action_scale,
        )  # fmt: skip
        weights = self.policy.initial(Key(seed, "policy").torch()).to(self.device)
        self.theta = torch.cat((weights, weights.new_zeros(config.context)))
        self.moments = RunningMoments(spec.observation_size, self.device)

    # --- acting and adapting -------------------------------------------------------------------

    def begin(self, tasks: int, worlds: int) -> State:
        """Return M copies of the prior, and queries around it."""
        return self.begin_seeded(tasks, worlds, 0)

    def begin_seeded(self, tasks: int, worlds: int, seed: int, first_task: int = 0) -> State:
        """Return M copies of the prior, and queries of a seed around it."""
        start = State(self.theta.repeat(tasks, 1), self.theta[None], 0, seed, first_task)
        return self._with_queries(start, worlds)

    def _with_queries(self, state: State, worlds: int) -> State:
        directions = self._directions(state, worlds)
        return state._replace(queries=state.params[:, None] + self._sigma * directions)

    @property
    def _sigma(self) -> float:
        return self.config.context_sigma if self.config.context else self.config.sigma

    def _directions(self, state: State, worlds: int) -> Tensor:
        """(M, E, D) q of a round: mirrored pairs, or candidates, of which the first is 0.

        Where a context adapts, the elements before it are 0.
        """
        key, (tasks, total) = Key("queries", state.seed, state.rounds), state.params.shape
        size = self.config.context or total
        climbs = self.config.adaptation == "hill-climb"
        count = max(1, worlds // self.config.repeats) if climbs else -(-worlds // 2)
        drawn = key.normal(tasks, count, 1, size, state.first_task).movedim(0, 1).to(self.device)
        drawn = pad(drawn, (total - size, 0))
        if climbs:
            drawn[:, 0] = 0.0
            return drawn[:, torch.arange(worlds) % count]
        return torch.cat((drawn, -drawn), 1)[:, :worlds]

    def act(
        self, step: Step, state: State, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, State]:
        """Act with each task's policy, or to explore with each world's query; noise is not used."""
        obs = self.moments.normalise(step.obs)
        if explore:
            return self._mean(state.queries.flatten(0, 1), obs[:, None])[:, 0], state
        action = self._mean(state.params, obs.unflatten(0, (len(state.params), -1)))
        return action.flatten(0, 1), state

    def _mean(self, params: Tensor, obs: Tensor) -> Tensor:
        """Return (N, n, A) actions of N policies (N, D), at (N, n, O) scaled observations."""
        if size := self.config.context:
            params, context = params[:, :-size], params[:, None, -size:]
            obs = torch.cat((obs, context.expand(-1, obs.shape[1], -1)), -1)
        return self.policy.mean(params, obs)

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Move every task's policy by what its queries earned."""
        worlds = state.queries.shape[1]
        self._refuse_few(worlds)
        score = rollout.first_episode_return().reshape(len(state.params), worlds)
        moved = self._climbed if self.config.adaptation == "hill-climb" else self._stepped
        after = state._replace(params=moved(state, score), rounds=state.rounds + 1)
        return self._with_queries(after, worlds)

    def _refuse_few(self, worlds: int) -> None:
        """Raise UserError if a task has too few worlds for two things to be tried in them."""
        climbs = self.config.adaptation == "hill-climb"
        least = 2 * self.config.repeats if climbs else 2
        if worlds < least:
            raise UserError(
                f"es-maml adapts by comparing what it tries in a task's worlds, and there are too "
                f"few, {worlds}: give --rollouts-per-task {least} or more"
            )

    def _stepped(self, state: State, score: Tensor) -> Tensor:
        """(M, D) a step along the Monte Carlo gradient of (M, E) returns."""
        score = score - mean_of_finished(score)[:, None]
        score = score.nan_to_num()  # a query that diverged counts as the mean of the others
        score = (score / (score.std(1, correction=0, keepdim=True) + 1e-8)).to(state.params.dtype)
        directions = self._directions(state, score.shape[1])
        gradient = (score[..., None] * directions).mean(1) / self._sigma
        return state.params + self.config.inner_lr * gradient

    def _climbed(self, state: State, score: Tensor) -> Tensor:
        """(M, D) the best candidate by (M, E) returns; what is there already wins a draw."""
        count = max(1, score.shape[1] // self.config.repeats)
        candidate = torch.arange(score.shape[1], device=score.device) % count
        trials = torch.bincount(candidate, minlength=count)
        mean = score.new_zeros(len(score), count).index_add_(1, candidate, score) / trials
        best = mean.nan_to_num(nan=-torch.inf).argmax(1)  # one that diverges is never chosen
        return state.queries[torch.arange(len(score)), best]

    # --- the meta-update -----------------------------------------------------------------------

    def plan(self, worlds: VecWorlds, iterations: int, env_steps: int | None) -> None:
        """Begin with the policy of `start`, if there is one. Raises UserError if it does not fit.

        A run that goes on takes its own weights next.
        """
        if not self.config.start:
            return
        path = checkpoints.newest(Path(self.config.start))
        named = str(checkpoints.verify(path).get("family"))
        found = checkpoints.load(path, family=in_same_file(named, worlds.family))
        agent, family = checkpoints.restore(found), find_family(found.family)
        alike = observed(family)[1] == observed(worlds.family)[1]
        if not (isinstance(agent, Ppo) and alike and _is_plain(agent.config)):
            raise UserError(
                f"es-maml starts from a policy of ppo, without --history and --state-std, trained "
                f"on '{worlds.family.name}' or on it with +told: '{path}' is {agent.name} on "
                f"'{family.name}'"
            )
        context = agent.spec.observation_size - self.spec.observation_size
        if (hidden := agent.config.hidden) != self.config.hidden or context != self.config.context:
            units = " ".join(map(str, hidden))
            raise UserError(f"to start from '{path}', give --hidden {units} --context {context}")
        self._begin_with(agent)

    def _begin_with(self, agent: Ppo) -> None:
        """Take the policy of PPO, and the scale on which it sees observation and context."""
        moments = agent.ppo.obs_moments.state_dict()
        size = self.spec.observation_size
        self.moments.load_state_dict({k: t[:size] if t.ndim else t for k, t in moments.items()})
        weights = agent.params[:, : agent.ppo.actor.num_params].to(self.device, copy=True)
        first, *_, last, bias, _ = agent.ppo.actor.split(weights)
        first *= agent.ppo.obs_moments.weight.to(first)[:, None]  # of a context this has 1
        for layer in (last, bias):  # views
            layer /= self.config.action_scale
        self.theta = torch.cat((weights[0], self.theta[weights.shape[1] :]))

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> dict[str, Tensor]:
        """Adapt on either side of the prior, and let the adapted policies act."""
        each = worlds.num_worlds // len(tasks)
        self._refuse_few(each)
        worlds.set_tasks(tasks, each)
        size = len(self.theta) if self.config.learns == "all" else self.config.context
        p = key.fold("p").normal(len(tasks), 1, 1, size, tasks.first)[0].to(self.device)
        p = pad(p, (len(self.theta) - size, 0))
        out = {"p": p, "diverged": torch.zeros(len(tasks), device=self.device)}
        for sign in (1, -1):  # the same queries and initial states on both sides
            start = self.theta + sign * self.config.sigma * p
            state = State(start, start, 0, key.fold("queries").seed(), tasks.first)
            state = self._with_queries(state, each)
            for k in range(self.config.inner_steps + 1):
                explore = k < self.config.inner_steps
                worlds.seed(key.fold("reset", k))
                worlds.reset()
                rollout, _ = collect(worlds, self, state, self.spec.horizon, key, explore=explore)
                out[f"{sign} {k}" if explore else f"{sign} after"] = rollout.return_by_task()
                out["diverged"] += rollout.per_task(rollout.diverged).sum((1, 2))
                out["obs"] = rollout.obs[rollout.valid]
                state = self.adapt(state, rollout) if explore else state
        return out

    def update(self, shards: Sequence[dict[str, Tensor]], key: Key) -> dict[str, float]:
        """Move the prior towards the sides that adapted better."""
        data = {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
        tasks = self.sum_tasks(torch.ones_like(data["1 after"]))
        difference = (data["1 after"] - data["-1 after"]).nan_to_num()
        spread = (self.sum_tasks(difference.square()) / tasks).sqrt()
        score = (difference / (spread + 1e-8)).to(self.theta.dtype)
        gradient = self.sum_tasks(score[:, None] * data["p"]) / float(tasks) / self.config.sigma
        self.theta = self.theta + self.config.lr * gradient
        self.moments.update(*(shard["obs"] for shard in shards), ranks=self.ranks)
        names = {"return_before": "1 0", "return_after": "1 after"}
        metrics = {k: mean_over_tasks(data[v], self.sum_tasks) for k, v in names.items()}
        return metrics | {
            "diverged": float(self.sum_tasks(data["diverged"])), "spread": float(spread),
        }  # fmt: skip

    # --- saving --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return the prior, (D,), and the statistics of what it observes."""
        moments = self.moments.state_dict().items()
        return {"theta": self.theta} | {f"obs.{name}": tensor for name, tensor in moments}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        load_tensors(self.state_dict(), tensors, self.name)
        self.moments.load_state_dict(self.moments.state_dict())


def _is_plain(config: PpoConfig) -> bool:
    """Whether the actor is a function of the observation alone, and gives means alone."""
    return config.history == 1 and not config.state_std

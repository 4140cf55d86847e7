"""What a model learns from: whole episodes of transitions, and the scale of what is in them.

A transition is a row of W = O + A + O + 1 numbers: observation, action, the change of the
observation, and the reward. Families define the reward on the simulator's state and the task,
which a planner that knows observations alone does not have: so a model predicts it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.base.distributed import Ranks
from metarl.base.versions import claim
from metarl.modules.ppo import parallel_gradient, thread_pool
from metarl.modules.replay import TaskReplay
from metarl.modules.settings import Count, CountOrZero, NonNegative, Settings
from metarl.networks.normalise import RunningMoments
from metarl.worlds.rollout import Rollout, mean_of_finished
from metarl.worlds.vector import Spec, Step

Predict = Callable[[Tensor, Tensor], Tensor]
"""(n, C, O) observations and (n, C, A) actions -> (n, C, O + 1) normalised changes and rewards."""


@dataclass(frozen=True)
class TransitionSettings(Settings):
    """Settings of collecting transitions, and of keeping them."""

    explore_std: NonNegative = 0.1
    """Standard deviation of the noise in the actions of training."""
    replay_episodes: Count = 1000
    """Episodes that are kept for the model; the oldest make way for new ones."""
    save_replay: bool = True
    """Save these in checkpoints; without them a resumed run learns from new ones alone at first."""
    random_iterations: CountOrZero = 1
    """Iterations, from the first, that act at random."""


class Transitions:
    """The episodes that a model learns from, and running statistics of all that ever came."""

    def __init__(self, spec: Spec, settings: TransitionSettings, device: torch.device) -> None:
        """Start with none."""
        self.spec, self.settings, self.device = spec, settings, device
        o, a = spec.observation_size, spec.action_size
        self.width = o + a + o + 1
        """W"""
        self.obs_moments = RunningMoments(o, device)
        self.target_moments = RunningMoments(o + 1, device)
        self.moments = {"obs": self.obs_moments, "target": self.target_moments}
        self.iterations = torch.zeros((), dtype=torch.int64)
        """That have brought data."""
        self.replay: TaskReplay | None = None
        """A row an episode, in the host's memory; allocated when the first one comes."""

    def inputs(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return (…, O + A), what a model sees: the observation normalised, and the action."""
        return torch.cat((self.obs_moments.normalise(obs), action), -1)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs (…, O + A) and the normalised targets (…, O + 1) of (…, W) rows."""
        o, a = self.spec.observation_size, self.spec.action_size
        obs, action, target = rows.split((o, a, o + 1), -1)
        return self.inputs(obs, action), self.target_moments.normalise(target)

    def returns(self, predict: Predict, obs: Tensor, actions: Tensor) -> Tensor:
        """Return (n, C) normalised returns that a model predicts of (n, C, H, A) actions.

        Args:
            predict: called for one step after the other, so that it may remember.
            obs: (n, O).
            actions: of C plans in each of n worlds.
        """
        mean, std = self.target_moments.mean.float(), self.target_moments.std.float()
        here = obs[:, None].expand(-1, actions.shape[1], -1)
        total = obs.new_zeros(actions.shape[:2])
        for t in range(actions.shape[2]):
            out = predict(here, actions[:, :, t])
            total = total + out[..., -1]
            here = here + out[..., :-1] * std[:-1] + mean[:-1]
        return total

    @property
    def random(self) -> bool:
        """Whether exploring acts at random still."""
        return int(self.iterations) < self.settings.random_iterations

    # --- collecting and drawing ----------------------------------------------------------------

    def take(self, shards: Sequence[Rollout], ranks: Ranks) -> None:
        """Take in the episodes of an iteration; every rank holds all of them."""
        replay, o = self._allocated(), self.spec.observation_size
        packed = [packed_episodes(part) for part in shards]
        for rows in ranks.every(packed):
            new = torch.ones(1, len(rows), dtype=torch.bool)
            replay.add(torch.zeros(1, dtype=torch.int64), rows[None], new)
        flat = [rows.view(-1, self.width + 1) for rows in packed]
        seen = [rows[rows[:, -1] > 0].to(self.device) for rows in flat]
        self.obs_moments.update(*(rows[:, :o] for rows in seen), ranks=ranks)
        self.target_moments.update(*(rows[:, -o - 2 : -1] for rows in seen), ranks=ranks)
        self.iterations += 1

    def windows(self, count: int, length: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw (n, N, W) successive transitions of one world each, and (n, N) which to use.

        Args:
            count: n.
            length: N, at most the horizon.
            draws: on the host.
        """
        replay, horizon = self._allocated(), self.spec.horizon
        rows = replay.sample(torch.zeros(1, dtype=torch.int64), count, draws)[0]
        rows = rows.view(count, horizon, self.width + 1)
        start = torch.randint(horizon - length + 1, (count, 1), generator=draws)
        rows = rows[torch.arange(count)[:, None], start + torch.arange(length)].to(self.device)
        return rows[..., :-1], rows[..., -1]

    def _allocated(self) -> TaskReplay:
        if self.replay is None:
            kept, width = self.settings.replay_episodes, self.spec.horizon * (self.width + 1)
            claim(
                f"{kept} episodes", 4 * kept * width, torch.device("cpu"),
                f"replay_episodes (now {kept})",
            )  # fmt: skip
            self.replay = TaskReplay(1, kept, width)
        return self.replay

    # --- saving --------------------------------------------------------------------------------

    def saved_episodes(self) -> Mapping[str, TaskReplay]:
        """Return the replay by its name, if it is to be saved and there is one."""
        return {"replay": self.replay} if self.replay and self.settings.save_replay else {}

    def load_episodes(self, tensors: dict[str, Tensor]) -> None:
        """Take over a replay's tensors; none at all leave it empty."""
        self.replay = None
        if tensors:
            self._allocated().load_state_dict(tensors)


class Window(NamedTuple):
    """The last M transitions of B worlds, as far as there are as many."""

    rows: Tensor
    """(B, M, W), the newest last"""
    known: Tensor
    """(B,) int64, how many of them there are"""
    last: Tensor
    """(B, O) the observation that was acted on last"""

    @classmethod
    def empty(cls, data: Transitions, worlds: int, length: int) -> Window:
        """Return that of worlds in which nothing has happened."""
        rows = torch.zeros(worlds, length, data.width, device=data.device)
        known = torch.zeros(worlds, dtype=torch.int64, device=data.device)
        return cls(rows, known, rows.new_zeros(worlds, data.spec.observation_size))

    def after(self, step: Step, acted: Tensor) -> tuple[Window, Tensor]:
        """Return the window with what the last action did, and (B,) where that is something.

        Across the end of an episode nothing is.

        Args:
            step: what is seen now, and acted on next.
            acted: (B,) how often each world has acted.
        """
        parts = (
            self.last, step.prev_action.clamp(-1, 1), step.obs - self.last,
            step.prev_reward[:, None].float(),
        )  # fmt: skip
        new = (~step.first & (acted > 0)).to(self.rows.device)
        moved = torch.cat((self.rows[:, 1:], torch.cat(parts, -1)[:, None]), 1)
        rows = torch.where(new[:, None, None], moved, self.rows)
        known = (self.known + new).clamp(max=self.rows.shape[1])
        return Window(rows, known, step.obs), new

    @property
    def full(self) -> Tensor:
        """(B,) bool."""
        return self.known >= self.rows.shape[1]


def fit(
    data: Transitions, loss: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]],
    params: Sequence[Tensor], step: Callable[[list[Tensor]], object], draws: torch.Generator,
    ranks: Ranks, *, updates: int, windows: int, length: int,
) -> Tensor:  # fmt: skip
    """Make gradient steps on windows that are drawn anew for each; return the mean metrics.

    Args:
        data: to draw from.
        loss: rows (n, N, W) of some of the windows, which are valid (n, N), and the number of all
            -> their share of the mean loss, and metrics that add up likewise.
        params: what to differentiate with respect to.
        step: takes their gradients.
        draws: of the windows.
        ranks: that share the windows.
        updates: gradient steps.
        windows: in each of them.
        length: N.
    """
    count, found = max(windows, ranks.shards), []
    parts = [[torch.arange(part.start, part.stop)] for part in ranks.slices(count)]
    with thread_pool() as pool:
        for _ in range(updates):
            rows, valid = data.windows(count, length, draws)
            gradient, metrics = parallel_gradient(
                lambda ids, rows=rows, valid=valid: loss(rows[ids], valid[ids], count),
                params, [[ids.to(data.device) for ids in part] for part in parts], pool, ranks,
            )  # fmt: skip
            step(gradient)
            found.append(metrics)
    return torch.stack(found).mean(0)


def returns_of(shards: Sequence[Rollout], ranks: Ranks) -> dict[str, float]:
    """Return the metrics of an iteration's episodes; adaptation is within them, so both are one."""
    first = ranks.rows(torch.cat([part.return_by_task() for part in shards]))
    mean = float(mean_of_finished(first))
    diverged = float(ranks.sum([part.diverged.sum() for part in shards]))
    return {"return_before": mean, "return_after": mean, "diverged": diverged}


def packed_episodes(rollout: Rollout) -> Tensor:
    """Return (B, T (W + 1)): a row a world, of a transition and whether it is valid for each step.

    What is not valid is 0 altogether.
    """
    parts = (
        rollout.obs, rollout.action.clamp(-1, 1), rollout.next_obs - rollout.obs,
        rollout.reward[..., None], rollout.valid[..., None],
    )  # fmt: skip
    rows = torch.cat([part.float() for part in parts], -1)
    rows = torch.where(rollout.valid[..., None], rows, torch.zeros_like(rows))
    return rows.transpose(0, 1).flatten(1).cpu()

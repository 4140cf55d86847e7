"""Recording demonstrations: the episodes of any agent, as others are to see them.

They are those of an evaluation, without noise, from initial states of their own. Of an oracle (a
family with ``+told``) what the plain family observes is recorded, so that a learner that is not
told the task can be trained on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from metarl.base.errors import UserError
from metarl.base.keys import Key
from metarl.base.versions import versions
from metarl.learning.adaptation import adaptation_rounds, check_episodes
from metarl.learning.demonstrations import CHOSEN, Demonstrations
from metarl.tasks.composition import observed, untold
from metarl.tasks.distribution import Tasks
from metarl.worlds.policy import Policy
from metarl.worlds.rollout import OnStep, Rollout
from metarl.worlds.vector import VecWorlds


def record(
    policy: Policy, worlds: VecWorlds, tasks: Tasks, *, seed: int = 0, rounds: int = 0,
    split: str = CHOSEN, about: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Demonstrations:  # fmt: skip
    """Record an episode of a policy in every world.

    Args:
        policy: whose episodes; it is left as it is.
        worlds: E for each task; of a family with ``+told``, observations are recorded without that.
        tasks: M.
        seed: of initial states. They are others than those of an evaluation with this seed, so that
            nobody is tested on the episode that was shown.
        rounds: of adaptation before the episode that is recorded.
        split: that the tasks are of.
        about: what else to say of who demonstrates.
        progress: called with (steps done, in all).

    Raises:
        UserError: an episode diverged at its first step, or the arguments do not fit.
    """
    check_episodes(rounds)
    worlds.set_tasks(tasks, worlds.num_worlds // len(tasks))
    family, told = worlds.family, observed(worlds.family)[0]
    size = worlds.spec.observation_size - (worlds.told().shape[1] if told else 0)
    total = worlds.spec.horizon * (1 + rounds * (1 + policy.adapts_on_exploration))
    done = 0

    def watch(phase: str, k: int) -> OnStep:
        def on_step(_: object) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)

        return on_step

    seen = Key("demonstrations", seed).seed()
    data = [d for _, d in adaptation_rounds(policy, worlds, len(tasks), rounds, seen, watch)][-1]
    name = untold(family.name)
    plain = Tasks(name, tasks.names, tasks.values)
    facts = {
        "agent": {"family": family.name, "algorithm": policy.name}, "rounds": rounds, "seed": seed,
        "versions": versions(),
    }  # fmt: skip
    return first_episodes(data, plain, split, size, facts | dict(about or {}))


def first_episodes(
    data: Rollout, tasks: Tasks, split: str, size: int, about: Mapping[str, Any]
) -> Demonstrations:
    """Return the first episode of each world of a rollout, as demonstrations.

    Args:
        data: of the tasks' worlds, from the beginning of episodes.
        tasks: M, of the family that learners are to see.
        split: that they are of.
        size: O, the numbers of an observation to keep, from the first.
        about: see `Demonstrations`.
    """
    steps = len(data.obs)
    ends = torch.where(data.done, torch.arange(steps, device=data.obs.device)[:, None], steps)
    last = ends.min(0).values.clamp(max=steps - 1)  # (B,) the step that ends the first episode
    worlds = torch.arange(len(last), device=last.device)
    length = last + 1 - data.diverged[last, worlds].long()
    kept = torch.arange(steps, device=last.device)[:, None] < length
    if not kept[0].all():
        raise UserError(
            f"the physics diverged at the first step of {int((~kept[0]).sum())} episodes, which "
            f"would demonstrate nothing"
        )
    obs = torch.cat((data.obs, data.next_obs[-1:]))[..., :size].clone()
    obs[length, worlds] = data.next_obs[length - 1, worlds, :size]
    seen = torch.cat((kept[:1], kept))[..., None]  # one observation more than steps
    parts = {
        "obs": obs.where(seen, 0.0),
        "action": data.action.clamp(-1, 1).where(kept[..., None], 0.0),
        "reward": data.reward.where(kept, 0.0),
    }
    by_task = {name: data.per_task(part).cpu().contiguous() for name, part in parts.items()}
    ended = data.terminated[last, worlds].reshape(len(tasks), -1).cpu()
    return Demonstrations(
        tasks, split, by_task["obs"], by_task["action"], by_task["reward"],
        length.reshape(len(tasks), -1).cpu(), ended, about,
    )  # fmt: skip

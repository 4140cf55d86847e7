"""What the ranks of a run check and measure together; see `metarl.base.distributed`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from metarl.base.errors import UserError
from metarl.base.versions import versions
from metarl.evaluation.protocol import play, report_of
from metarl.learning.learner import Learner

if TYPE_CHECKING:
    from metarl.evaluation.protocol import Report
    from metarl.runs.config import TrainConfig
    from metarl.tasks.distribution import Tasks
    from metarl.worlds.factory import SizedWorlds
    from metarl.worlds.vector import VecWorlds

OF_A_RANK = {"out", "progress", "device", "threads"}
"""Settings that need not be the same on every rank."""


def meet(learner: Learner, config: TrainConfig, iteration: int) -> None:
    """Wait for all ranks, and compare them.

    Raises UserError if one has other settings, other versions or another kind of CPU, or goes on
    from another iteration; or if the learner cannot share its tasks.
    """
    if learner.ranks.shards > 1 and type(learner).meta_step is not Learner.meta_step:
        raise UserError(
            f"{learner.name} has a meta_step() of its own, so its tasks cannot be cut into shards: "
            f"define collect() and update() instead, see docs/extending.md"
        )
    if learner.ranks.size == 1:
        return
    settings = {name: value for name, value in asdict(config).items() if name not in OF_A_RANK}
    own = {
        "learner configuration": asdict(learner.config), "versions": versions(),
        "kind of CPU": torch.backends.cpu.get_cpu_capability(), "first iteration": iteration,
    }  # fmt: skip
    learner.ranks.refuse_differences(settings | own)


def refuse_apart(learner: Learner, iteration: int) -> None:
    """Raise UserError if the weights are not those of the other ranks after an iteration."""
    state = learner.policy_state_dict()
    mine = {name: repr(tensor.double().sum().item()) for name, tensor in state.items()}
    if any(other != mine for other in learner.ranks.objects(mine)):
        raise UserError(
            f"the ranks' weights differ after iteration {iteration}: {learner.name} adds something "
            f"up over tasks without `sum_tasks` or `ranks`, so its tasks cannot be shared"
        )


def evaluate_shards(
    learner: Learner, worlds: SizedWorlds, tasks: Tasks, config: TrainConfig
) -> Report:
    """Return the report on held-out tasks, of which every rank plays those of its shards."""
    played = [
        play(
            learner.in_evaluation(tasks[part]), worlds.of(part.stop - part.start), tasks[part],
            episodes=config.evaluate_episodes, seed=config.seed,
        )
        for part in learner.ranks.slices(len(tasks))
        if part.stop > part.start
    ]  # fmt: skip
    every = learner.ranks.every(played)
    return report_of(every, learner, worlds.family, tasks, split="heldout", seed=config.seed)


def refuse_other_worlds(worlds: VecWorlds, config: TrainConfig, shards: int) -> None:
    """Raise UserError unless there are as many worlds as one of the shards of tasks has."""
    needed = config.tasks_per_iteration * config.rollouts_per_task // shards
    if worlds.num_worlds != needed:
        raise UserError(
            f"worlds must be tasks_per_iteration x rollouts_per_task = {needed}, "
            f"not {worlds.num_worlds}"
            if shards == 1
            else f"worlds must be those of one of {shards} task shards, {needed}, "
            f"not {worlds.num_worlds}"
        )

"""Env steps a second of PEARL's collection, beside one gymnasium environment, batch 1.

    python benchmarks/pearl_collect.py --tasks 100 --rollouts 4 --rounds 5 --threads 4

Both act with the same policy network on observation and z. Contenders take turns, so that their
ratio survives a noisy machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import gymnasium
import torch
from common import environment, interleave, paired_ratio, write_json

from metarl import TaskDistribution, TaskWorlds, find_family
from metarl.algorithms.pearl import Pearl, PearlConfig
from metarl.base.keys import Key
from metarl.base.threads import set_threads
from metarl.modules.replay import pack
from metarl.tasks.sampler import PooledTasks
from metarl.worlds.rollout import collect


def batched(learner: Pearl, tasks: int, rollouts: int, threads: int):
    """Collect one episode in every world, and put it into the replay."""
    worlds = TaskWorlds(find_family("half-cheetah-vel"), tasks * rollouts, threads)
    drawn = PooledTasks(TaskDistribution(worlds.family), tasks, tasks).sample(0, Key(0))
    worlds.set_tasks(drawn, rollouts)
    replay, _ = learner._replay()
    ids = torch.from_numpy(drawn.ids)

    def run() -> float:
        start = time.perf_counter()
        worlds.seed(Key(0))
        worlds.reset()
        state = learner.begin(tasks, rollouts)
        rollout, _ = collect(worlds, learner, state, learner.spec.horizon, Key(0), explore=True)
        replay.add(ids, *pack(rollout))
        return worlds.num_worlds * learner.spec.horizon / (time.perf_counter() - start)

    return run


def single(learner: Pearl):
    """Step one environment, acting on one observation at a time."""
    env = gymnasium.make("HalfCheetah-v5")
    z, sac = torch.zeros(1, learner.config.latent_size), learner.sac

    @torch.no_grad()
    def run() -> float:
        torch.set_num_threads(1)
        start = time.perf_counter()
        obs, _ = env.reset(seed=0)
        for _ in range(learner.spec.horizon):
            x = torch.cat((torch.from_numpy(obs).float()[None], z), 1)
            mean, log_std = sac.head(sac.policy.params, x)
            action = (mean + log_std.exp() * torch.randn_like(mean)).tanh()
            obs, *_ = env.step(action[0].numpy())
        return learner.spec.horizon / (time.perf_counter() - start)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--rollouts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    threads = set_threads(args.threads)
    worlds = TaskWorlds(find_family("half-cheetah-vel"), 1, 1)
    config = PearlConfig(  # in training nothing adapts within the episode
        train_tasks=args.tasks, replay_capacity=2000, adapt_every=0
    )
    learner = Pearl(worlds.spec, config)
    contenders = {
        "batched": batched(learner, args.tasks, args.rollouts, threads), "single": single(learner),
    }  # fmt: skip
    for contender in contenders.values():
        contender()
    figures = interleave(contenders, args.rounds)
    ratio = paired_ratio(figures["batched"], figures["single"])
    medians = {name: statistics.median(values) for name, values in figures.items()}
    for name, value in medians.items():
        print(f"{name:<10}{value:10.0f} env steps/s")
    print(f"batched is {ratio:.1f}x")
    write_json(
        args.json,
        {
            "tasks": args.tasks, "rollouts_per_task": args.rollouts, "speedup": ratio,
            "env_steps_per_second": medians, "rounds": figures, **environment(threads),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()

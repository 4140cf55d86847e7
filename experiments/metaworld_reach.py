"""Meta-World's ML1-reach through the bridge: ``metaworld_reach.py rl2|sac``, one short run each.

`metarl bridge metaworld --python PATH` comes first. RL² meta-trains on the benchmark's train_tasks;
stable-baselines3's SAC trains on the same tasks, one drawn for each episode, and nothing tells it
which. Our evaluator plays both on the test_tasks. Writes metaworld/reach-ALGORITHM.json.
"""

import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import gymnasium
import torch
from stable_baselines3 import SAC

import metarl
from metarl.base.files import write_json
from metarl.base.keys import Key
from metarl.cli import guarded
from metarl.evaluation.measures import SUCCESS_RATE
from metarl.evaluation.protocol import Report
from metarl.tasks.bridge.families import MetaWorldFamily
from metarl.tasks.registry import find_family
from metarl.worlds.factory import make_worlds

FAMILY = "metaworld:ML1-reach-v3"


class TaskAnEpisode(gymnasium.Env):
    """One environment that draws a training task when an episode begins."""

    def __init__(self, family: MetaWorldFamily, seed: int) -> None:
        """Make it."""
        self.family, self.env = family, family.make()
        self.observation_space, self.action_space = (
            self.env.observation_space,
            self.env.action_space,
        )
        self.draws = Key("metaworld reach", seed).numpy()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode of a task."""
        super().reset(seed=seed)
        task = self.family.task_dicts(self.family.distribution.sample(1, self.draws))[0]
        return self.family.begin(self.env, task, int(self.draws.integers(2**31))), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:  # type: ignore[override]
        """Take one step."""
        return self.env.step(action)  # type: ignore[return-value]


def sac(env_steps: int, seed: int, tasks: int) -> Report:
    """Train SAC, and return what the evaluator says of it."""
    family = find_family(FAMILY)
    assert isinstance(family, MetaWorldFamily)
    model = SAC("MlpPolicy", TaskAnEpisode(family, seed), seed=seed, device="cpu")
    model.learn(env_steps)

    def act(obs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(model.predict(obs.numpy(), deterministic=True)[0])

    worlds = make_worlds(family, tasks, 1)
    return metarl.evaluate(act, worlds, tasks, episodes=0, seed=seed)


def rl2(env_steps: int, seed: int, tasks: int, out: Path) -> Report:
    """Meta-train RL², and return what the evaluator says of it."""
    run = metarl.train(
        FAMILY, "rl2", env_steps=env_steps, seed=seed, out=out, threads=1, tasks_per_iteration=10,
        rollouts_per_task=1, evaluate_every=10_000, evaluate_tasks=10, evaluate_episodes=1,
        episodes=2, progress=False, video_every=0,
    )  # fmt: skip
    return metarl.evaluate(run, tasks=tasks, episodes=1, seed=seed, threads=1)


def main(argv: list[str]) -> int:
    """Train, evaluate and write."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("algorithm", choices=("rl2", "sac"))
    parser.add_argument("--env-steps", type=int, default=None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=30, help="of the 50 test_tasks")
    parser.add_argument("--runs", default="runs", help="folder of the run")
    parser.add_argument("--results", default="experiments/results", help="folder to write to")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    began = time.perf_counter()
    if args.algorithm == "sac":
        steps = args.env_steps or 20_000
        report = sac(steps, args.seed, args.tasks)
    else:
        steps = args.env_steps or 360_000
        out = Path(args.runs) / f"metaworld-reach-rl2-seed{args.seed}"
        report = rl2(steps, args.seed, args.tasks, out)
    family = find_family(FAMILY)
    assert isinstance(family, MetaWorldFamily)
    figures = {
        "family": FAMILY, "algorithm": args.algorithm, "seed": args.seed, "env_steps": steps,
        "seconds": round(time.perf_counter() - began), "versions": family.found["versions"],
        "return": report.mean, "stand_still": report.stand_still,
        "success_rate": [sum(row) / len(row) for row in report.diagnostics[SUCCESS_RATE]],
        "report": report.to_json(),
    }  # fmt: skip
    path = Path(args.results) / "metaworld" / f"reach-{args.algorithm}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, figures)
    print("\n".join(report.summary()))
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))

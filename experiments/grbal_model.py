"""What GrBAL's model needs to adapt: ``grbal_model.py``, on transitions of random actions.

Writes results/grbal/half-cheetah-crippled-models.json: of several settings, the mean squared errors
of the prior and of the adapted model on new episodes, in the K transitions after each M. The table
on GrBAL's page is written by grbal_adaptation.py.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import torch

from metarl import TaskDistribution, TaskWorlds, collect
from metarl.algorithms.grbal import Grbal, GrbalConfig
from metarl.base.distributed import ALONE
from metarl.base.files import write_json
from metarl.base.keys import Key
from metarl.base.threads import set_threads
from metarl.base.versions import hardware, versions
from metarl.cli import guarded
from metarl.modules.model_based.transitions import packed_episodes
from metarl.worlds.rollout import Rollout

FAMILY = "half-cheetah-crippled"
FUTURE, EVERY = 16, 20
SMALL = {"hidden": (64, 64), "batch_size": 16, "lr": 1e-3, "updates": 1000, "past": 16}
LEARNED = SMALL | {"inner_lr": 0.3, "learn_inner_lr": True}
SETTINGS: tuple[dict[str, Any], ...] = (
    SMALL | {"inner_lr": 0.05, "learn_inner_lr": False},
    SMALL | {"inner_lr": 0.3, "learn_inner_lr": False},
    LEARNED,
    LEARNED | {"past": 32},
    LEARNED | {"past": 32, "updates": 3000},
    {"hidden": (128, 128), "batch_size": 8, "lr": 3e-3, "updates": 2000, "past": 32,
     "inner_lr": 0.1, "learn_inner_lr": True},
    SMALL | {"adapt": "none", "lr": 3e-3, "updates": 2000},
)  # fmt: skip


def main(argv: list[str]) -> int:
    """Measure and write."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args(argv)
    set_threads(args.threads)
    train, test = episodes(40, 1), episodes(10, 2)
    rows = []
    for settings in SETTINGS:
        rows.append(settings | errors(settings, train, test))
        print(rows[-1], flush=True)
    path = Path(__file__).parent / "results" / "grbal" / f"{FAMILY}-models.json"
    write_json(path, {
        "family": FAMILY, "env_steps": train.reward.numel(), "rows": rows,
        "command": "python experiments/grbal_model.py", "versions": versions(),
        "hardware": hardware(),
    })  # fmt: skip
    print(f"wrote {path}")
    return 0


def episodes(each: int, seed: int) -> Rollout:
    """Return an episode of random actions in `each` worlds of each of the five tasks."""
    worlds, key = TaskWorlds(FAMILY, 5 * each), Key(seed, "models")
    worlds.set_tasks(TaskDistribution(worlds.family).split("heldout", 5), each)
    worlds.seed(key)
    worlds.reset()
    agent = Grbal(worlds.spec, GrbalConfig(random_iterations=1))
    state = agent.begin_seeded(5, each, seed)
    return collect(worlds, agent, state, worlds.spec.horizon, key, explore=True)[0]


def errors(settings: dict[str, Any], train: Rollout, test: Rollout) -> dict[str, float]:
    """Return the errors on new episodes of a model that is learned from others."""
    config = GrbalConfig(**settings, future=FUTURE)
    agent, horizon = Grbal(TaskWorlds(FAMILY, 1).spec, config), len(train.obs)
    agent.data.take([train], ALONE)
    agent.model.learn(Key(7, "models").torch(), ALONE, adapt=config.adapt == "gradient")
    rows = packed_episodes(test).view(-1, horizon, agent.data.width + 1)[..., :-1]
    past, found = config.past, []
    theta = agent.model.theta.expand(len(rows), -1)
    ones = torch.ones(len(rows), FUTURE)
    for start in range(2 * EVERY, horizon - FUTURE + 1, EVERY):
        before = rows[:, start - past : start]
        moved = agent.model.adapted(theta, before, torch.ones(before.shape[:2]))
        after = rows[:, start : start + FUTURE]
        with torch.no_grad():
            both = [agent.model.error(params, after, ones).mean() for params in (theta, moved)]
        found.append(torch.stack(both))
    prior, adapted = torch.stack(found).mean(0).tolist()
    return {"prior": prior} | ({} if config.adapt == "none" else {"adapted": adapted})


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))

"""Independent witnesses: agents of stable-baselines3, trained on a family through our VecEnv view.

    python experiments/witness.py half-cheetah-dynamics ppo --env-steps 1e6 --seed 1
    python experiments/witness.py half-cheetah-vel sac --env-steps 3e5
    python experiments/witness.py half-cheetah-vel recurrent-ppo   # needs the extra `bench`

Their settings are those of stable-baselines3, not tuned. The policy is evaluated by the protocol of
`metarl evaluate` on the frozen held-out tasks, and the result has the fields of ours, with the line
``sb3-ppo`` and the like. An agent without a memory is blind to the task, as our `ppo` is;
RecurrentPPO sees no rewards, so that it can infer dynamics and no goals.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

from metarl import (
    Policy,
    TaskDistribution,
    TaskFamily,
    UserError,
    evaluate,
    find_family,
    make_worlds,
)
from metarl.adapters import SB3VecEnv
from metarl.base.files import write_json
from metarl.base.threads import set_threads
from metarl.base.versions import hardware, versions
from metarl.cli import guarded
from metarl.evaluation.protocol import Report
from metarl.runs.progress import say
from metarl.worlds.vector import Step

RESULTS = Path(__file__).parent / "results" / "witness"
AGENTS = ("ppo", "sac", "recurrent-ppo")


class Witness(Policy):
    """An agent of stable-baselines3 as a policy."""

    def __init__(self, model: Any, name: str) -> None:
        """Take over a trained agent."""
        self.model = model
        self.name = name

    def act(
        self, step: Step, state: Any, *, explore: bool, noise: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Return the deterministic actions, and the state of a memory if there is one."""
        scaled, obs = self.model.get_vec_normalize_env(), step.obs.numpy()
        action, state = self.model.predict(
            obs if scaled is None else scaled.normalize_obs(obs),
            state=state, episode_start=step.first.numpy(), deterministic=True,
        )  # fmt: skip
        return torch.from_numpy(np.asarray(action, np.float32)), state


def make_agent(name: str, env: Any, seed: int, **settings: Any) -> Any:
    """Return an untrained agent with its library's settings but for those given.

    Raises:
        UserError: the library of the agent is not installed, or takes no such seed.
    """
    import stable_baselines3 as sb3

    if not 0 <= seed < 2**32:
        raise UserError(f"a seed of stable-baselines3 is in [0, 2^32), not {seed}")
    if name == "ppo":
        return sb3.PPO("MlpPolicy", env, seed=seed, device="cpu", **settings)
    if name == "sac":
        return sb3.SAC("MlpPolicy", env, seed=seed, device="cpu", **settings)
    return contrib().RecurrentPPO("MlpLstmPolicy", env, seed=seed, device="cpu", **settings)


def contrib() -> Any:
    """Return the module of sb3-contrib. Raises UserError where it is not installed."""
    try:
        import sb3_contrib
    except ImportError:
        raise UserError("recurrent-ppo needs sb3-contrib: pip install sb3-contrib") from None
    return sb3_contrib


def held_out(policy: Policy, family: TaskFamily, tasks: int, threads: int) -> dict[str, Report]:
    """Evaluate a policy on so many tasks of every held-out split: its name -> the report."""
    distribution, reports = TaskDistribution(family), {}
    for split in ("heldout", *(("ood",) if distribution.has_ood else ())):
        chosen = distribution.split(split, tasks)
        worlds = make_worlds(family, 4 * len(chosen), threads)
        reports[split] = evaluate(policy, worlds, chosen, episodes=0, seed=0, split=split)
    return reports


def main(argv: list[str]) -> int:
    """Train and test one witness."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", help="a registered name or a product")
    parser.add_argument("agent", choices=AGENTS)
    parser.add_argument("--env-steps", type=float, default=1e6, help="of training (default: 1e6)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worlds", type=int, default=8, help="environments (default: 8)")
    parser.add_argument("--tasks", type=int, default=30, help="held-out tasks (default: 30)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result")
    args = parser.parse_args(argv)
    if args.worlds < 1 or args.tasks < 1 or not 1 <= args.env_steps < float("inf"):
        raise UserError("--worlds, --tasks and --env-steps must be at least 1, and finite")
    set_threads(args.threads)
    family = find_family(args.family)
    model = make_agent(args.agent, SB3VecEnv(args.family, args.worlds), args.seed)
    say(f"{args.family}  sb3-{args.agent}  seed {args.seed}  {args.worlds} environments")
    started = time.perf_counter()
    model.learn(int(args.env_steps))
    seconds = time.perf_counter() - started
    policy = Witness(model, f"sb3-{args.agent}")
    reports = held_out(policy, family, args.tasks, args.threads)
    for line in (line for report in reports.values() for line in report.summary()):
        say(line)
    steps = int(model.num_timesteps)
    say(f"{steps} env steps in {seconds:.0f} s: {steps / seconds:.0f} a second")
    result = {
        **reports["heldout"].to_json(),
        "ood": reports["ood"].to_json() if "ood" in reports else None,
        "line": policy.name,
        "curve": [{"env_steps": steps, "seconds": round(seconds, 1)}],
        "config": {"worlds": args.worlds, "train": {"seed": args.seed}, "threads": args.threads},
        "versions": versions(),
        "hardware": hardware(),
        "command": f"python experiments/witness.py {args.family} {args.agent} "
        f"--env-steps {steps} --seed {args.seed} --worlds {args.worlds}",
    }
    path = args.results / f"{args.family}-{policy.name}-seed{args.seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    say(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))

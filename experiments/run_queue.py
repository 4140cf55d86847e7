"""The trainings behind the ladder's table, one after the other: ``make results``.

    python experiments/run_queue.py                  # go on where it stopped, on one thread
    python experiments/run_queue.py --list           # what is done, what comes next
    python experiments/run_queue.py --only half-cheetah-vel --threads 2

A *line* of the ladder is a learner, and the family that it learns on:

    ppo       PPO over the task distribution: blind to the task
    oracle    the same on FAMILY+told, which observes the task
    finetune  the policy of `ppo`, trained on in each held-out task
    distil    a student of the oracle, on FAMILY
    rl2, varibad, maml-trpo, pearl, rma, prototypes

Other learners, memories and objectives (`FEW`) are trained on two to six families. At the end
come the legs: RMA, and RL² with a privileged critic, on the quadrupeds, for many more steps; their
results go to ``experiments/results/legs/`` and into no table.

Each result is written to ``experiments/results/ladder/`` as soon as it is there; what is in that
folder is not trained again, unless its line has other settings by now. Ctrl-C or SIGTERM stops at
the next iteration, and the same command goes on to the same bits.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from metarl import TaskDistribution, evaluate
from metarl.algorithms import Finetune
from metarl.base.files import write_json
from metarl.base.threads import set_threads
from metarl.base.versions import hardware, versions
from metarl.cli import guarded
from metarl.commands.training.experiment import Measure, measure
from metarl.run import load_run, train_or_resume
from metarl.runs.config import TrainConfig
from metarl.runs.presets import Preset, presets_of
from metarl.runs.progress import say
from metarl.worlds.factory import make_worlds

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results" / "ladder"
LEGS = {name: one for name, one in presets_of("ladder").items() if name.startswith("legs-")}
"""Of the quadrupeds alone; an item's number of env steps is `LONG`."""
LINES = {name: one for name, one in presets_of("ladder").items() if name not in LEGS}
"""Of every family; an item's number of env steps is `MILLIONS`."""
MILLIONS = {
    "half-cheetah-vel": 3, "half-cheetah-dynamics": 3, "half-cheetah-dir": 3,
    "half-cheetah-terrain": 3, "walker2d-params": 3, "hopper-params": 3, "ant-dir": 4,
    "ant-goal": 4, "ant-crippled": 4, "quadruped-terrain": 4, "humanoid-dir": 4,
    "half-cheetah-vel+dynamics+latency": 4, "quadruped-vel": 4,
}  # fmt: skip
"""Environment steps of training, in millions, the same for ppo, oracle, finetune and rl2."""
_NEAR = {"gamma": 0.97, "gae_lambda": 0.9, "init_std": 0.3, "min_std": 0.2}
"""With the ladder's settings RL² and the blind policy learned nothing on ant-goal: exploring widely
is dear there, and an ant that fell over lies there to the episode's end. The oracle learns with
these; it was not tried with the others."""
_TWICE = {"tasks_per_iteration": 50, "minibatches": 8}
_ENDS = {"lr_decay_steps": 3_000_000}
_RL2 = ("rl2", "mingru", "s5")
_STATES = {"decode_state": True}
OWN: dict[str, dict[str, dict[str, Any]]] = {
    "half-cheetah-vel": dict.fromkeys(_RL2, _ENDS),
    "ant-goal": dict.fromkeys(("ppo", "oracle", "finetune", "rl2"), _NEAR),
    "half-cheetah-dynamics": dict.fromkeys(_RL2, _TWICE)
    | dict.fromkeys(("varibad", "mixture"), _STATES),
}
"""Family -> line -> the settings that it has there in place of the ladder's. On
half-cheetah-dynamics seed 1 of RL² stayed at 740 from 2 M steps on with 25 tasks an iteration, and
did not with 50; on half-cheetah-vel and ant-dir it learned more slowly with 50. On the former,
where the step size kept the divergence, two seeds of three lost slow goals in the later episodes
(-32 in the first and -88 in the fourth; -67 and -122); where it fell to nothing, none did. Where
tasks are dynamics, the next state tells of them, and VariBAD's decoder is to predict it, too."""
LONG = {"quadruped-terrain": 20, "quadruped-vel": 20}
"""Environment steps of the legs, in millions: some ten hours of a thread of a machine at work."""
GRADIENTS = ("maml-trpo", "meta-sgd", "promp", "cavia", "reptile", "learned-optimizer", "es-maml")
BETWEEN = (*GRADIENTS, "ftml")
"""Lines that adapt between episodes: a test round has as many as one of training."""
VARIANTS = ("mann", "hyper", "e-rl2", "mixture", "contrastive")
SHORT = {
    "pearl": 0.1, "amago": 1 / 3, "distil": 0.2, **dict.fromkeys(VARIANTS, 0.5),
    **dict.fromkeys(GRADIENTS, 2.0),
}  # fmt: skip
"""Share of those steps that a line gets: PEARL's gradient steps take ten times as long, variants of
RL² and VariBAD are to show whether they learn, a student has a teacher, and one update of those
that adapt by gradients needs the rollouts of whole batches."""
FOUR = ("half-cheetah-vel", "half-cheetah-dynamics", "half-cheetah-dir", "walker2d-params")
"""Where three seeds matter most."""
TWO = ("half-cheetah-vel", "half-cheetah-dynamics")
TOLD = (*TWO, "half-cheetah-dir", "half-cheetah-terrain", "ant-dir", "ant-goal")
"""Where the oracle leads the blind policy, so that a student of it has something to learn."""
FEW = {
    "mingru": FOUR, "s5": FOUR, "promp": TWO, "mann": TWO, "hyper": TWO, "e-rl2": TWO,
    "mixture": TWO, "contrastive": TWO, "meta-sgd": TWO, "cavia": TWO, "reptile": TWO,
    "learned-optimizer": TWO, "es-maml": ("half-cheetah-vel",), "amago": TWO, "ftml": TWO,
    "distil": TOLD,
}  # fmt: skip
"""Lines that are trained on these families alone. For faults, ES-MAML begins with a policy that is
told of them, in es_damage.py: its page says why it does not begin with nothing."""
MEMORIES = ("mingru", "s5")
"""Memories of which three seeds are to say, beside those of rl2, which should be the default."""


def lines_of(family: str) -> list[str]:
    """Return the lines that a family is to have, in the order of the presets."""
    return [line for line in LINES if family in FEW.get(line, MILLIONS)]


class Item(NamedTuple):
    """One training, or one test of a trained run."""

    family: str
    line: str
    seed: int

    @property
    def result(self) -> Path:
        """The file that says that it is done."""
        folder = RESULTS.with_name("legs") if self.line in LEGS else RESULTS
        return folder / f"{self.family}-{self.line}-seed{self.seed}.json"

    @property
    def run(self) -> Path:
        """The run folder; fine-tuning begins with that of the blind policy."""
        line = "ppo" if self.line == "finetune" else self.line
        return ROOT / "runs" / "ladder" / f"{self.family}-{line}-seed{self.seed}"

    @property
    def preset(self) -> Preset:
        """The line's settings, on this family."""
        preset = (LINES | LEGS)[self.line]
        own = OWN.get(self.family, {}).get(self.line, {})
        return replace(preset, settings={**preset.settings, **own})

    @property
    def done(self) -> bool:
        """Whether there is a result, of the settings and the test that the line has now."""
        if not self.result.is_file():
            return False
        return not stale(json.loads(self.result.read_text("utf-8")))

    def test(self) -> Measure:
        """Return how the line is tested after training."""
        rollouts = self.preset.configs()[0].rollouts_per_task if self.line in BETWEEN else 4
        episodes = 0 if self.line in ("ppo", "oracle") else 3
        return Measure(test_episodes=episodes, test_rollouts=rollouts)


def outdated(result: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a result that its line no longer has: name -> what it was.

    How often a training evaluates, writes and speaks does not count.
    """
    family, train = result["family"].replace("+told", ""), result["config"]["train"]
    had = {**result["config"]["learner"], **train}
    settings = Item(family, result["line"], train["seed"]).preset.settings.items()
    aside = ("evaluate", "print", "checkpoint")
    return {k: had.get(k) for k, now in settings if not k.startswith(aside) and had.get(k) != now}


def stale(result: dict[str, Any]) -> dict[str, Any]:
    """Return `outdated`, and how many episodes a round of the test had if that is others now."""
    item = Item(result["family"].replace("+told", ""), result["line"], result["seed"])
    found = outdated(result)
    if item.line in BETWEEN and result["experience"][1] != item.test().test_rollouts:
        found["test_rollouts"] = result["experience"][1]
    return found


def queue() -> list[Item]:
    """Return everything to do, in the order that adds most to the table."""
    ladder, learners = ("ppo", "oracle", "rl2"), ("varibad", "maml-trpo", "pearl")
    more = (*learners, "rma", "prototypes")
    order = [Item(family, line, 1) for family in MILLIONS for line in ladder]
    for seed in (2, 3):
        order += [Item(family, line, seed) for family in FOUR for line in (*ladder, "finetune")]
    order += [Item(family, "finetune", 1) for family in MILLIONS]
    order += [Item(family, line, 1) for line in more for family in MILLIONS]
    order += [Item(family, line, 1) for line, families in FEW.items() for family in families]
    order += [Item(family, line, seed) for seed in (2, 3) for line in MEMORIES for family in FOUR]
    return order + [Item(family, line, 1) for line in LEGS for family in LONG]


def main(argv: list[str]) -> int:
    """Work on the queue."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument(
        "--only", default="", help="a regular expression that FAMILY-LINE-seedS holds"
    )
    parser.add_argument("--list", action="store_true", help="show the queue, and do nothing")
    args = parser.parse_args(argv)
    items = [item for item in queue() if re.search(args.only, item.result.stem)]
    if args.list:
        for item in items:
            say(f"{'done' if item.done else 'to do'}  {item.result.stem}")
        return 0
    left = [item for item in items if not item.done]
    os.nice(10)
    set_threads(args.threads)
    for number, item in enumerate(left, 1):
        say(f"[{number} of {len(left)}] {item.result.stem}")
        if item.result.is_file() and item.line != "finetune":  # which trains nothing of its own
            if outdated(json.loads(item.result.read_text("utf-8"))):
                shutil.rmtree(item.run, ignore_errors=True)
            item.result.unlink()
        item.result.parent.mkdir(parents=True, exist_ok=True)
        write_json(item.result, work(item, args.threads))
        say(f"wrote {item.result.relative_to(ROOT)}")
    return 0


def work(item: Item, threads: int) -> dict[str, Any]:
    """Train and test one item, or go on with it. Returns the result."""
    preset = item.preset
    train, learner = preset.configs()
    millions = (LONG if item.line in LEGS else MILLIONS)[item.family]
    steps = int(1e6 * millions * SHORT.get(item.line, 1.0))
    train = replace(
        train, env_steps=steps, seed=item.seed, threads=threads, device="cpu",
        out=str(item.run),
    )  # fmt: skip
    if item.line == "finetune":
        blind = work(Item(item.family, "ppo", item.seed), threads)
        result = {**fine_tuned(item, train, learner), **{k: blind[k] for k in ("curve", "config")}}
    else:
        more = {}
        if item.line == "distil":
            oracle = Item(item.family, "oracle", item.seed)
            more["teacher_env_steps"] = work(oracle, threads)["curve"][-1]["env_steps"]
            learner = replace(learner, teacher=str(oracle.run))
        family = item.family + ("+told" if item.line == "oracle" else "")
        run = train_or_resume(family, preset.algorithm, train, learner, say=say)
        result = measure(run, item.test(), train) | more
    command = f"python experiments/run_queue.py --only {item.result.stem}"
    return result | {"line": item.line, "settings": item.line, "command": command}


def fine_tuned(item: Item, train: TrainConfig, config: Any) -> dict[str, Any]:
    """Fine-tune the blind policy of a run in each held-out task.

    `Finetune` trains as `Ppo` does, and has its weights.
    """
    _, family, blind = load_run(str(item.run), "cpu", train.threads)
    learner = Finetune(blind.spec, config, seed=item.seed)
    learner.load_state_dict(blind.state_dict())
    distribution = TaskDistribution(family)
    reports = {}
    for split in ("heldout", *(("ood",) if distribution.has_ood else ())):
        tasks = distribution.split(split, 30)
        worlds = make_worlds(family, len(tasks) * train.rollouts_per_task, train.threads)
        reports[split] = evaluate(learner, worlds, tasks, episodes=10, seed=0, split=split)
        for text in reports[split].summary():
            say(text)
    ood = reports["ood"].to_json() if "ood" in reports else None
    return {
        **reports["heldout"].to_json(), "ood": ood, "versions": versions(), "hardware": hardware()
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))

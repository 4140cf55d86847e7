"""The presets, and experiments with them: train, test on held-out and ood tasks, write the result.

A script in ``experiments/`` names a family, and is then a command:
``python experiments/half_cheetah_vel.py maml-trpo --seed 1 [overrides]`` takes that preset. An
interrupted run goes on where it stopped when the same command is given again.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from metarl.base.errors import UserError, did_you_mean
from metarl.base.files import file_errors, read_json, write_json
from metarl.base.plugins import folder_name
from metarl.base.text import counted, si
from metarl.base.versions import hardware, versions
from metarl.cli import guarded
from metarl.commands.arguments import check_counts, parse, take_option
from metarl.evaluation.protocol import evaluate
from metarl.modules.settings import for_others
from metarl.run import load_run, physics_for, train_or_resume, worlds_for
from metarl.runs.config import TrainConfig, default_out, with_target
from metarl.runs.presets import MEASURED, Preset, presets_of
from metarl.runs.presets import presets as all_presets
from metarl.runs.progress import say
from metarl.tasks.distribution import TaskDistribution


@dataclass(frozen=True)
class Presets:
    """List the tuned settings that come with metarl, and what was measured with them."""

    word: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[WORD]")] = ""
    """A part of the names, FAMILY/ALGORITHM, of those to list."""
    json: bool = False
    """Print JSON."""


def presets(argv: Sequence[str]) -> int:
    """List the presets."""
    args = parse(Presets, argv, prog="metarl presets")
    known, measured = all_presets(), read_json(MEASURED)
    found = [asdict(known[name]) | {"measured": measured.get(name)} for name in known]
    found = [row for row in found if args.word in row["name"]]
    if not found:
        raise UserError(f"no preset is called '{args.word}'{did_you_mean(args.word, known)}")
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for row in found:
        settings = ", ".join(f"{name}={value}" for name, value in row["settings"].items())
        reached = _reached(row["name"], row["measured"])
        for line in (f"{row['name']}   {reached}", f"  {settings}", ""):
            say(line)
    return 0


def _reached(name: str, result: dict[str, Any] | None) -> str:
    """What runs with a preset reached."""
    if result is None:
        return "see docs/ladder.md" if name.startswith("ladder/") else "not measured"
    words, seen = str(result["return"][0]), result["episodes"][-1]
    if len(result["return"]) > 1:  # else it does not adapt
        words += f" → {result['return'][-1]} after {counted(seen, 'episode')}"
    return (
        f"return on {result['tasks']} tasks {words} (standing still {result['stand_still']}); "
        f"{si(result['env_steps'])} env steps, seeds {' '.join(map(str, result['seeds']))}"
        + "".join(f", {name}={value}" for name, value in result["unlike"].items())
    )


@dataclass(frozen=True)
class Measure:
    """How the trained learner is tested, and where the results go."""

    results: str = "experiments/results"
    """Folder for FAMILY-PRESET-seedS.json and FAMILY-PRESET.png."""
    test_tasks: int = 30
    """Tasks of each split in the final test."""
    test_episodes: int = 3
    """Adaptation rounds in the final test."""
    test_rollouts: int | None = None
    """Worlds of each task in the final test; default: as in training."""
    test_seed: int = 0
    """Of initial states and exploration in the final test."""

    def __post_init__(self) -> None:
        """Check every field. Raises UserError."""
        check_counts(self, test_tasks=1, test_episodes=0, test_rollouts=1, test_seed=0)
        if not self.results.strip():
            raise UserError("results must be the name of a folder")


def main(
    family: str, found: Mapping[str, Preset] | None = None, argv: Sequence[str] | None = None
) -> int:
    """Run one experiment from the command line, and return its exit code.

    Args:
        family: a registered name or ``file.py:Class``.
        found: name -> its preset; None takes those of the family that come with metarl.
        argv: the arguments; None takes them from `sys.argv`.
    """
    known = presets_of(family) if found is None else found
    words = sys.argv[1:] if argv is None else list(argv)
    return guarded(lambda words: _main(family, known, words), words)


def _main(family: str, settings: Mapping[str, Preset], argv: list[str]) -> int:
    prog = f"python experiments/{Path(sys.argv[0]).name}"
    name = next((word for word in argv if not word.startswith("-")), None)
    if name not in settings and not {"-h", "--help"} & set(argv):
        raise UserError(
            f"say which algorithm first: {', '.join(settings)}"
            if name is None or argv[0].startswith("-")
            else f"no tuned settings of '{name}' on {family}"
            f"{did_you_mean(name, settings)}; there are some of {', '.join(settings)}"
        )
    tuned = settings.get(name or "", next(iter(settings.values())))
    got = _parse(argv, tuned, prog)
    out = got.train.out or default_out(folder_name(family), got.algorithm, got.train.seed)
    train = replace(got.train, out=out)
    run = train_or_resume(family, tuned.algorithm, train, got.learner, say=say)
    result = measure(run, got.measure, train)
    result["settings"] = got.algorithm
    result["command"] = shlex.join([*prog.split(), *_without_paths(argv)])
    path = write_result(result, Path(got.measure.results))
    say(f"wrote {path}")
    return 0


def _parse(argv: list[str], tuned: Preset, prog: str) -> Any:
    train, learner = tuned.configs()
    which = tyro.conf.arg(metavar="ALGORITHM", help="Whose tuned settings to take.")
    flat = tyro.conf.arg(name="", help="")
    members = [
        ("algorithm", Annotated[str, tyro.conf.Positional, which]),
        ("measure", Annotated[Measure, flat], field(default_factory=Measure)),
        ("train", Annotated[TrainConfig, flat], field(default=with_target(train, argv))),
        ("learner", Annotated[type(learner), flat], field(default=learner)),
    ]
    cls = make_dataclass("Experiment", members, frozen=True)
    cls.__doc__ = "Train with the tuned settings, test, and write the result file and its plot."
    return parse(cls, argv, prog=prog)


def measure(run: Path, how: Measure, train: TrainConfig) -> dict[str, Any]:
    """Test the newest checkpoint of a run on the heldout and ood splits.

    Returns:
        The held-out report as a JSON object, with ood, curve, config, versions and hardware.
    """
    checkpoint, family, learner = load_run(str(run), train.device, train.threads)
    distribution = TaskDistribution(family)

    def report(split: str) -> dict[str, Any]:
        tasks = distribution.split(split, how.test_tasks)
        count = len(tasks) * (how.test_rollouts or train.rollouts_per_task)
        physics = physics_for(checkpoint, None, train.device)
        worlds = worlds_for(family, learner, count, train.threads, physics)
        got = evaluate(
            learner, worlds, tasks, episodes=how.test_episodes, seed=how.test_seed, split=split
        )
        for line in got.summary():
            say(line)
        return got.to_json()

    config = read_json(run / "config.json")
    settings = {"train": config["train"] | {"out": None}, "learner": for_others(learner.config)}
    return {
        **report("heldout"),
        "ood": report("ood") if distribution.has_ood else None,
        "curve": read_json(run / "curve.json"),
        "config": {**settings, "threads": checkpoint.meta["threads"]},
        "versions": versions(),
        "hardware": hardware(),
    }


def write_result(result: dict[str, Any], folder: Path) -> Path:
    """Write FAMILY-PRESET-seedS.json, and draw FAMILY-PRESET.png over all seeds there.

    Returns:
        The path of the JSON file.
    """
    from metarl.report.charts import plot_results

    stem = f"{result['family']}-{result.get('settings', result['algorithm'])}"
    path = folder / f"{stem}-seed{result['config']['train']['seed']}.json"
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
        seeds = [read_json(one) for one in sorted(folder.glob(f"{stem}-seed*.json"))]
        plot_results(seeds, folder / f"{stem}.png")
    return path


def _without_paths(argv: Sequence[str]) -> list[str]:
    """Leave --out and --results out: where files went is no part of how to repeat a result."""
    for name in ("--out", "--results"):
        _, argv = take_option(argv, name)
    return [word.replace(os.path.expanduser("~"), "~") for word in argv]

"""Does it pay that a model adapts: ``grbal_adaptation.py RUN``, of a run of grbal.

Writes results/grbal/FAMILY-seedN-STEPSk.json, and the tables that the pages have of it
(``grbal_adaptation.py --write`` only those):

- errors: of the prior and of the adapted model on held-out and ood episodes that the run collects,
  in the K transitions after each M, over time;
- returns: of first episodes, planned with the adapted model and with the prior, on the same tasks
  and initial states;
- streams: of the same weights where tasks change without notice, planned with by the adapted model,
  the prior, and MOLe's mixture, which goes on learning; regret against the best of them;
- curve: return and errors of each iteration of the training.
"""

import csv
import itertools
import json
import shlex
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result_files import filled

from metarl import evaluate
from metarl.algorithms.grbal import Grbal
from metarl.algorithms.mole import Mole, MoleConfig
from metarl.base.errors import UserError
from metarl.base.files import finite, write_json
from metarl.base.keys import Key
from metarl.base.versions import hardware, versions
from metarl.cli import guarded
from metarl.commands.arguments import take_option
from metarl.evaluation.statistics import gain_interval, iqm_interval
from metarl.evaluation.stream import best_of, stream
from metarl.learning.learner import Learner
from metarl.modules.model_based.transitions import packed_episodes
from metarl.run import load_run, train_config, worlds_for
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.family import TaskFamily
from metarl.worlds.rollout import collect

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results" / "grbal"
MODELS = "half-cheetah-crippled-models.json"
VEL = ROOT / "experiments" / "results" / "streams" / "half-cheetah-vel-rl2.json"
"""Written by ``metarl stream half-cheetah-vel-rl2 --against half-cheetah-vel-pearl --json …``."""


def main(argv: list[str]) -> int:
    """Measure and write."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", nargs="?", help="a run folder, or a checkpoint")
    parser.add_argument("--write", action="store_true", help="only write the tables of the pages")
    parser.add_argument("--tasks", type=int, default=30, help="rows of each split")
    parser.add_argument("--worlds", type=int, default=2, help="of each row")
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=5, help="of each stream")
    parser.add_argument("--every", type=float, default=200.0, help="mean steps between changes")
    parser.add_argument("--seed", type=int, default=0, help="of initial states")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--results", default=str(RESULTS), help="folder to write to")
    args = parser.parse_args(argv)
    if not args.write:
        measure(args, argv)
    for page, (path, table) in pages().items():
        path.write_text(filled(path.read_text(encoding="utf-8"), page, table), encoding="utf-8")
        say(f"wrote {path}")
    return 0


def measure(args: Namespace, argv: list[str]) -> None:
    """Measure, and write the file."""
    if args.run is None:
        raise UserError("say which RUN, such as runs/grbal")
    checkpoint, family, learner = load_run(args.run, "cpu", args.threads)
    if not isinstance(learner, Grbal):
        raise UserError(f"'{args.run}' is a run of {learner.name}, not of grbal")
    train = train_config(checkpoint)
    about: dict[str, Any] = {
        "family": family.name, "algorithm": "grbal", "seed": train.seed,
        "env_steps": checkpoint.meta.get("env_steps"), "seconds": checkpoint.meta.get("seconds"),
        "train": {k: v for k, v in asdict(train).items() if k != "out"},
        "learner": asdict(learner.config),
        "command": f"python experiments/grbal_adaptation.py RUN {shlex.join(options(argv))}",
        "versions": versions(), "hardware": hardware(),
        "curve": curve(Path(train.out or ""), checkpoint.step),
    }  # fmt: skip
    variants = with_settings(learner)
    about["errors"] = {s: errors(family, learner, args, s) for s in ("heldout", "ood")}
    say(about["errors"])
    about["returns"] = {s: returns(family, variants, args, s) for s in ("heldout", "ood")}
    say({s: part["gain"] for s, part in about["returns"].items()})
    about["streams"] = streams(family, variants | {"mixture": mixture(learner)}, args)
    thousands = round(about["env_steps"] / 1000)
    path = Path(args.results) / f"{family.name}-seed{train.seed}-{thousands}k.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, finite(about))
    say(f"wrote {path}")


def say(line: object) -> None:
    """Print at once."""
    print(line, flush=True)


def with_settings(learner: Grbal) -> dict[str, Learner]:
    """Return the learner as it is, and one that plans with the prior, of the same weights."""
    prior = Grbal(learner.spec, replace(learner.config, adapt="none"))
    prior.load_state_dict(learner.state_dict())
    return {"adapted": learner, "prior": prior}


def mixture(learner: Grbal) -> Mole:
    """Return MOLe with the weights and the settings of GrBAL."""
    shared = {f.name for f in fields(MoleConfig)} & asdict(learner.config).keys()
    config = MoleConfig(**{name: getattr(learner.config, name) for name in shared})
    found = Mole(learner.spec, config)
    found.load_state_dict(learner.state_dict())
    return found


def options(argv: list[str]) -> list[str]:
    """Return the words of a command after the run, without where its file went."""
    _, rest = take_option(argv, "--results")
    return rest[1:]


def curve(run: Path, iterations: int) -> list[dict[str, float]]:
    """Return what each of the first iterations of the training logged."""
    names = ("env_steps", "return_after", "error_prior", "error_adapted")
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:iterations]
    return [{name: float(row[name]) for name in names} for row in rows]


@torch.no_grad()
def errors(family: TaskFamily, learner: Grbal, args: Namespace, split: str) -> dict[str, Any]:
    """Return the mean squared errors, normalised, before and after the step that adapts."""
    tasks = TaskDistribution(family).split(split, args.tasks)
    worlds = worlds_for(family, learner, args.tasks, args.threads)
    worlds.set_tasks(tasks, 1)
    key = Key(args.seed, "errors")
    worlds.seed(key)
    worlds.reset()
    state, horizon = learner.begin_seeded(args.tasks, 1, args.seed), worlds.spec.horizon
    data, _ = collect(worlds, learner, state, horizon, key, explore=False)
    rows = packed_episodes(data).view(args.tasks, horizon, -1)[..., :-1]
    past, future, model = learner.config.past, learner.config.future, learner.model
    found = {"prior": [], "adapted": []}
    theta = model.theta.expand(args.tasks, -1)
    for start in range(past, horizon - future + 1, future):
        ones = torch.ones(args.tasks, future)
        moved = model.adapted(theta, rows[:, start - past : start], torch.ones(args.tasks, past))
        for name, params in (("prior", theta), ("adapted", moved)):
            found[name].append(model.error(params, rows[:, start : start + future], ones))
    by_task = {name: torch.stack(parts).mean(0).numpy() for name, parts in found.items()}
    change = by_task["adapted"] / by_task["prior"] - 1
    return {
        "tasks": tasks.values.tolist(), "return": float(data.reward.sum(0).mean()),
        **{name: values.tolist() for name, values in by_task.items()},
        "mean": {name: float(values.mean()) for name, values in by_task.items()},
        "relative_change": gain_interval(change.astype(float), tasks.values, args.seed),
    }  # fmt: skip


def returns(
    family: TaskFamily, learners: dict[str, Learner], args: Namespace, split: str
) -> dict[str, Any]:
    """Return those of first episodes, with intervals over rows, and what adapting gains."""
    tasks = TaskDistribution(family).split(split, args.tasks)
    found = {}
    for name, learner in learners.items():
        worlds = worlds_for(family, learner, args.tasks * args.worlds, args.threads)
        report = evaluate(learner, worlds, tasks, episodes=0, seed=args.seed, split=split)
        found[name] = np.array(report.returns)[:, 0]
        say(f"{split}, {name}: {report.mean[0]:.1f}")
    interval = {}
    for name, values in found.items():
        centre, ends = iqm_interval(values[:, None], tasks.values, Key(args.seed, name).numpy())
        interval[name] = [float(centre[0]), *ends[0].tolist()]
    return {
        "tasks": tasks.values.tolist(), **{name: v.tolist() for name, v in found.items()},
        "mean": {name: float(np.nanmean(values)) for name, values in found.items()},
        "iqm_and_ci95": interval,
        "gain": gain_interval(found["adapted"] - found["prior"], tasks.values, args.seed),
    }  # fmt: skip


def streams(family: TaskFamily, learners: dict[str, Learner], args: Namespace) -> dict[str, Any]:
    """Return how each fares in the same streams, and its regret against the best."""
    tasks, found = TaskDistribution(family).split("heldout", args.tasks), {}
    for name, learner in learners.items():
        worlds = worlds_for(family, learner, args.streams, args.threads)
        found[name] = stream(
            learner, worlds, tasks, streams=args.streams, rounds=args.episodes, every=args.every,
            seed=args.seed,
        )  # fmt: skip
        say(f"stream, {name}: {found[name].windows(worlds.spec.horizon).mean():.1f} an episode")
    best = list(found.values())[best_of(list(found.values()))]
    horizon, lags = best.horizon, int(args.every // 2)
    return {
        "streams": args.streams, "episodes": args.episodes, "every": args.every, "lags": lags,
        "changes": int(best.timeline.switched.sum()),
        "best": next(name for name, one in found.items() if one is best),
        **{
            name: one.to_json(horizon, lags, None if one is best else best, args.seed)
            for name, one in found.items()
        },
    }  # fmt: skip


# --- the pages ----------------------------------------------------------------------------------


def pages() -> dict[str, tuple[Path, str]]:
    """Return the table of each marker, and the page that it is in."""
    files = sorted(RESULTS.glob("half-cheetah-crippled-seed1-*k.json"))
    results = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    results.sort(key=lambda one: one["env_steps"])
    result = results[-1]
    docs = ROOT / "docs" / "algorithms"
    return {
        "grbal results": (
            docs / "grbal.md",
            "\n\n".join((returns_table(results), curve_table(result))),
        ),
        "grbal models": (docs / "grbal.md", models_table(RESULTS / MODELS)),
        "mole results": (docs / "mole.md", stream_table(result)),
        "stream vel": (ROOT / "docs" / "streaming.md", command_table(VEL)),
    }


def returns_table(results: list[dict[str, Any]]) -> str:
    """Return what is planned with after so many steps, and what it predicts and earns."""
    rows = [
        "| env steps | dead motor | planned with | error | return (IQM, 95 %) | gain, paired |",
        "|---|---|---|---|---|---|",
    ]
    seen = {"heldout": "one of five, as in training", "ood": "the back thigh's, never in training"}
    for result, (split, label) in itertools.product(results, seen.items()):
        errors, returns = result["errors"][split]["mean"], result["returns"][split]
        for name, words in (("prior", "the prior"), ("adapted", "the adapted model")):
            earned = interval(returns["iqm_and_ci95"][name])
            gain = interval(returns["gain"], "+") if name == "adapted" else ""
            rows.append(
                f"| {result['env_steps']:,} | {label} | {words} | {errors[name]:.3f} | {earned} "
                f"| {gain} |"
            )
    return "\n".join(rows)


def models_table(path: Path) -> str:
    """Return what grbal_model.py wrote, as a table."""
    rows = [
        "| α | M | hidden | Adam | batch | updates | error: prior | adapted model |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        start = f"{row.get('inner_lr', 0):g}"
        step = f"learned from {start}" if row.get("learn_inner_lr") else start
        plain = row.get("adapt") == "none"
        after = "" if plain else f"{row['adapted']:.3f}"
        rows.append(
            f"| {'not adapted' if plain else step} | {'' if plain else row['past']} "
            f"| {' '.join(map(str, row['hidden']))} | {row['lr']:g} | {row['batch_size']} "
            f"| {row['updates']} | {row['prior']:.3f} | {after} |"
        )
    return "\n".join(rows)


def curve_table(result: dict[str, Any], parts: int = 8) -> str:
    """Return how return and errors went in training, in a few rows."""
    rows = [
        "| env steps | return | error of the prior | of the adapted model |",
        "|---|---|---|---|",
    ]
    curve = result["curve"]
    for some in np.array_split(np.arange(len(curve)), min(parts, len(curve))):
        last = curve[some[-1]]
        mean = f"{np.mean([curve[k]['return_after'] for k in some]):.0f}".replace("-", "−")
        rows.append(
            f"| {last['env_steps']:,.0f} | {mean} | {last['error_prior']:.3f} | "
            f"{last['error_adapted']:.3f} |"
        )
    return "\n".join(rows)


def stream_table(result: dict[str, Any]) -> str:
    """Return how each way to plan fared where tasks change."""
    found = result["streams"]
    names = {
        "mixture": "MOLe: a mixture that goes on learning",
        "adapted": "GrBAL: adapted anew at every step", "prior": "the prior",
    }  # fmt: skip
    return stream_rows("planned with", {words: found[name] for name, words in names.items()})


def command_table(path: Path) -> str:
    """Return what `metarl stream` wrote, as a table."""
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return stream_rows("agent", {one["run"]: one | best_has_none(one) for one in runs})


def best_has_none(run: dict[str, Any]) -> dict[str, Any]:
    """Return that whom regret is counted from has none."""
    return {"regret": None} if run["reference"] else {}


def stream_rows(who: str, found: dict[str, dict[str, Any]]) -> str:
    """Return a table with a row for each stream's JSON."""
    rows = [
        f"| {who} | return of an episode | regret in the end (IQM, 95 %) "
        "| lost at the worst, a step | 90 % of the way back |",
        "|---|---|---|---|---|",
    ]
    for words, one in found.items():
        mean, regret = float(np.mean(one["windows"]["mean"])), "earns most"
        if one["regret"] is not None:
            regret = interval((one["regret"]["iqm"][-1], *one["regret"]["ci95"][-1]))
        back, lost, steps = one["recovery"], "—", "—"
        if back is not None:
            lost = f"{back['drop']:.2f}"
            steps = "not seen" if back["steps"] is None else f"{back['steps']} steps"
            if back["low"] is not None:
                steps += f" [{back['low']}, {back['high']}]"
        mean = f"{mean:.0f}".replace("-", "−")
        rows.append(f"| {words} | {mean} | {regret} | {lost.replace('-', '−')} | {steps} |")
    return "\n".join(rows)


def interval(numbers: Any, sign: str = "") -> str:
    """Return a centre and its interval in words."""
    centre, low, high = (f"{x:{sign}.0f}".replace("-", "−") for x in numbers)
    return f"{centre} [{low}, {high}]"


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))

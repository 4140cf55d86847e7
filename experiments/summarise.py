"""Make the results tables from experiments/results/: ``summarise.py [--write]``.

``--write`` writes docs/results.md, the plots of experiments/results/, the model cards of
experiments/agents/ with their plots, and what the presets say of their measurements.
"""

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ladder import load as load_ladder
from ladder import score
from result_files import Results, load
from run_queue import RESULTS as LADDER

from metarl.base.text import ALL_DIVERGED, counted, si
from metarl.cli import guarded
from metarl.evaluation.protocol import Report
from metarl.report.charts import plot_comparison, plot_results
from metarl.report.model_card import model_card
from metarl.report.text import first_column, number
from metarl.run import MAY_CHANGE
from metarl.runs.presets import MEASURED, Preset, presets

HERE = Path(__file__).parent
ROOT = HERE.parent
BEGIN, END = "<!-- results -->", "<!-- /results -->"
INTRO = f"""\
# Results

What was trained: algorithms on families, made from the files in `experiments/results/` by
`python experiments/summarise.py --write`. Families and algorithms that are not here were not tried
at this length. Mean return over the tasks of a split and over seeds, with deterministic actions;
[lowest, highest seed]. *train = held-out* marks families whose held-out tasks are the training
tasks: their rows show adaptation, but no generalisation. *Before* is the same policy before it
has seen the task, in rows of MAML-TRPO; RL² and PEARL adapt within their *first episode*, which is
not blind. *Standing still* is the score of no action at all. How many episodes of a task a learner
has seen by the time it has adapted differs between algorithms, so every return after adaptation
says after how many. *Score* is the [adaptation score](ladder.md) after the longest adaptation: 0
is as good as one policy for all tasks (blind), 1 as good as being told the task (the oracle), in
brackets the 95 % interval. The blind policy and the oracle are the ladder's, trained for the env
steps that the cell names. Where the row has more, longer training may be part of the score, and not
adapting alone; [the ladder](ladder.md) has its own. [The protocol](protocol.md) has the details.

{BEGIN}
"""

TITLES = {"ppo": "blind policy", "oracle": "oracle"}
"""What the two lines are that a score needs."""
read_ladder = cache(load_ladder)


def main(argv: list[str]) -> int:
    """Print the table, or write docs/results.md, the plots and the model cards."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="write them instead of printing")
    args = parser.parse_args(argv)
    results = load(HERE / "results")
    table = "\n".join(rows(results))
    if not args.write:
        print(table)
        return 0
    for family, by_algorithm in families(results).items():
        for algorithm, seeds in by_algorithm.items():
            plot_results(seeds, HERE / "results" / f"{family}-{algorithm}.png")
        if len(by_algorithm) > 1:
            plot_comparison(by_algorithm, HERE / "results" / f"{family}.png")
    (ROOT / "docs" / "results.md").write_text(page(results))
    MEASURED.write_text(a_line_each(measured(results)))
    for agent in agents():
        (agent / "README.md").write_text(card(agent))
        plot_results([json.loads((agent / "result.json").read_text())], agent / "curve.png")
    return 0


def agents() -> list[Path]:
    """Return the folders of the agents that come with the repository."""
    return sorted(path.parent for path in (HERE / "agents").glob("*/result.json"))


def card(agent: Path) -> str:
    """Return the model card of an agent's results."""
    half = json.loads((agent / "checkpoint.json").read_text())["meta"].get("precision") == "half"
    note = "The weights are rounded to half precision." if half else ""
    result = json.loads((agent / "result.json").read_text())
    return model_card(result, agent.relative_to(ROOT).as_posix(), note, score_sentences(result))


def families(results: Results) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the result files by family, then by algorithm."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for (family, algorithm), seeds in sorted(results.items()):
        found[family][algorithm] = seeds
    return dict(found)


def measured(results: Results) -> dict[str, Any]:
    """Return for each preset the means over its runs, in the rounds that all of them had.

    A preset that only the ladder has run is measured by that.
    """
    found = {}
    of_ladder = {
        (family, line): seeds
        for family, lines in read_ladder(LADDER).items() for line, seeds in lines.items()
    }  # fmt: skip
    for (family, name), seeds in sorted((of_ladder | results).items()):
        if (preset := presets().get(f"{family}/{name}")) is None:
            continue
        folder = "results" if (family, name) in results else "results/ladder"
        means = [seed["mean"][: min(len(seed["mean"]) for seed in seeds)] for seed in seeds]
        found[f"{family}/{name}"] = {
            "results": f"experiments/{folder}/{family}-{name}-seed*.json",
            "seeds": [seed["config"]["train"]["seed"] for seed in seeds],
            "env_steps": round(np.mean([seed["curve"][-1]["env_steps"] for seed in seeds])),
            "tasks": "training" if Report.from_json(seeds[0]).train_is_heldout else "held-out",
            "stand_still": round(np.mean([seed["stand_still"] for seed in seeds]), 2),
            "episodes": seeds[0]["experience"][: len(means[0])],
            "return": np.mean(np.array(means, float), axis=0).round(2).tolist(),
            "unlike": {k: v for seed in seeds for k, v in otherwise(seed, preset)},
        }
    return found


def otherwise(result: dict[str, Any], preset: Preset) -> list[tuple[str, Any]]:
    """Return the settings of a run that are not those of its preset, and what they were."""
    train, learner = preset.configs()
    now = json.loads(json.dumps(asdict(train) | asdict(learner)))
    config = result["config"]
    had = config["train"] | getattr(learner, "absent", {}) | config["learner"]
    free = {"seed", *MAY_CHANGE} - {"iterations", "env_steps"}
    return [(k, v) for k, v in had.items() if k not in free and v != now.get(k)]


def a_line_each(table: dict[str, Any]) -> str:
    """Return a JSON object of which each member has a line of its own."""
    return "{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in table.items()) + "\n}\n"


def rows(results: Results) -> list[str]:
    """Return the lines of a Markdown table, a row for each family, algorithm and split."""
    first = first_column(Report.from_json(one) for seeds in results.values() for one in seeds)
    lines = [
        f"| family | algorithm | split | tasks | standing still | {first} | adapted once "
        "| adapted longest | score | env steps | minutes | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (family, algorithm), seeds in sorted(results.items()):
        steps, minutes = cost(seeds, "env_steps", 1e6), cost(seeds, "seconds", 60)
        for split, reports in splits(seeds):
            still = np.mean(np.array([report["stand_still"] for report in reports], float))
            first = Report.from_json(reports[0])
            where = "train = held-out" if first.train_is_heldout else split
            lines.append(
                f"| {family} | {algorithm} | {where} | {first.distinct_tasks} | {whole(still)} "
                f"| {spread(reports, 0)} | {adapted(reports, 1)} | {adapted(reports, -1)} "
                f"| {score_words(family, split, reports)} | {steps} M | {minutes} | {len(seeds)} |"
            )
    return lines


def splits(seeds: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the reports of all seeds, by split; a family may have none of ood."""
    ood = [seed["ood"] for seed in seeds if seed["ood"] is not None]
    return [("heldout", seeds), *([("ood", ood)] if len(ood) == len(seeds) else [])]


def cost(seeds: list[dict[str, Any]], what: str, unit: float) -> str:
    """Return the mean cost of a run; ≥ where a curve was cut off before the last iteration."""
    last = [seed["curve"][-1] for seed in seeds]
    planned = [seed["config"]["train"] for seed in seeds]
    cut = any(
        train.get("env_steps") is None and end["iteration"] < train["iterations"]
        for end, train in zip(last, planned, strict=True)
    )
    return ("≥ " if cut else "") + number(round(np.mean([end[what] for end in last]) / unit, 1))


def adapted(reports: list[dict[str, Any]], k: int) -> str:
    """Return the return in round k, and after how many episodes of the task that is."""
    rounds = longest(reports)
    if len(rounds) < 2:
        return "—"
    seen = rounds[k]
    return f"{spread(reports, k)} after {seen} episode{'s' if seen != 1 else ''}"


def spread(reports: list[dict[str, Any]], k: int) -> str:
    """Return the mean over the seeds that have round k, and the lowest and highest."""
    k %= len(longest(reports))
    having = [report for report in reports if k < len(report["mean"])]
    values = np.array([report["mean"][k] for report in having], float)
    mark = " exploring" if k < having[0].get("exploring", 0) else ""
    if len(having) < len(reports):
        mark += f" ({counted(len(having), 'seed')})"
    if len(values) == 1:
        return whole(values[0]) + mark
    return f"{whole(np.mean(values))} [{whole(values.min())}, {whole(values.max())}]{mark}"


def score_words(family: str, split: str, reports: list[dict[str, Any]]) -> str:
    """Return the score of the seeds that have the longest adaptation, or why there is none."""
    lines, k = ladder(family, split), len(longest(reports)) - 1
    if missing := [TITLES[name] for name in lines if not lines[name]]:
        return f"none: {' and '.join(missing)} not trained"
    having = [report for report in reports if k < len(report["mean"])]
    if any(one["tasks"] != having[0]["tasks"] for one in sum(lines.values(), having)):
        return "none: other tasks than the blind policy and the oracle"
    got = score(lines | {"learner": having}, "learner", k)
    few = f" ({counted(len(having), 'seed')})" if len(having) < len(reports) else ""
    against = " and ".join(sorted({si(r["steps"]) for of in lines.values() for r in of}))
    return f"{got.words.replace('-', '−') if got else ''}{few}, against {against}"


def score_sentences(result: dict[str, Any]) -> list[str]:
    """Return what a model card says of the score: none where the ladder lacks the family.

    Nor has a policy that is one of the two lines of the score any.
    """
    sentences, family = [], result["family"]
    if result["algorithm"] == "ppo":
        return []
    for split, (report,) in splits([result]):
        lines = ladder(family, split)
        if not all(lines.values()):
            continue
        ends = [
            f"{TITLES[name]}: {counted(len(of), 'seed')}, {si(of[0]['steps'])} env steps"
            for name, of in lines.items()
        ]
        more = result["curve"][-1]["env_steps"] > max(r["steps"] for r in lines["ppo"])
        seen = counted(report["experience"][-1], "episode")
        sentences.append(
            f"Adaptation score on {split} tasks after {seen}: "
            f"{score_words(family, split, [report]).split(', against')[0]}. 0 is as good as one "
            f"policy for all tasks, 1 as good as being told the task, on the same tasks "
            f"({'; '.join(ends)})."
            + " This agent had more env steps than either: longer training may be part of it."
            * more
        )
    return sentences


def ladder(family: str, split: str) -> dict[str, list[dict[str, Any]]]:
    """Return the reports of `ppo` and `oracle` on a family's split, with the env steps of each."""
    found = read_ladder(LADDER).get(family, {})
    return {
        name: [
            (result if split == "heldout" else result["ood"])
            | {"steps": result["curve"][-1]["env_steps"]}
            for result in found.get(name, []) if split == "heldout" or result["ood"]
        ]
        for name in ("ppo", "oracle")
    }  # fmt: skip


def longest(reports: list[dict[str, Any]]) -> list[int]:
    """Return the episodes seen in each round, of the report that has most rounds."""
    return max((report["experience"] for report in reports), key=len)


def whole(value: float) -> str:
    """Return a return without decimals, and −0 as 0; NaN is where every episode diverged."""
    if np.isnan(value):
        return ALL_DIVERGED
    return f"{round(float(value))}".replace("-", "−")


# --- the page ----------------------------------------------------------------------------------


def page(results: Results) -> str:
    """Return docs/results.md."""
    parts = [INTRO + "\n".join(rows(results)) + f"\n{END}\n"]
    for family, by_algorithm in families(results).items():
        parts.append(f"## {family}\n")
        if len(by_algorithm) > 1:
            parts.append(
                f"![Adaptation on {family}](../experiments/results/{family}.png)\n\n"
                f"Lines are means over tasks and seeds, bands go from the lowest to the highest "
                f"seed.\n"
            )
        for algorithm, seeds in by_algorithm.items():
            parts.append(section(family, algorithm, seeds))
    if agents():
        parts.append("## Trained agents\n")
        parts.append(
            "These come with the repository; every command that takes a RUN takes their folders, "
            "such as `metarl adapt experiments/agents/"
            f"{agents()[0].name}`.\n"
        )
        links = {agent.name: agent.relative_to(ROOT).as_posix() for agent in agents()}
        lines = [f"- [{name}](../{link}/README.md)" for name, link in links.items()]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def section(family: str, algorithm: str, seeds: list[dict[str, Any]]) -> str:
    """Return one algorithm on one family: the adaptation curve of each split, and the plot."""
    lines = [f"### {family}, {algorithm}\n"]
    for split, reports in splits(seeds):
        seen = longest(reports)
        head = " | ".join(str(k) for k in seen)
        lines += [f"| {split}: episodes seen | {head} |", "|---|" + "---|" * len(seen)]
        by_round = " | ".join(spread(reports, k) for k in range(len(seen)))
        lines += [f"| mean return [lowest, highest seed] | {by_round} |", ""]
        gains = []
        of_seeds = [Report.from_json(report) for report in reports]
        for result, report in zip(seeds, of_seeds, strict=True):
            gain, low, high = report.difference()
            short = len(report.experience) < len(seen)
            after = f", after {counted(report.experience[-1], 'episode')}" if short else ""
            gains.append(
                f"{number(gain, True)} [{number(low, True)}, {number(high, True)}] "
                f"(seed {result['config']['train']['seed']}{after}: {report.verdict()})"
            )
        what = f"{of_seeds[0].distinct_tasks} {split} tasks{of_seeds[0].mark()}"
        lines.append(
            f"Gain on {what}, interquartile mean [95 % interval] over tasks: {'; '.join(gains)}.\n"
        )
    stem = f"{family}-{algorithm}"
    if (HERE / "results" / f"{stem}.png").is_file():
        lines.append(f"![{family}, {algorithm}](../experiments/results/{stem}.png)\n")
    commands = sorted({seed["command"] for seed in seeds if seed.get("command")})
    lines += ["```sh", *commands, "```", ""] if commands else []
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))

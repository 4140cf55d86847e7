"""Make docs/algorithms/index.md: which learner to choose when, from what was measured.

    python docs/algorithm_table.py            # rewrite the page
    python docs/algorithm_table.py --check    # exit code 1 if it differs

The numbers are those of the files below experiments/results/; a learner without a file there says
so. What a learner is comes from its docstring, and how it adapts from its flags.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from metarl.base.plugins import first_line
from metarl.evaluation.protocol import Report
from metarl.learning.registry import find_learner

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "algorithms" / "index.md"
RESULTS = ROOT / "experiments" / "results"
CHOOSE = {
    "rl2": "nothing speaks for another: adapts while it acts, also within the first episode",
    "varibad": "as rl2, and what it believes of the task is to be seen or used",
    "prototypes": "as rl2, and the simulator can tell tasks apart in training",
    "amago": "as rl2, but old trials are to be used again (off-policy)",
    "pearl": "environment steps are dear, and hours of computing are not",
    "rma": "the task shows in how the robot moves, and the simulator knows it",
    "distil": "there is a good policy already, such as an oracle: it needs no rewards then",
    "maml-trpo": "weights may change on the robot, which gives tens of episodes with rewards",
    "promp": "as maml-trpo, by clipped steps in place of a trust region",
    "cavia": "as maml-trpo, but only a few numbers may change",
    "reptile": "the least of meta-learning will do: a baseline",
    "learned-optimizer": "the step itself is to be learned: research",
    "es-maml": "no gradient is to be had, and tries are cheap",
    "mil": "there are demonstrations in place of rewards",
    "contextual-bc": "as mil, without a gradient step on the robot: its baseline",
    "grbal": "dynamics change within an episode, and planning is affordable",
    "rebal": "as grbal, with a memory in place of gradient steps",
    "ftml": "tasks come one after the other and the learner is to go on learning from all of them",
    "mole": "as grbal, and tasks come back: old models are kept",
    "diayn": "there is no reward yet: skills to make tasks of",
    "finetune": "the baseline without meta-learning",
    "ppo": "the baseline without adaptation; on `FAMILY+told` the oracle",
}
"""A learner -> take it if …; in the order of the table."""
SETTINGS = {
    "mingru": ("rl2", "RL² with `--memory mingru`", "as rl2, and training time is dear"),
    "s5": ("rl2", "RL² with `--memory s5`", "as mingru, with another recurrence"),
    "mann": ("rl2", "RL² with `--memory mann`", "what is remembered is to be addressed: research"),
    "hyper": ("rl2", "RL² with `--memory hyper`", "memory is to make the weights: research"),
    "e-rl2": ("rl2", "RL² with `--credit e-rl2`", "the first episode may be spent on exploring"),
    "mixture": ("varibad", "VariBAD with `--objective mixture`", "tasks are of several kinds"),
    "contrastive": (
        "varibad", "VariBAD with `--objective contrastive`",
        "the decoder has nothing that it could predict",
    ),
    "meta-sgd": (
        "maml-trpo", "MAML-TRPO with `--learn-inner-lr`",
        "as maml-trpo, and each weight may have a step size of its own",
    ),
}  # fmt: skip
"""A setting that has results of its own -> its learner, what it is, and take it if …."""
INTRO = """\
# Which learner

First train the [blind policy and the oracle](../choosing.md#before-any-learner-does-adapting-pay):
if they are alike, take `ppo`. Then begin with `rl2`, and change it for what the table gives a
reason for.

Returns are means over held-out tasks and seeds, in the first episode of a task → after K more; of
families that have a handful of tasks in all (\\*) the held-out ones are those of training.
The last rows of the first table are settings of a learner that have results of their own. Learners
were trained for different numbers of environment steps, so rows of one family are not a race: [the
ladder](../ladder.md) gives all the same, and a score between the blind policy and the oracle. Of
`distil` the teacher's are among them.
"""
RANKED = """\
## By family

What of the above was best where at least two learners have results, and which took the fewest
steps of those that came nine tenths of the way from standing still to the best. With one seed a
difference may be luck; [Results](../results.md) has seeds and intervals.
"""


def measured() -> dict[str, dict[str, dict[str, Any]]]:
    """Return learner or setting -> family -> what its longest training came to, as `summed`."""
    found: dict[tuple[str, str], dict[Path, list[dict[str, Any]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for path in sorted(RESULTS.rglob("*-seed*.json")):
        read = json.loads(path.read_text(encoding="utf-8"))
        together = isinstance(read.get("results"), dict)  # several learners in one file
        for result in read["results"].values() if together else [read]:
            family, learner = result.get("family"), result.get("algorithm")
            if result.get("split") != "heldout" or "mean" not in result or "+told" in family:
                continue
            label = path.stem.rpartition("-seed")[0].removeprefix(f"{family}-")
            # other settings of a learner have other labels
            if together or label in (learner, result["split"]):
                found[learner, family][path.parent].append(result)
            elif SETTINGS.get(label, "")[0:1] == (learner,):
                found[label, family][path.parent].append(result)
    rows: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for (learner, family), folders in sorted(found.items()):
        rows[learner][family] = max(
            map(summed, folders.values()), key=lambda row: (row["steps"], row["seeds"])
        )
    return rows


def summed(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over seeds, after as many episodes as all of them have."""
    last = min(len(seed["mean"]) for seed in seeds) - 1

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return {
        "first": mean([seed["mean"][0] for seed in seeds]),
        "last": mean([seed["mean"][last] for seed in seeds]),
        "k": seeds[0]["experience"][last],
        "steps": int(seeds[0]["curve"][-1]["env_steps"]) + seeds[0].get("teacher_env_steps", 0),
        "still": mean([seed["stand_still"] for seed in seeds]),
        "seeds": len(seeds),
        "mark": "\\*" if Report.from_json(seeds[0], "a result").train_is_heldout else "",
    }


def adapts(learner: str) -> str:
    """Return how a learner adapts, from its flags."""
    cls = find_learner(learner)
    if cls.adapts_to_demonstrations:
        return "to a demonstration"
    if cls.adapts_per_task:
        return "between episodes"
    return "not" if learner == "ppo" else "as it acts"


def returns(row: dict[str, Any]) -> str:
    """Return a result in a few words."""
    first, last = (
        f"{row[key]:.0f}".replace("-0", "0").replace("-", "−") for key in ("first", "last")
    )
    after = f" → {last} (K = {row['k']})" if row["k"] else ""
    seeds = f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"
    return f"{first}{after}, {row['steps'] / 1e6:.2g} M steps, {seeds}"


def page() -> str:
    """Return the page."""
    rows = measured()
    lines = [INTRO, "| learner | what it is | adapts | take it if |", "|---|---|---|---|"]
    for name, when in CHOOSE.items():
        what = first_line(find_learner(name)).rstrip(".")
        lines.append(f"| [{name}]({name}.md) | {what} | {adapts(name)} | {when} |")
    for name, (learner, what, when) in SETTINGS.items():
        to = name if PAGE.with_name(f"{name}.md").is_file() else learner
        lines.append(f"| [{name}]({to}.md) | {what} | {adapts(learner)} | {when} |")
    lines += ["", "## What ours reached", "", "| learner | family | result |", "|---|---|---|"]
    for name in (*CHOOSE, *SETTINGS):
        for family, row in rows.get(name, {}).items():
            lines.append(f"| {name} | {family}{row['mark']} | {returns(row)} |")
        if name not in rows:
            tried = f"[its page]({name}.md) has what was tried"
            lines.append(f"| {name} | — | no result of such a training yet; {tried} |")
    lines += ["", RANKED, *ranked(rows), "", "Made by `python docs/algorithm_table.py`.", ""]
    return "\n".join(lines)


def ranked(rows: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Return the table of the best learner of each family."""
    lines = [
        "| family | best first episode | best after K | fewest steps for 90 % of it |",
        "|---|---|---|---|",
    ]
    for family in sorted({family for found in rows.values() for family in found}):
        found = {
            name: rows[name][family] for name in (*CHOOSE, *SETTINGS)
            if family in rows.get(name, {})
            and not find_learner(SETTINGS.get(name, (name,))[0]).adapts_to_demonstrations
        }  # fmt: skip
        if len(found) < 2:
            continue
        first = max(found, key=lambda name: found[name]["first"])
        last = max(found, key=lambda name: found[name]["last"])
        still = found[last]["still"]
        if found[last]["last"] <= still:
            lines.append(f"| {family} | – | – | none came above standing still |")
            continue
        near = [n for n in found if found[n]["last"] >= still + 0.9 * (found[last]["last"] - still)]
        least = min(near, key=lambda name: found[name]["steps"])
        steps, mark = f"{found[least]['steps'] / 1e6:.2g} M", found[last]["mark"]
        lines.append(f"| {family}{mark} | {first} | {last} | {least}, {steps} |")
    return lines


def main(argv: list[str]) -> int:
    """Rewrite the page, or with --check say whether it differs."""
    had = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    now = page()
    if "--check" in argv:
        if now != had:
            print("algorithms/index.md differs: run python docs/algorithm_table.py")
        return int(now != had)
    PAGE.write_text(now, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Write what the files in benchmarks/results/ say into the pages: ``summarise.py [--write]``.

Each text stands in its page between a pair of marks, such as ``<!-- speed -->`` and
``<!-- /speed -->``.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

from metarl.base.text import counted

RESULTS = Path(__file__).parent / "results"
ROOT = RESULTS.parents[1]


def main(argv: list[str]) -> int:
    """Print the texts, or write them into their pages."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="write them instead of printing")
    write = parser.parse_args(argv).write
    for name, (page, _) in BLOCKS.items():
        path = ROOT / page
        if write:
            path.write_text(filled(name, path.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            print(f"{page}:\n{text(name)}\n")
    return 0


def filled(name: str, page: str) -> str:
    """Return a page with a text between its marks."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, rest = page.split(begin)
    return f"{before}{begin}{text(name)}\n{end}{rest.split(end)[1]}"


def text(name: str) -> str:
    """Return the text that belongs between a pair of marks."""
    return BLOCKS[name][1]()


def load(name: str) -> dict[str, Any]:
    """Return a result file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(rows: list[tuple[str, ...]]) -> str:
    """Return rows, the first of which is the head, as a Markdown table."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


# --- the texts ---------------------------------------------------------------------------------


def speed() -> str:
    """The speed of simulation and of meta-training."""
    simulation, families = load("simulation"), load("families")["results"]
    rows = [
        (CONTENDERS[row["name"]].format(row["stepped_at_once"]),
         f"{row['env_steps_per_second'] / 1e3:.0f}", f"{row['task_worlds_over_this']:.2f}")
        for row in simulation["results"]
    ]  # fmt: skip
    head = (
        "400 half-cheetahs, observations and rewards included",
        "k env steps/s",
        "metarl / this",
    )
    ratios = [row["ratio"] for row in families]
    _, maml, twice = load("meta_step")["results"]
    collect = load("pearl_collect")
    sentences = (
        f"Medians, on {simulation['threads']} threads of: {simulation['hardware']['cpu']}.",
        f"The families, and products such as half-cheetah-vel+dynamics+latency, run at "
        f"{min(ratios):.2f} to {max(ratios):.2f} of the bare engine.",
        f"A MAML-TRPO iteration of {maml['tasks']} tasks × {maml['rollouts_per_task']} rollouts × "
        f"{maml['horizon']} steps, twice, with second derivatives, takes {maml['seconds']:.1f} s, "
        f"{maml['over_bare_physics']:.2f} times the bare physics of the same steps, in "
        f"{maml['peak_memory_mib'] / 1024:.1f} GiB; twice the tasks take "
        f"{twice['seconds'] / maml['seconds']:.1f} times as long.",
        rl2(),
        f"PEARL collects from {collect['tasks'] * collect['rollouts_per_task']} worlds "
        f"{collect['speedup']:.0f} times as fast as from one gymnasium environment.",
        *from_nothing(),
    )
    return f"{table([head, *rows])}\n\n{fill(' '.join(sentences))}"


def rl2() -> str:
    """What whole iterations of RL² take, with two memories."""
    shares, measured = [], set()
    for file, memory in (("meta_step_rl2", "a GRU"), ("meta_step_rl2_mingru", "one minGRU layer")):
        result = load(file)
        rows = result["results"]
        share = enumerated([f"{100 * row['share_of_bare_speed']:.0f}" for row in rows])
        shares.append(f"with {memory} at {share} %")
        measured.add((enumerated([str(row["tasks"]) for row in rows]), result["threads"]))
    ((trials, threads),) = measured  # the same in both files
    return (
        f"RL² collects and learns from {trials} trials, on {counted(threads, 'thread')}: "
        f"{'; '.join(shares)} of the bare speed."
    )


def enumerated(words: list[str]) -> str:
    """Return `a, b and c`."""
    return f"{', '.join(words[:-1])} and {words[-1]}"


def from_nothing(result: dict[str, Any] | None = None) -> list[str]:
    """What a preset for minutes reaches in how many; nothing until it was measured."""
    if result is None:
        path = RESULTS / "from_nothing.json"
        result = load("from_nothing") if path.is_file() else None
    if result is None:
        return []
    seeds = [row["seed"] for row in result["results"]]
    reached = ", ".join(f"{row['returns'][0]:.0f}".replace("-", "−") for row in result["results"])
    return [
        f"`metarl train` with the preset {result['preset']} takes {result['seconds'] / 60:.1f} "
        f"minutes on {counted(result['threads'], 'thread')} of: {result['hardware']['cpu']}, from "
        f"nothing to held-out returns of {reached} (seeds {', '.join(map(str, seeds))})."
    ]


def fill(words: str) -> str:
    """Return a paragraph in lines of at most 110 characters."""
    return textwrap.fill(words, 110, break_long_words=False, break_on_hyphens=False)


CONTENDERS = {
    "TaskWorlds": "**metarl**, dynamics of their own",
    "mujoco.batch": "`mujoco.batch`, the bare engine",
    "EnvPool": "EnvPool, {} environments, all with the same dynamics",
    "gymnasium sync": "gymnasium's SyncVectorEnv, {} environments in one process",
    "gymnasium async": "gymnasium's AsyncVectorEnv, {} environments in a process each",
}


def pearl_update() -> str:
    """The gradient step of PEARL beside plain implementations."""
    rows = [
        ("threads", "metarl", "loop over tasks throughout", "tasks flattened for the actor-critic",
         "metarl, `bfloat16`"),
    ]  # fmt: skip
    for name in ("pearl_update", "pearl_update_4_threads"):
        result = load(name)
        rate, times = result["steps_per_second"], result["speedup"]
        others = [f"{rate[k]:.1f} ({times[k]:.2f}×)" for k in ("eager", "eager_flattened")]
        rows.append((str(result["threads"]), f"{rate['fast']:.1f}", *others,
                     f"{rate['fast_bfloat16']:.1f}"))  # fmt: skip
    return table(rows)


def beside_sb3() -> str:
    """PPO beside stable-baselines3's, for its page."""
    result = load("ppo_against_sb3")
    rate, held = result["env_steps_per_second"], result["heldout"]
    rows = [("on held-out tasks", "env steps/s", "return, IQM [95 % interval]", "mean, by seed")]
    for name, title in (("metarl", "`ppo`"), ("sb3", "stable-baselines3's PPO")):
        low, high = held[name]["ci95"]
        rows.append((
            title, f"{rate[name]:,.0f}", f"{held[name]['iqm']:.0f} [{low:.0f}, {high:.0f}]",
            ", ".join(f"{mean:.0f}" for mean in held[name]["mean_by_seed"]),
        ))  # fmt: skip
    described = (
        f"`{result['command']}`, {result['date']}: {result['env_steps']:,} env steps each, on "
        f"{counted(result['threads'], 'thread')} of: {result['hardware']['cpu']}, "
        f"{counted(result['hardware']['cores'], 'core')}. `ppo` collects and learns "
        f"{result['speedup']:.2f} times as fast (median over pairs of iterations)."
    )
    return f"{table(rows)}\n\n{fill(described)}"


REASONS = {
    "amago": "gradient steps on old trials, a hundred an iteration",
    "grbal": "planning, and gradient steps of the model",
    "rebal": "planning, and gradient steps of the model",
    "mann": "reads and writes of a memory at every step, also in the update",
    "distil": "six passes over the trials, and a teacher that acts beside the student",
}
"""What is known of why a learner's iteration is slow; of others, which of its halves is."""
SLOW = 0.25


def learners() -> str:
    """What a whole iteration of each learner costs."""
    result = load("learners")
    rows = [
        ("learner", "tasks × rollouts", "k env steps", "CPU s", "bare physics, s", "of bare speed",
         "what takes the time, below a quarter"),
    ]  # fmt: skip
    for one in result["results"]:
        share, name = one["share_of_bare_speed"], one["learner"]
        rows.append((
            f"`{name}`" + ("" if one["family"] == "half-cheetah-vel" else f" on {one['family']}"),
            f"{one['tasks']} × {one['rollouts_per_task']}", f"{one['env_steps'] / 1e3:.0f}",
            f"{one['seconds']:.1f}", f"{one['seconds_bare_physics']:.2f}", f"{100 * share:.0f} %",
            why_slow(one),
        ))  # fmt: skip
    described = (
        f"`{result['command']}`, {result['date']}: CPU time of "
        f"{counted(result['threads'], 'thread')} of: {result['hardware']['cpu']}, medians, the "
        f"iteration and the bare physics of its steps taking turns, on a machine that was busy "
        f"with other work. On half-cheetah-vel unless said, with the settings of the ladder."
    )
    return f"{table(rows)}\n\n{fill(described)}"


def why_slow(one: dict[str, Any]) -> str:
    """What takes the time of an iteration that is slower than `SLOW`, and nothing of others."""
    if one["share_of_bare_speed"] >= SLOW:
        return ""
    update = one["seconds_update"] / (one["seconds_sampling"] + one["seconds_update"])
    halves = f"the update is {100 * update:.0f} % of it, and collecting the rest"
    return REASONS.get(one["learner"], halves)


def cost(*names: str) -> str:
    """How fast a whole iteration of some learners is, for the page of one."""
    found = {one["learner"]: one for one in load("learners")["results"]}
    said = []
    for name in names:
        why = why_slow(found[name])
        said.append(
            f"`{name}` {100 * found[name]['share_of_bare_speed']:.0f} %"
            + (f" ({why})" if why else "")
        )
    return fill(
        f"How fast a whole iteration is, with 100 % for the bare simulation of its steps: "
        f"{'; '.join(said)}. [How that is measured](../speed.md#a-whole-iteration-of-each-learner)."
    )


COSTS = {
    "rl2": ("rl2", "mingru", "mann", "hyper"), "varibad": ("varibad", "mixture", "contrastive"),
    "meta-sgd": ("meta-sgd",), "maml-trpo": ("maml-trpo",),
    **{name: (name,) for name in (
        "ppo", "prototypes", "rma", "distil", "promp", "cavia", "reptile", "learned-optimizer",
        "ftml", "es-maml", "amago", "grbal", "rebal", "diayn",
    )},
}  # fmt: skip
"""Page of an algorithm -> the learners and settings whose speed it tells."""
ALGORITHMS = {"maml-trpo": "MAML-TRPO", "rl2": "RL²", "pearl": "PEARL", "ppo": "PPO"}


def growth(result: dict[str, Any] | None = None) -> str:
    """How an iteration grows with tasks and shrinks with ranks, for the page on clusters."""
    path = RESULTS / "growth.json"
    if result is None and not path.is_file():
        return fill(
            "Not measured yet: `python benchmarks/growth.py --json benchmarks/results/growth.json` "
            "on a quiet machine, and then `python benchmarks/summarise.py --write`, fill this in."
        )
    result = load("growth") if result is None else result
    by_tasks, by_ranks = (
        [[row for row in result[part] if row["algorithm"] == name] for name in ALGORITHMS]
        for part in ("tasks", "ranks")
    )
    sizes = sorted({row["tasks"] for row in result["tasks"]})
    head = ("one process", *(f"{size} tasks" for size in sizes))
    tasks = [
        (f"{ALGORITHMS[rows[0]['algorithm']]}, {rows[0]['rollouts_per_task']} × "
         f"{result['horizon']} steps a task and round", *(
             f"{seconds(row):.3g} s, {row['peak_memory_mib']:.0f} MiB" for row in rows))
        for rows in by_tasks if rows
    ]  # fmt: skip
    described = (
        f"`{result['command']}`, {result['date']}, {result['family']}, seed 0, median of "
        f"{counted(result['rounds'], 'iteration')} after one that warms up; "
        f"{counted(result['threads'], 'thread')}, "
        f"{result['hardware']['cores']} cores, {result['hardware']['cpu']}. The memory is the most "
        f"that the process held, {min(r['memory_at_start_mib'] for r in result['tasks']):.0f} MiB "
        f"of it before the first iteration."
    )
    return "\n\n".join([fill(described), table([head, *tasks]), *_ranks(by_ranks)])


def seconds(row: dict[str, Any]) -> float:
    """Return the seconds of an iteration."""
    return row["seconds_sampling"] + row["seconds_update"]


def _ranks(by_ranks: list[list[dict[str, Any]]]) -> list[str]:
    """Return what ranks of one machine took, and the model of more of them, as two tables."""
    from growth import BANDWIDTHS, model

    measured, modelled = [], []
    for rows in by_ranks:
        one = next((row for row in rows if row["ranks"] == 1), None)
        two = next((row for row in rows if row["ranks"] == 2), None)
        if one is None:
            continue
        name = ALGORITHMS[one["algorithm"]]
        measured += [
            (name, str(row["ranks"]), f"{seconds(row):.3g} s", f"{row['peak_memory_mib']:.0f} MiB",
             f"{seconds(one) / seconds(row):.2f}", f"{row['messages']:.0f}",
             f"{row['bytes'] / 1e6:.3g}") for row in rows
        ]  # fmt: skip
        if two is None:
            continue
        alone = one | {"messages": two["messages"], "bytes": two["bytes"]}
        modelled += [
            (
                name,
                speed,
                *(f"{seconds(one) / model(alone, ranks, rate):.1f}" for ranks in FROM_TWO),
            )
            for speed, rate in BANDWIDTHS.items()
        ]
    if not measured:
        return ["By ranks: not measured yet."]
    head = ("ranks of one machine", "ranks", "an iteration", "memory of rank 0", "speedup",
            "messages", "MB sent by rank 0")  # fmt: skip
    parts = [table([head, *measured])]
    if modelled:
        head = ("by the model, speedup on", "network", *(f"{ranks} ranks" for ranks in FROM_TWO))
        parts += [table([head, *modelled])]
    return parts


FROM_TWO = (2, 4, 8, 16, 32, 64)


def own_robot() -> str:
    """What a robot with everything takes, of the bare engine's speed."""
    rows = [(PARTS[row["family"]], f"{row['ratio']:.2f}") for row in load("own_robot")["results"]]
    return table([("", "of the bare engine"), *rows])


def gpu() -> str:
    """What was measured on a GPU, for docs/gpu.md; that nothing was, until there is a file."""
    path = RESULTS / "gpu.json"
    got = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    where = {piece["environment"]["gpu"] for piece in got.values()} - {None}
    parts = [f"Measured on {' and '.join(sorted(where))}."] if where else []
    if speeds := got.get("throughput"):
        counts = sorted({int(n) for by in speeds.values() for n in by if n.isdigit()})
        rows = [("env steps/s", *(f"{n} worlds" for n in counts))]
        for name, by in speeds.items():
            if name != "environment":
                cells = (by.get(str(n)) for n in counts)
                rows.append((name, *("" if x is None else f"{x:,.0f}" for x in cells)))
        parts.append(table(rows))
    if update := got.get("pearl-update"):
        ratio = update["speedup"]["eager"]
        parts.append(f"PEARL's captured gradient step is {ratio:.1f} times the plain eager one.")
    for name, by in got.get("iterations", {}).items():
        if name != "environment":
            words = (f"{one['share']:.0%} with physics by {sim}" for sim, one in by.items())
            parts.append(f"A whole {name} iteration keeps {' and '.join(words)} of the speed of "
                         "the simulation alone.")  # fmt: skip
    if pearl := got.get("pearl"):
        reached = pearl["seconds"]
        parts.append(
            f"PEARL on half-cheetah-vel reached {pearl['wanted']:g} after {reached / 60:.1f} "
            "minutes." if reached else f"PEARL on half-cheetah-vel did not reach "
            f"{pearl['wanted']:g}: its best held-out return was {pearl['best']:.0f}."
        )  # fmt: skip
    missing = [n for n in ("throughput", "pearl-update", "iterations", "pearl") if n not in got]
    if missing:
        parts.append(f"Not run: {', '.join(missing)}.")
    return "\n\n".join(parts)


PARTS = {
    "GoLike": "PD control, an IMU, the feet's places",
    "GoLike+history+push": "and pushes, a history",
    "GoLike+dynamics+history+noise+push": "and unknown dynamics, noise",
    "GoLike+dynamics+history+noise+push+varying-latency": "and a delay that varies",
    "GoLikeWithContacts+dynamics+history+noise+push": "contact forces in place of that delay",
}
BLOCKS = {
    "gpu": ("docs/gpu.md", gpu),
    "growth": ("docs/cluster.md", growth),
    "beside-sb3": ("docs/algorithms/ppo.md", beside_sb3),
    "speed": ("docs/speed.md", speed),
    "learners": ("docs/speed.md", learners),
    "pearl-update": ("docs/algorithms/pearl.md", pearl_update),
    "own-robot": ("docs/own-robot.md", own_robot),
    **{
        f"cost {name}": (f"docs/algorithms/{name}.md", partial(cost, *of_it))
        for name, of_it in COSTS.items()
    },
}
"""Name of the marks -> the page, and what makes the text."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

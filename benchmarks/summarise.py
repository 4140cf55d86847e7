"""Write what the files in benchmarks/results/ say into the pages: ``summarise.py [--write]``.

Each text stands in its page between a pair of marks, such as ``<!-- speed -->`` and
``<!-- /speed -->``.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

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
    """The speed of simulation and of meta-training, for the README."""
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
    few, *_, many = load("meta_step_rl2")["results"]
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
        f"RL² with a GRU collects and learns from {many['tasks']} trials at "
        f"{100 * many['share_of_bare_speed']:.0f} % of the bare speed, from {few['tasks']} at "
        f"{100 * few['share_of_bare_speed']:.0f} %.",
        f"PEARL collects from {collect['tasks'] * collect['rollouts_per_task']} worlds "
        f"{collect['speedup']:.0f} times as fast as from one gymnasium environment.",
        f"Videos are drawn at {pictures():.0f} pictures of 480×480 a second.",
    )
    return f"{table([head, *rows])}\n\n{fill(' '.join(sentences))}"


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


def pictures() -> float:
    """Return the pictures a second of the larger number of threads, the slowest round."""
    by_threads = load("rendering")["pictures_per_second"]
    return min(by_threads[max(by_threads, key=int)])


def rendering() -> str:
    """What a picture costs, for the page on videos."""
    result = load("rendering")
    seconds, size = result["cpu_seconds_per_picture"], result["size"]
    low, high = (1000 * pick(seconds) for pick in (min, max))
    threads = max(result["pictures_per_second"], key=int)
    return fill(
        f"On a shared machine without a GPU ({result['environment']['hardware']['cores']} cores, "
        f"{result['environment']['hardware']['cpu']}, Mesa's llvmpipe) a {size}×{size} picture "
        f"with shadows and antialiasing takes {low:.0f} to {high:.0f} ms of one core's time, and "
        f"{threads} threads drew {pictures():.0f} a second."
    )


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


BLOCKS = {
    "speed": ("README.md", speed),
    "rendering": ("docs/videos.md", rendering),
    "pearl-update": ("docs/algorithms/pearl.md", pearl_update),
}
"""Name of the marks -> the page, and what makes the text."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

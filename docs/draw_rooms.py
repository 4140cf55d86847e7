"""Draw the rooms of the library and count the lines of the reading lists, from the code.

    python docs/draw_rooms.py            # rewrite what differs
    python docs/draw_rooms.py --check    # exit code 1 if the picture or the page differs

The picture is docs/images/rooms.svg. The lists stand in docs/architecture.md, between
``<!-- reading NAME -->`` and ``<!-- /reading -->``.
"""

import ast
import re
import sys
import textwrap
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT / "tests"))
from test_imports import FILES, ROOMS, imports, room  # noqa: E402

FRONT = {"callbacks": "api", "run": "api", "cli": "commands"}
"""Modules beside the rooms, and the box that each is drawn in."""
COLUMN = {
    "networks": 0, "modules": 0, "algorithms": 0, "report": 0, "api": 0, "check": 2,
    "curriculum": 2,
}  # fmt: skip
"""Where a box stands from left to right, if not in the middle."""
TITLE = {"api": "api, run, callbacks", "commands": "commands, cli"}
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 270, 76, 24, 34, 16

READING = {
    "ppo": (
        "algorithms/ppo", "modules/batched_ppo", "modules/ppo", "modules/returns",
        "networks/task_mlp", "worlds/rollout",
    ),
    "finetune": (
        "algorithms/finetune", "modules/batched_ppo", "modules/ppo", "modules/returns",
        "networks/task_mlp", "worlds/rollout",
    ),
    "maml-trpo": (
        "algorithms/maml_trpo", "modules/gradients/inner_loop", "modules/returns",
        "modules/gradients/trust_region", "networks/task_mlp", "worlds/rollout",
    ),
    "promp": (
        "algorithms/promp", "modules/gradients/inner_loop", "modules/gradients/trust_region",
        "modules/returns", "networks/task_mlp", "worlds/rollout",
    ),
    "cavia": (
        "algorithms/cavia", "modules/gradients/inner_loop", "modules/gradients/trust_region",
        "modules/returns", "networks/task_mlp", "worlds/rollout",
    ),
    "reptile": (
        "algorithms/reptile", "modules/gradients/inner_loop", "modules/returns",
        "networks/task_mlp", "worlds/rollout",
    ),
    "ftml": (
        "algorithms/ftml", "modules/gradients/inner_loop", "modules/gradients/remembered",
        "modules/returns", "networks/task_mlp", "worlds/rollout",
    ),
    "learned-optimizer": (
        "algorithms/learned_optimizer", "modules/gradients/inner_loop", "modules/optim",
        "modules/returns", "networks/task_mlp", "worlds/rollout",
    ),
    "mil": (
        "algorithms/mil", "learning/imitation", "learning/demonstrations", "networks/task_mlp",
        "worlds/rollout",
    ),
    "contextual-bc": (
        "algorithms/contextual_bc", "learning/imitation", "learning/demonstrations",
        "networks/task_mlp", "worlds/rollout",
    ),
    "es-maml": (
        "algorithms/es_maml", "networks/normalise", "networks/task_mlp", "worlds/rollout",
    ),
    "rl2": (
        "algorithms/rl2", "modules/ppo", "modules/trials", "networks/actor_critic",
        "networks/memories/recurrent", "worlds/rollout",
    ),
    "pearl": (
        "algorithms/pearl", "modules/context", "modules/sac", "modules/replay",
        "networks/relu_mlp", "worlds/rollout",
    ),
    "amago": (
        "algorithms/amago", "networks/sequence_critic", "networks/normalise", "modules/trials",
        "networks/memories/attention", "modules/replay",
    ),
    "rma": (
        "algorithms/rma", "networks/history", "modules/batched_ppo", "modules/ppo",
        "worlds/policy", "worlds/privileged",
    ),
    "distil": (
        "algorithms/distil", "modules/ppo", "networks/memories/recurrent", "worlds/policy",
        "worlds/rollout",
    ),
    "varibad": (
        "algorithms/varibad", "networks/belief", "modules/trials", "modules/batched_ppo",
        "worlds/rollout",
    ),
    "diayn": (
        "algorithms/diayn", "tasks/variations/skills", "modules/batched_ppo", "modules/ppo",
        "networks/task_mlp", "worlds/rollout",
    ),
    "prototypes": (
        "algorithms/prototypes", "networks/prototypes", "modules/trials",
        "modules/trial_replay", "modules/batched_ppo", "worlds/rollout",
    ),
    "grbal": (
        "algorithms/grbal", "modules/model_based/adaptive_model", "modules/model_based/planning",
        "modules/model_based/transitions", "networks/task_mlp", "worlds/rollout",
    ),
    "rebal": (
        "algorithms/rebal", "modules/model_based/planning", "modules/model_based/transitions",
        "networks/memories/recurrent", "networks/normalise", "worlds/rollout",
    ),
    "mole": (
        "algorithms/mole", "modules/model_based/adaptive_model", "modules/model_based/planning",
        "modules/model_based/transitions", "networks/task_mlp", "worlds/rollout",
    ),
}  # fmt: skip
"""What there is to read to follow an algorithm, in this order."""


def box(module: str) -> str:
    """Return the box that a module is drawn in."""
    return FRONT.get(room(module), room(module))


def arrows() -> dict[str, set[str]]:
    """Return, for each box, those that it imports and reaches in no other way."""
    found: dict[str, set[str]] = {FRONT.get(name, name): set() for name in ROOMS}
    for module in FILES:
        if box(module) in found:
            found[box(module)] |= {box(name) for name in imports(module)} - {box(module)}
    return {
        name: {to for to in direct if not any(to in below(found, other) for other in direct)}
        for name, direct in found.items()
    }


def below(graph: dict[str, set[str]], name: str) -> set[str]:
    """Return all boxes that a box imports, directly or through others, itself not among them."""
    return set().union(*({to} | below(graph, to) for to in graph[name]))


def level(graph: dict[str, set[str]], name: str) -> int:
    """Return how many arrows there are on the longest way down from a box."""
    return max((1 + level(graph, to) for to in graph[name]), default=0)


def first_sentence(path: Path) -> str:
    """Return the first sentence of a file's docstring, or a docstring of one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=\.)(?<!al\.)\s", " ".join(text.split()))[0]


def described(name: str) -> str:
    """Return what a box is for, in a sentence."""
    folder = ROOT / "metarl" / name
    return first_sentence(folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py"))


def picture() -> str:
    """Return the boxes and the arrows as SVG."""
    graph = arrows()
    top = max(level(graph, name) for name in graph)
    at = {
        name: (
            MARGIN + COLUMN.get(name, 1) * (WIDTH + GAP_X),
            MARGIN + (top - level(graph, name)) * (HEIGHT + GAP_Y),
        )
        for name in graph
    }
    assert len(set(at.values())) == len(at), f"two boxes in one place: set COLUMN ({at})"
    wide = 2 * MARGIN + 3 * WIDTH + 2 * GAP_X
    high = 2 * MARGIN + (top + 1) * (HEIGHT + GAP_Y) - GAP_Y
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" '
        'font-family="sans-serif">',
        "<title>The rooms of metarl; each imports only what lies below it</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#56606c"/></marker></defs>',
        f'<rect width="{wide}" height="{high}" fill="#ffffff"/>',
    ]
    for name, direct in graph.items():
        for to in sorted(direct):
            (x, y), (to_x, to_y) = at[name], at[to]
            to_x += (x > to_x) * WIDTH // 4 - (x < to_x) * WIDTH // 4
            lines.append(
                f'<path d="M{x + WIDTH // 2} {y + HEIGHT}L{to_x + WIDTH // 2} {to_y}" '
                'stroke="#56606c" stroke-width="1.5" fill="none" marker-end="url(#head)"/>'
            )
    for name, (x, y) in at.items():
        lines.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#eef3fa" '
            'stroke="#3d6aa8"/>'
            f'<text x="{x + 10}" y="{y + 20}" font-size="15" font-weight="bold">'
            f"{TITLE.get(name, name)}</text>"
        )
        for i, words in enumerate(textwrap.wrap(described(name).replace("`", ""), 42)):
            lines.append(
                f'<text x="{x + 10}" y="{y + 37 + 14 * i}" font-size="11.5">{escape(words)}</text>'
            )
    return "\n".join([*lines, "</svg>", ""])


def reading(name: str) -> str:
    """Return the table of what to read for an algorithm."""
    rows, total = ["| file | lines | |", "|---|---|---|"], 0
    for file in READING[name]:
        path = ROOT / "metarl" / f"{file}.py"
        lines = -(-len(path.read_text(encoding="utf-8").splitlines()) // 10) * 10
        rows.append(f"| `metarl/{file}.py` | {lines} | {first_sentence(path)} |")
        total += lines
    return "\n".join([*rows, f"| **{len(READING[name])} files** | **{total}** | |"])


def sizes() -> str:
    """Return the table of lines by room, rounded to hundreds so that it seldom changes."""
    count: dict[str, int] = {}
    for module, path in FILES.items():
        name = "envs" if module.startswith("envs") else box(module) if "." in module else "api"
        count[name] = count.get(name, 0) + len(path.read_text(encoding="utf-8").splitlines())
    rows = ["| room | lines, in hundreds |", "|---|---|"]
    rows += [f"| {name} | {round(lines / 100)} |" for name, lines in sorted(count.items())]
    return "\n".join([*rows, f"| **all** | **{round(sum(count.values()) / 100)}** |"])


def filled(text: str) -> str:
    """Return the page with its reading lists and its table of sizes filled."""
    for name, made in {**{f"reading {n}": reading(n) for n in READING}, "sizes": sizes()}.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name.split()[0]} -->"
        before, rest = text.split(begin)
        text = before + f"{begin}\n{made}\n\n{end}" + rest.split(end, 1)[1]
    return text


def main(words: list[str]) -> int:
    """Rewrite the picture and the page, or only say whether they differ."""
    page = DOCS / "architecture.md"
    wanted = {
        DOCS / "images" / "rooms.svg": picture(),
        page: filled(page.read_text(encoding="utf-8")),
    }
    stale = [
        path for path, text in wanted.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]  # fmt: skip
    for path in stale:
        print(f"{path.relative_to(ROOT)} differs from the code")
        if "--check" not in words:
            path.write_text(wanted[path], encoding="utf-8")
    return int(bool(stale) and "--check" in words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

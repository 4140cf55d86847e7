"""`metarl families`: what families there are, and everything about one of them."""

from __future__ import annotations

import inspect
import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE, SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metarl.adapters.registration import ANY, env_id
from metarl.base.errors import UserError, did_you_mean, quoted, shortened
from metarl.base.plugins import first_line, plugin_file
from metarl.commands.arguments import parse
from metarl.runs.presets import presets_of
from metarl.tasks.composition import GENERIC_VARIATIONS, REPLACEABLE, compose, variations
from metarl.tasks.distribution import Choices, Interval, Param, TaskDistribution
from metarl.tasks.family import TaskFamily
from metarl.tasks.registry import family_class, find_family, list_families
from metarl.worlds.factory import make_worlds

PIPE_WIDTH = 120
"""Columns of the tables where the output is no terminal."""


@dataclass(frozen=True)
class Families:
    """List the registered task families, or show all there is to know of one."""

    family: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[FAMILY]")] = ""
    """A family, a product such as half-cheetah-vel+dynamics, or file.py:Class, to show in full; or
    a part of some names, such as ant, to list those."""
    json: bool = False
    """Print JSON."""


def families(argv: Sequence[str]) -> int:
    """List the families, or show one."""
    args = parse(Families, argv, prog="metarl families")
    names, whole = _chosen(args.family)
    rows = [describe_family(name) for name in names]
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    if whole and "error" in rows[0]:
        raise UserError(rows[0]["error"])
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(file=sys.stdout, width=width, markup=False, emoji=False)
    rows = _shown(rows)
    for part in _page(rows[0]) if whole else _list(rows):
        console.print(part, soft_wrap=isinstance(part, Text) and bool(part.no_wrap))
    return 0


def _chosen(word: str) -> tuple[list[str], bool]:
    """The families that a word means, and whether it is one to show in full."""
    known = list_families()
    if not word:
        return known, False
    if word in known or "+" in word or ".py" in word or ":" in word:
        return [word], True
    some = [name for name in known if word in name]
    if not some:
        raise UserError(
            f"unknown family '{word}'{did_you_mean(word, known)}; "
            f"known: {', '.join(known)}, or file.py:Class"
        )
    return some, False


# --- what there is to know of a family ---------------------------------------------------------


def describe_family(name: str) -> dict[str, Any]:
    """Return what `metarl families --json` says of one family; of a broken one, its error."""
    try:
        family = find_family(name)
        spec = make_worlds(family, 1, 1).spec
        varied = {key: _variation(family, key, name) for key in variations(type(family))}
    except UserError as error:
        return {"name": name, "error": str(error)}
    distribution = TaskDistribution(family)
    registered = name in list_families()
    return {
        "name": _as_named(family, name),
        "doc": first_line(type(family)),
        "about": inspect.cleandoc(type(family).__doc__ or ""),
        "robot": _robot(family),
        "observation_size": spec.observation_size,
        "action_size": spec.action_size,
        "choices": list(spec.actions),
        "horizon": spec.horizon,
        "dt": family.dt,
        "frame_skip": family.frame_skip,
        "splits": ["train", "heldout", *(["ood"] if distribution.has_ood else [])],
        "presets": list(presets_of(name)),
        "gymnasium_id": env_id(name) if registered else ANY,
        "params": [_param(param) for param in family.params],
        "variations": {key: value for key, value in varied.items() if value},
    }


def _as_named(family: TaskFamily, name: str) -> str:
    """What to call a family in a command, with the variations of a product in their order.

    The class of a file may be called something else than what finds it, and a variation's file is
    in the name that the user gave alone.
    """
    if family.arguments:
        return name
    if plugin_file(name) is not None:
        return str(getattr(type(family), "source", name))
    return family.name if "+" in name else name


def _shown(value: Any) -> Any:
    """A JSON value with every string of it fit for a terminal; line breaks stay."""
    if isinstance(value, dict):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return "\n".join(map(shortened, value.split("\n"))) if isinstance(value, str) else value


def _variation(family: TaskFamily, name: str, of: str) -> dict[str, Any]:
    """What a variation adds to a family; nothing if they clash, as with one it has already.

    It may come before another one of a product, which then does not fit, as skills may not.
    """
    cls = type(family)
    try:
        product = compose(cls, [name])
        if "+" in of:
            family_class(f"{of}+{name}")
    except UserError:
        return {}
    added = product.params[len(cls.params) :]
    if any(param.size == "model" for param in added):
        added = product().params[len(cls.params) :]
    return {
        "doc": variations(cls)[name].doc,
        "own": name in cls.variations,
        "params": [_param(param) for param in added],
    }


def _param(param: Param) -> dict[str, Any]:
    return {
        "name": param.name,
        "size": len(param.names),
        "unit": param.unit,
        "train": _range_json(param.train),
        "ood": [_range_json(where) for where in param.outside],
        "nominal": param.nominal_value,
        "doc": param.doc,
    }


def _range_json(where: Interval | Choices) -> dict[str, Any]:
    rare = {"area": False, "heldout": (), "ood": ()}
    return {key: value for key, value in asdict(where).items() if rare.get(key) != value}


def _range(where: dict[str, Any]) -> str:
    return str(Choices(**where) if "values" in where else Interval(**where))


def _robot(family: TaskFamily) -> str:
    """The model's own name, or that of what is no model of ours."""
    if not family.has_model:
        return "gymnasium"
    return family.compile().names.split(b"\0", 1)[0].decode(errors="replace") or "unnamed"


# --- how it looks ------------------------------------------------------------------------------


def _list(rows: list[dict[str, Any]]) -> list[Table | Text]:
    """One table of all families, and a line on how to see more."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for title in ("family", "robot", "O×A", "horizon", "parameter", "train and heldout", "ood"):
        right, range_ = title in ("O×A", "horizon"), title in ("train and heldout", "ood")
        table.add_column(title, justify="right" if right else "left", no_wrap=not range_)
    for row in rows:
        if "error" in row:
            continue
        own = [f"+{key}" for key, what in row["variations"].items() if what["own"]]
        names = [Text(row["name"], style="bold cyan"), *_folded(own, 27)]
        facts = (
            row["robot"],
            f"{row['observation_size']}×{row['action_size']}",
            f"{row['horizon']} = {row['horizon'] * row['dt']:.3g} s",
        )
        for k in range(max(len(names), len(row["params"]))):  # a line of its own each
            param = row["params"][k] if k < len(row["params"]) else None
            table.add_row(
                names[k] if k < len(names) else "",
                *(facts if k == 0 else ("", "", "")),
                param["name"] + _many(param) if param else "",
                f"{_brief(param['train'])} {param['unit']}" if param else "",
                " ".join(map(_brief, param["ood"])) if param else "",
            )
        table.add_section()
    own = {key: what for key, what in GENERIC_VARIATIONS.items() if key not in REPLACEABLE}
    *some, last = [f"+{key}" + "=FILE" * bool(what.argument) for key, what in own.items()]
    every = f"{', '.join(some)} and {last}"
    fit = ", ".join(f"+{key}" for key in REPLACEABLE[:-1]) + f" and +{REPLACEABLE[-1]}"
    hint = (
        f"Each also takes {every}; {fit} too, as far as its robot has what they vary. "
        f"`metarl families FAMILY` shows one in full."
    )
    broken = [
        Text(f"{row['name']} cannot be used: {row['error']}", style="red")
        for row in rows
        if "error" in row
    ]
    return [table, *broken, Text(hint, style="dim")]


def _folded(words: list[str], width: int) -> list[Text]:
    """Words as dim lines of at most `width` characters, if no word is longer."""
    return [Text(line, style="dim") for line in textwrap.wrap(" ".join(words), width,
            break_long_words=False, break_on_hyphens=False)]  # fmt: skip


def _many(param: dict[str, Any]) -> str:
    return f"[{param['size']}]" if param["size"] > 1 else ""


def _brief(where: dict[str, Any]) -> str:
    """A range to three digits."""
    if "values" not in where:
        where = where | {end: float(f"{where[end]:.3g}") for end in ("low", "high")}
    return _range(where)


def _page(row: dict[str, Any]) -> list[Table | Text]:
    """Everything about one family."""
    seconds = row["horizon"] * row["dt"]
    facts = (
        ("robot", row["robot"]),
        ("observation", f"{row['observation_size']} numbers"),
        ("action", _action(row)),
        ("horizon", f"{row['horizon']} steps of {row['dt']:g} s = {seconds:g} s"),
        ("splits", ", ".join(row["splits"])),
        ("presets", ", ".join(row["presets"]) or "none"),
        ("gymnasium", _gymnasium(row)),
    )
    table = Table.grid(padding=(0, 2))
    for name, value in facts:
        table.add_row(Text(name, style="dim"), value)
    parts = [_unbroken(row["name"], "bold cyan"), Text(row["about"] + "\n"), table]
    parts += [Text("\nparameters of a task", style="bold"), _params(row["params"])]
    for name, variation in row["variations"].items():
        parts.append(Text(f"+{name}  {variation['doc']}", style="bold"))
        parts.append(_params(variation["params"]) if variation["params"] else Text(""))
    if row["variations"]:
        some = next(iter(row["variations"]))
        some = quoted(f"{row['name']}+{some}")
        parts.append(_unbroken(f"metarl train {some} maml-trpo", "dim"))
    return parts


def _unbroken(words: str, style: str) -> Text:
    """What is to be copied: one line, however wide the terminal is."""
    return Text(words, style=style, no_wrap=True, overflow="ignore")


def _action(row: dict[str, Any]) -> str:
    """What an action is."""
    if row["choices"]:
        return f"discrete, {' × '.join(map(str, row['choices']))} choices"
    return f"{row['action_size']} numbers in [-1, 1]"


def _gymnasium(row: dict[str, Any]) -> str:
    """What to give to `gymnasium.make`."""
    name = row["gymnasium_id"]
    return f'{name}, family="{row["name"]}"' if name == ANY else name


def _params(params: list[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False, header_style="dim")
    for title in ("name", "unit", "train and heldout", "ood", "nominal"):
        table.add_column(title, no_wrap=title == "name")
    table.add_column("what it is", ratio=1)
    for param in params:
        table.add_row(
            param["name"] + _many(param), param["unit"] or "1", _range(param["train"]),
            " ".join(_range(r) for r in param["ood"]) or "none", f"{param['nominal']:g}",
            param["doc"],
        )  # fmt: skip
    return table


__all__ = ["describe_family", "families"]

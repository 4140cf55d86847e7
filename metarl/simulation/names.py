"""Objects of a model by name or by pattern: ``trunk``, ``*_calf``, ``front_*``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import mujoco

from metarl.base.errors import UserError, did_you_mean


def is_pattern(name: str) -> bool:
    """Whether a name stands for all that it matches: ``*`` any text, ``?`` any character."""
    return "*" in name or "?" in name


def matching(patterns: str | Sequence[str], names: Sequence[str], what: str) -> list[int]:
    """Return the places in `names` that the patterns match: by pattern, then in their order.

    Args:
        patterns: one or several, each a name or a pattern.
        names: of every object; '' has none and matches nothing.
        what: the objects in a word, as in "body".

    Raises:
        UserError: a pattern matches nothing, or two of them the same object.
    """
    found: list[int] = []
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        places = [i for i, name in enumerate(names) if name and fnmatchcase(name, pattern)]
        if pattern in names:
            places = [names.index(pattern)]
        if not places:
            known = [name for name in names if name]
            raise UserError(
                f"the model has no {what} '{pattern}'{_meant(pattern, known)}; "
                f"it has {', '.join(known) or 'none with a name'}"
            )
        if set(places) & set(found):
            twice = names[min(set(places) & set(found))]
            raise UserError(f"{what} '{twice}' is named twice by {patterns!r}")
        found += places
    return found


def _meant(pattern: str, names: Sequence[str]) -> str:
    """A hint at a name, or at the pattern that has a word of the names in place of one of its."""
    if not is_pattern(pattern):
        return did_you_mean(pattern, names)
    words = {word for name in names for word in re.split(r"[_/.-]", name)}
    for part in re.split(r"[*?_/.-]", pattern):
        for word in get_close_matches(part, sorted(words), 1) if part else ():
            better = pattern.replace(part, word)
            if part != word and any(fnmatchcase(name, better) for name in names):
                return f" (did you mean '{better}'?)"
    return ""


def find(model: mujoco.MjModel, objects: mujoco.mjtObj, patterns: str | Sequence[str]) -> list[int]:
    """Return the ids of a model's objects of one type that the patterns match; see `matching`."""
    return matching(patterns, all_names(model, objects), word_of(objects))


def word_of(objects: mujoco.mjtObj) -> str:
    """Return what MuJoCo calls the objects of a type, such as "body"."""
    return objects.name.removeprefix("mjOBJ_").lower()


def all_names(model: mujoco.MjModel, objects: mujoco.mjtObj) -> list[str]:
    """Return the name of every object of one type, '' of those without."""
    if objects == mujoco.mjtObj.mjOBJ_ACTUATOR:
        return actuator_names(model)
    counts = {"body": model.nbody, "geom": model.ngeom, "joint": model.njnt, "site": model.nsite,
              "tendon": model.ntendon, "pair": model.npair, "equality": model.neq,
              "sensor": model.nsensor, "key": model.nkey}  # fmt: skip
    return [mujoco.mj_id2name(model, objects, i) or "" for i in range(counts[word_of(objects)])]


def names_of(model: mujoco.MjModel, objects: mujoco.mjtObj) -> list[str]:
    """Return the names of all objects of one type, without the unnamed."""
    return [name for name in all_names(model, objects) if name]


def actuator_names(model: mujoco.MjModel) -> list[str]:
    """Return what each actuator goes by: its own name, else that of the joint it drives, or ''."""
    joints = {int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT)}
    names = []
    for i in range(model.nu):
        name = model.actuator(i).name
        if not name and int(model.actuator_trntype[i]) in joints:
            name = model.joint(int(model.actuator_trnid[i, 0])).name
        names.append(name)
    return names

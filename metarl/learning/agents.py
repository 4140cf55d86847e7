"""The trained agents that commands take by their names: shipped ones, and fetched ones.

An agent that ships has a plain name. One that `metarl pull` fetched is OWNER/NAME, as on the hub.
"""

from __future__ import annotations

from pathlib import Path

from metarl.base.errors import UserError, did_you_mean
from metarl.base.files import file_errors, user_folder

AGENTS = Path(__file__).parents[1] / "agents"
"""A checkpoint folder each; in a clone this is a link to experiments/agents."""


def fetched() -> Path:
    """Return where `metarl pull` puts agents, as OWNER/NAME: a folder of the user's data."""
    return user_folder("XDG_DATA_HOME", ".local", "share") / "agents"


def agents() -> dict[str, Path]:
    """Return every agent that goes by a name, and its folder: the shipped ones, then the others."""
    found = {folder.name: folder for folder in _folders(AGENTS)}
    for owner in _folders(fetched()):
        found |= {f"{owner.name}/{folder.name}": folder for folder in _folders(owner)}
    return found


def find_run(name: Path | str) -> Path:
    """Return the folder that a RUN means: a path, or one of `agents` by its name.

    Raises:
        UserError: it is neither.
    """
    if not isinstance(name, str | Path) or "\0" in str(name):
        raise UserError(f"give a run's folder or an agent's name, not {name!r:.80}")
    with file_errors(Path(name)):
        if Path(name).exists():
            return Path(name)
        known = agents()
    if str(name) in known:
        return known[str(name)]
    hint = did_you_mean(str(name), known)
    raise UserError(f"there is no run or checkpoint '{name}', and no agent of that name{hint}")


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, in order, without what a killed process left half-written."""
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))

"""The trained agents that come with metarl, which commands take by their names."""

from __future__ import annotations

from pathlib import Path

from metarl.base.errors import UserError, did_you_mean
from metarl.base.files import file_errors

AGENTS = Path(__file__).parents[1] / "agents"
"""A checkpoint folder each; in a clone this is a link to experiments/agents."""


def find_run(name: Path | str) -> Path:
    """Return the folder that a RUN means: a path, or one of `AGENTS` by its name.

    Raises:
        UserError: it is neither.
    """
    if not isinstance(name, str | Path) or "\0" in str(name):
        raise UserError(f"give a run's folder or an agent's name, not {name!r:.80}")
    with file_errors(Path(name)):
        if Path(name).exists():
            return Path(name)
    shipped = sorted(folder.name for folder in AGENTS.iterdir()) if AGENTS.is_dir() else []
    if str(name) in shipped:
        return AGENTS / name
    hint = did_you_mean(str(name), shipped)
    raise UserError(f"there is no run or checkpoint '{name}', and no agent of that name{hint}")

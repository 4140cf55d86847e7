"""`metarl pull`: an agent from the Hugging Face hub, by the rules for a stranger's files.

Only the files that an agent is made of are fetched, by their names, with a limit on each. They go
into a folder that takes its place once it is whole, verified and readable: see `metarl.base.files`
for what a kill leaves, and `metarl.base.trust` for code that an agent may name.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import tyro

from metarl.base.errors import UserError, quoted
from metarl.base.files import file_errors, whole_folder
from metarl.base.text import counted, si
from metarl.commands.arguments import Said, parse
from metarl.commands.hub.client import HEADER, LIMITS, NEEDED, check_repo, hub_api, hub_errors
from metarl.learning.agents import fetched
from metarl.runs.progress import bar, say

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from metarl.learning.checkpoint import Checkpoint


@dataclass(frozen=True)
class Pull(Said):
    """Fetch an agent from the Hugging Face hub.

    Other commands then take it by the name of its repository. Its files are checked as a
    stranger's, and no code is fetched: an agent that names a file of code needs yours.
    """

    repo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPO")]
    """OWNER/NAME on the hub."""
    revision: str | None = None
    """A branch, a tag or a commit; default: main."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Where to; default: where commands find it by its name, in the user's data folder."""


def pull(argv: Sequence[str]) -> int:
    """Fetch an agent."""
    args = parse(Pull, argv, prog="metarl pull")
    api = hub_api("metarl pull")
    check_repo(args.repo)
    final = fetched() / args.repo if args.out is None else Path(args.out)
    if final.exists() and not (final / HEADER).is_file():
        raise UserError(f"'{final}' holds something else than an agent: choose another --out")
    with hub_errors(args.repo, "pull"):
        commit, names = listed(api, args.repo, args.revision)
    with file_errors(final), whole_folder(final.absolute()) as draft:
        with bar("fetching") as show, hub_errors(args.repo, "pull"):
            for k, name in enumerate(names):
                show(k, len(names))
                fetch(api, args.repo, name, commit, draft)
        shutil.rmtree(draft / ".cache", ignore_errors=True)
        agent = accepted(draft, args)
    name = args.repo if args.out is None else final
    say(
        f"pulled {args.repo} at {commit[:10]} to {final}: {agent.algorithm} on {agent.family}, "
        f"{si(agent.meta.get('env_steps', 0))} env steps; try: metarl adapt {quoted(name)}"
    )
    return 0


def listed(api: HfApi, repo: str, revision: str | None) -> tuple[str, list[str]]:
    """Return the commit that a revision means, and the files of an agent in it.

    Raises:
        UserError: it is no agent, a file is too large, or a name leads out of its folder.
    """
    info = api.model_info(repo, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size for file in info.siblings or ()}
    for name in sizes:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise UserError(f"'{repo}' is refused: its file '{name}' would lie outside its folder")
    for name in NEEDED:
        if name not in sizes:
            raise UserError(f"'{repo}' is no agent of metarl: it has no {name}")
    names = [name for name in LIMITS if name in sizes]
    for name in names:
        _check_size(repo, name, sizes[name])
    return str(info.sha), names


def fetch(api: HfApi, repo: str, name: str, commit: str, folder: Path) -> None:
    """Fetch one file into a folder. Raises UserError if it is larger than it may be."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo, name, revision=commit, endpoint=api.endpoint)
    _check_size(repo, name, get_hf_file_metadata(url, endpoint=api.endpoint).size)
    got = Path(api.hf_hub_download(repo, name, revision=commit, local_dir=folder))
    if got.is_symlink() or got.resolve().parent != folder.resolve():
        raise UserError(f"'{repo}' is refused: '{name}' is no plain file")
    _check_size(repo, name, got.stat().st_size)


def accepted(draft: Path, args: Pull) -> Checkpoint:
    """Return the agent in a folder, if a stranger's may be loaded. Raises UserError if not."""
    from metarl.learning import checkpoint as checkpoints

    try:
        return checkpoints.load(draft, **args.said())
    except UserError as error:  # it names the folder that is about to go
        raise UserError(str(error).replace(str(draft), args.repo)) from None


def _check_size(repo: str, name: str, size: int | None) -> None:
    if size is None or size > LIMITS[name]:
        limit = counted(LIMITS[name] // 2**20, "MB").rstrip("s")
        found = "of unknown size" if size is None else f"{size / 2**20:.0f} MB"
        raise UserError(f"'{repo}' is refused: its {name} is {found}, and the limit is {limit}")


__all__ = ["pull"]

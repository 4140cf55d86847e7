"""`metarl push`: an agent to the Hugging Face hub, with its model card in the hub's format."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from metarl.base.errors import UserError, quoted
from metarl.base.files import read_json
from metarl.base.untrusted import refusing
from metarl.commands.arguments import check_counts, parse
from metarl.commands.hub.card import hub_card
from metarl.commands.hub.client import (
    CARD,
    HEADER,
    LIMITS,
    NOT_LOGGED_IN,
    OWN_OF_HUB,
    check_repo,
    hub_api,
    hub_errors,
)
from metarl.report.run_summary import RESULT
from metarl.runs.progress import say

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from metarl.learning.checkpoint import Checkpoint


@dataclass(frozen=True)
class Push:
    """Put an agent on the Hugging Face hub: weights, settings, results, and a model card.

    Everything goes up in one commit, or nothing does. You need a token that may write: `hf auth
    login`, or HF_TOKEN.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, of which an agent is made as by `metarl export`, or an agent."""
    repo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPO")]
    """OWNER/NAME on the hub; made if it is not there yet."""
    private: bool = False
    """Make the repository one that only you can see."""
    revision: str | None = None
    """A branch to put it on, made if need be; default: main."""
    message: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """What the commit says."""
    license: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Of the weights, as the hub calls it, such as mit; default: the card names none."""
    video: Annotated[str | None, tyro.conf.arg(metavar="FILE.mp4|FILE.gif")] = None
    """A video for the card, such as one of `metarl render`."""
    half: bool = False
    """Of a run: see `metarl export`."""
    threads: int | None = None
    """CPU threads, if the run has to be evaluated; the default is every core."""

    def __post_init__(self) -> None:
        """Check the settings. Raises UserError."""
        check_counts(self, threads=1)
        if self.video is not None:
            if Path(self.video).suffix not in (".mp4", ".gif"):
                raise UserError(f"--video {self.video}: it must be an .mp4 or a .gif")
            if not Path(self.video).is_file():
                raise UserError(f"--video: there is no file '{self.video}'")


def push(argv: Sequence[str]) -> int:
    """Send an agent."""
    args = parse(Push, argv, prog="metarl push")
    api = hub_api("metarl push")
    check_repo(args.repo)
    with hub_errors(args.repo, "push to"):
        check_destination(api, args.repo)
    with tempfile.TemporaryDirectory(prefix="metarl-push-") as place:
        folder = agent_folder(args, Path(place) / args.repo.partition("/")[2])
        video = None
        if args.video is not None:
            video = f"adapts{Path(args.video).suffix}"
            shutil.copy(args.video, folder / video)
        with refusing(Path(args.run), "agent"):
            card = hub_card(folder, args.repo, args.license, video)
        (folder / CARD).write_text(card, encoding="utf-8")
        check_sizes(folder)
        with hub_errors(args.repo, "push to"):
            url = send(api, folder, args)
    where = f" --revision {quoted(args.revision)}" if args.revision else ""
    say(f"pushed to {url}; fetch it with: metarl pull {quoted(args.repo)}{where}")
    return 0


def check_destination(api: HfApi, repo: str) -> None:
    """Raise what `hub_errors` says in a line if nothing can be pushed there, before the work."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if get_token() is None:
        raise UserError(f"cannot push to '{repo}': {NOT_LOGGED_IN}")
    with contextlib.suppress(RepositoryNotFoundError):  # it is made
        found = api.model_info(repo).siblings or ()  # is not tried again and again, as a listing is
        refuse_another(repo, (file.rfilename for file in found))


def refuse_another(repo: str, files: Iterable[str]) -> None:
    """Raise UserError for a repository of something else than an agent, by its files."""
    there = set(files) - set(OWN_OF_HUB)
    if there and HEADER not in there:
        raise UserError(f"'{repo}' holds something else than an agent: choose another name")


def agent_folder(args: Push, place: Path) -> Path:
    """Return a copy of the agent, or the agent that is made of the run, in `place`."""
    from metarl.commands.export import export_agent
    from metarl.learning import checkpoint as checkpoints

    path = checkpoints.newest(Path(args.run))
    agent = checkpoints.load(path)
    if not agent.meta.get("exported"):
        return export_agent(args.run, place, half=args.half, threads=args.threads, say=say)
    if args.half:
        raise UserError(f"'{args.run}' is an agent already: leave out --half")
    missing = [name for name in (RESULT, CARD) if not (path / name).is_file()]
    if missing:
        raise UserError(f"'{path}' has no {missing[0]}: export the run anew with `metarl export`")
    check_sizes(path)
    with refusing(path / RESULT, "result"):
        check_result(read_json(path / RESULT), path / RESULT, agent)
    place.mkdir()
    for name in LIMITS:
        if (path / name).is_file():
            shutil.copy(path / name, place / name)
    return place


def check_sizes(folder: Path) -> None:
    """Raise UserError for a file of an agent that is larger than it may be."""
    for name, limit in LIMITS.items():
        if (folder / name).is_file() and (folder / name).stat().st_size > limit:
            raise UserError(f"{name} is too large to share: the limit is {limit // 2**20} MB")


def check_result(result: Any, where: Path, agent: Checkpoint) -> None:
    """Raise UserError, or what `refusing` turns into one, unless a result is this agent's."""
    from metarl.evaluation.protocol import Report

    reports = [Report.from_json(result, where)]
    if result.get("ood") is not None:
        reports.append(Report.from_json(result["ood"], where))
    for report in reports:
        if (report.family, report.algorithm) != (agent.family, agent.algorithm):
            raise ValueError(f"it is of {report.algorithm} on {report.family}")


def send(api: HfApi, folder: Path, args: Push) -> str:
    """Commit a folder's files to the repository, and return its address."""
    from huggingface_hub import CommitOperationAdd

    api.create_repo(args.repo, private=args.private or None, exist_ok=True)
    refuse_another(args.repo, api.list_repo_files(args.repo))
    if args.revision is not None:
        api.create_branch(args.repo, branch=args.revision, exist_ok=True)
    files = sorted(path for path in folder.iterdir() if path.name in LIMITS)
    api.create_commit(
        args.repo,
        [CommitOperationAdd(path.name, path) for path in files],
        commit_message=args.message or "Agent pushed with metarl",
        revision=args.revision,
    )
    return f"{api.endpoint}/{args.repo}"


__all__ = ["push"]

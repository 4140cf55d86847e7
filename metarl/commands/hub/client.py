"""The Hugging Face hub's library as metarl uses it, and what an agent's repository may hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from metarl.base.errors import UserError, printable
from metarl.learning.checkpoint import HEADER, WEIGHTS
from metarl.report.run_summary import RESULT

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
LIMITS = {
    WEIGHTS: 256 * 2**20, HEADER: 4 * 2**20, RESULT: 16 * 2**20, CARD: 2**20,
    "curve.png": 8 * 2**20, "adapts.mp4": 32 * 2**20, "adapts.gif": 32 * 2**20,
}  # fmt: skip
"""The files of an agent that are sent and fetched, and the most bytes of each."""
NEEDED = (WEIGHTS, HEADER)
NOT_LOGGED_IN = "you are not logged in: run `hf auth login`, or set HF_TOKEN"
OWN_OF_HUB = (".gitattributes",)
"""What the hub itself puts into a repository."""


def hub_api(command: str) -> HfApi:
    """Return a client of the hub, or of what ``HF_ENDPOINT`` names instead.

    Raises UserError naming the extra if the library is not there.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars
    except ImportError:
        raise UserError(
            f"{command} needs huggingface_hub: pip install 'metarl-toolkit[hub]'"
        ) from None
    disable_progress_bars()
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    return HfApi(endpoint=endpoint or None, library_name="metarl")


def check_repo(repo: str) -> None:
    """Raise UserError for what cannot be OWNER/NAME."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"'{repo}' cannot be a repository of the hub: {_words(error)}") from None
    if repo.count("/") != 1:
        raise UserError(f"name the repository with its owner, as in OWNER/NAME, not '{repo}'")


@contextmanager
def hub_errors(repo: str, doing: str) -> Iterator[None]:
    """Turn whatever the hub, its library or the network says into one line.

    Args:
        repo: that it is about.
        doing: what was tried, as in "cannot DOING 'owner/name'".
    """
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except Exception as error:  # every HTTP library that the hub's stands on has its own kinds
        if isinstance(error, errors.RevisionNotFoundError):
            why = "there is no such revision"
        elif isinstance(error, errors.RepositoryNotFoundError):
            why = "there is no such repository, or it is private and you are not logged in to it"
        elif isinstance(error, errors.OfflineModeIsEnabled):
            why = "HF_HUB_OFFLINE is set"
        elif (status := _status(error)) == 401:
            why = NOT_LOGGED_IN
        elif status == 403:
            why = "your token may not do that"
        else:
            why = f"the hub answered {status}: {_words(error)}" if status else _words(error)
        raise UserError(f"cannot {doing} '{repo}': {why}") from None


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _words(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return printable(text, 200) or type(error).__name__

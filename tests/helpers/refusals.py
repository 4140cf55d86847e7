"""What a user is told of bad input: one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from metarl.base.errors import UserError


@contextmanager
def refused(*words: str, match: str | None = None) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """What stands within raises a `UserError` of one line.

    Args:
        words: texts that the line holds, each as it is.
        match: a regular expression that is found in it.
    """
    with pytest.raises(UserError, match=match) as caught:
        yield caught
    said = str(caught.value)
    assert "\n" not in said
    for text in words:
        assert text in said

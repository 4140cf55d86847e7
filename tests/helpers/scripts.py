"""The scripts of experiments/, as modules."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "experiments"


@contextmanager
def experiment(name: str) -> Iterator[ModuleType]:
    """Import a script, and what it imports from beside it; forget them all in the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module(name)
    for module, loaded in list(sys.modules.items()):
        if FOLDER in Path(getattr(loaded, "__file__", None) or "/").parents:
            del sys.modules[module]

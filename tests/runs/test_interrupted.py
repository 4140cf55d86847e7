"""Runs that stop at awkward moments: what is missing is made when they go on."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.runs import curve, digest, go_on, train

from metarl import UserError
from metarl.callbacks import ReportCallback
from metarl.learning import checkpoint as checkpoints
from metarl.run import train_config
from metarl.runs.config import finished
from metarl.runs.runner import Runner


class Killed(BaseException):
    """Ends a run as a kill does: nothing is saved on the way out."""


@contextmanager
def killed_in(method: str, at: int, monkeypatch) -> Iterator[None]:
    """Have a run killed as it begins `method` at iteration `at`."""
    owner = Runner if hasattr(Runner, method) else ReportCallback
    original = getattr(owner, method)

    def dying(self, *args, **more):
        run = self if owner is Runner else args[0]
        if run.position.iteration == at:
            raise Killed
        return original(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, dying)
        with pytest.raises(Killed):
            yield


@pytest.fixture(scope="module")
def wholes(tmp_path_factory) -> Callable[..., Path]:
    """A function that returns a run that nothing interrupted, to read: one for the same goals."""
    return functools.cache(lambda **goal: train(tmp_path_factory.mktemp("whole") / "run", **goal))


GOALS = {"iterations": {"iterations": 4}, "env steps": {"iterations": 9, "env_steps": 640}}


@pytest.mark.parametrize(
    ("at", "method", "goal"),
    [
        (4, "evaluate", GOALS["iterations"]),
        (3, "evaluate", GOALS["iterations"]),
        (4, "on_evaluation", GOALS["iterations"]),
        (4, "evaluate", GOALS["env steps"]),
        pytest.param(3, "evaluate", GOALS["env steps"], marks=pytest.mark.slow),
        pytest.param(4, "on_evaluation", GOALS["env steps"], marks=pytest.mark.slow),
    ],
)
def test_the_last_evaluations_are_made_on_resume(tmp_path, monkeypatch, wholes, goal, at, method):
    whole = wholes(**goal)
    if method == "on_evaluation":  # of a callback; what is on the page does not matter here
        monkeypatch.setattr("metarl.run._default_callbacks", lambda train: [ReportCallback()])
        monkeypatch.setattr("metarl.report.callbacks.write_page", lambda *args, **how: None)
    with killed_in(method, at, monkeypatch):
        train(tmp_path / "run", **goal)
    go_on(tmp_path / "run")
    assert curve(tmp_path / "run") == curve(whole)
    assert [entry["iteration"] for entry in curve(whole)] == [0, 3, 4]
    checkpoint = checkpoints.load(checkpoints.newest(tmp_path / "run"))
    assert finished(checkpoint, train_config(checkpoint))


@pytest.mark.parametrize("killed", [False, True])
def test_an_extended_run_keeps_the_point_at_its_earlier_end(tmp_path, monkeypatch, wholes, killed):
    run = tmp_path / "run"
    if killed:
        with killed_in("evaluate", 4, monkeypatch):
            train(run, iterations=4)
    else:
        shutil.copytree(wholes(iterations=4), run)
    last = curve(run)[-1]
    with killed_in("update", 4, monkeypatch):
        go_on(run, iterations=7)
    go_on(run)  # it still knows how far it was to go
    assert [entry["iteration"] for entry in curve(run)] == [0, 3, 4, 6, 7]
    assert killed or curve(run)[2] == last
    whole = wholes(iterations=7)
    assert [entry for entry in curve(run) if entry["iteration"] != 4] == curve(whole)
    assert digest(run) == digest(whole)


@pytest.mark.parametrize("text", ["", "[1]", "{}", '[{"iteration": 4}]'])
def test_a_damaged_curve_is_made_again(tmp_path, wholes, text):
    run = Path(shutil.copytree(wholes(iterations=4), tmp_path / "run"))
    before = curve(run)
    (run / "curve.json").write_text(text)
    go_on(run)
    assert curve(run) == before


@pytest.mark.parametrize("method", ["evaluate", "update"])
def test_a_run_that_never_began_makes_way(tmp_path, monkeypatch, wholes, method):
    """As after a mistake in a reward: the corrected command works, with any settings."""
    with killed_in(method, 0, monkeypatch):
        train(tmp_path / "run", iterations=2)
    train(tmp_path / "run", iterations=2, seed=1)
    whole = wholes(iterations=2, seed=1)
    assert digest(tmp_path / "run") == digest(whole)
    assert curve(tmp_path / "run") == curve(whole)
    assert len(list((tmp_path / "run").glob("events.*"))) == 1
    with pytest.raises(UserError, match="already holds a run"):
        train(tmp_path / "run", iterations=2, seed=1)

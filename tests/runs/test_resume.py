"""Runs that stop: the same bits after any interruption."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.process import forked
from helpers.runs import SMALL, TRAIN, curve, digest, go_on, rows, steer, train

from metarl import UserError
from metarl.base import plugins
from metarl.base.files import write_json
from metarl.learning import checkpoint as checkpoints
from metarl.run import resume_run, start_run, train_config
from metarl.runs import signals as interrupts
from metarl.runs.signals import StopSignals, TrainingStopped

# --- going on ----------------------------------------------------------------------------------


def test_a_resumed_run_equals_an_uninterrupted_one(whole, tmp_path):
    run = train(tmp_path / "run", iterations=3)
    go_on(run, iterations=6)
    assert digest(run) == digest(whole)
    assert rows(run) == rows(whole)
    assert curve(run) == curve(whole)


def test_delays_that_vary_within_episodes_resume_to_the_same_bits(tmp_path):
    name = "point-goal+push+varying-latency"
    config = replace(TRAIN, evaluate_every=9, iterations=3, out=str(tmp_path / "whole"))
    straight = start_run(name, "maml-trpo", config, SMALL)
    part = replace(config, iterations=2, out=str(tmp_path / "part"), threads=2)
    run = go_on(start_run(name, "maml-trpo", part, SMALL), iterations=3, threads=1)
    assert digest(run) == digest(straight)
    assert rows(run) == rows(straight)


@pytest.mark.filterwarnings("ignore:.*using step_")
def test_rows_and_reports_after_the_checkpoint_are_dropped(whole, tmp_path):
    run = train(tmp_path / "run", iterations=4)
    kept = (run / "metrics.csv").read_text()
    later = kept.splitlines()[-1].replace("4,640", "5,999", 1)
    (run / "metrics.csv").write_text(kept + later + "\n6,12")  # one that goes, and a torn one
    write_json(run / "evaluation" / "heldout_step_00000005.json", {})
    (run / "checkpoints" / "step_00000005").mkdir()  # not readable, so not the newest
    go_on(run, iterations=6)
    assert digest(run) == digest(whole)
    assert rows(run) == rows(whole)
    assert not (run / "evaluation" / "heldout_step_00000005.json").exists()


@pytest.mark.filterwarnings("ignore:.*using step_")
def test_tensorboard_hides_what_was_logged_after_the_checkpoint(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tmp_path / "run", iterations=5)
    for later in (run / "checkpoints").glob("step_00000005"):
        for file in later.iterdir():
            file.write_bytes(b"")
    go_on(run, iterations=6)  # from step 4
    events = EventAccumulator(str(run))
    events.Reload()
    assert [e.step for e in events.Scalars("rollout/return_after")] == [
        160 * i for i in range(1, 7)
    ]


def test_a_finished_run_can_be_extended_only_in_length(tmp_path):
    run = train(tmp_path / "run", iterations=2)
    for name, value in (("seed", 1), ("rollouts_per_task", 3), ("evaluate_tasks", 5)):
        with pytest.raises(UserError, match=f"{name} cannot change"):
            go_on(run, **{name: value})
    checkpoint = checkpoints.load(checkpoints.newest(run))
    with pytest.raises(UserError, match="inner_lr cannot change"):
        resume_run(checkpoint, train_config(checkpoint), replace(SMALL, inner_lr=0.2))


def test_an_older_checkpoint_goes_on_in_a_folder_of_its_own(whole, tmp_path):
    old = checkpoints.load(whole / "checkpoints" / "step_00000002")
    with pytest.raises(UserError, match="not the newest checkpoint of its run"):
        resume_run(old, train_config(old), SMALL)
    before = sorted(p.name for p in (whole / "checkpoints").iterdir())
    fork = resume_run(old, replace(train_config(old), out=str(tmp_path / "fork")), SMALL)
    assert digest(fork) == digest(whole)
    assert rows(fork) == rows(whole)
    assert curve(fork) == curve(whole)
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == before


def test_the_thread_count_is_recorded_and_restored(tmp_path):
    run = train(tmp_path / "run", iterations=1, threads=2)
    torch.set_num_threads(1)
    checkpoint, used = checkpoints.load(checkpoints.newest(run)), []
    goal = replace(train_config(checkpoint), iterations=2, threads=None)
    resume_run(checkpoint, goal, SMALL, [lambda *_: used.append(torch.get_num_threads())])
    assert used == [2]
    assert torch.get_num_threads() == 1  # as the process had it
    assert json.loads((run / "config.json").read_text())["threads"] == 2


# --- signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_finishes_the_iteration_and_saves_it(whole, tmp_path, number, code):
    before = signal.getsignal(number)
    with pytest.raises(TrainingStopped, match="metarl train --resume") as stopped:
        steer(tmp_path / "run", 3, lambda _: signal.raise_signal(number))
    assert stopped.value.exit_code == code
    assert checkpoints.newest(tmp_path / "run").name == "step_00000003"
    go_on(tmp_path / "run")
    assert digest(tmp_path / "run") == digest(whole)
    assert curve(tmp_path / "run") == curve(whole)
    assert signal.getsignal(number) == before


def test_a_long_iteration_is_left_and_made_again(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(interrupts, "GRACE", 0.2)

    def spoil_and_hang(learner):
        learner.theta = learner.theta + 1.0
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    began = time.monotonic()
    with pytest.raises(TrainingStopped):
        steer(tmp_path / "run", 4, spoil_and_hang)
    assert time.monotonic() - began < 10
    assert checkpoints.newest(tmp_path / "run").name == "step_00000003"
    go_on(tmp_path / "run")
    assert digest(tmp_path / "run") == digest(whole)


def test_a_learner_too_large_to_copy_keeps_its_last_checkpoint(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(interrupts, "GRACE", 0.1)
    monkeypatch.setattr("metarl.runs.runner.SNAPSHOT_BYTES", 0)

    def spoil_and_hang(learner):
        learner.theta = learner.theta + 1.0
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    with pytest.raises(TrainingStopped):
        steer(tmp_path / "run", 4, spoil_and_hang)
    assert checkpoints.newest(tmp_path / "run").name == "step_00000002"
    go_on(tmp_path / "run")
    assert digest(tmp_path / "run") == digest(whole)


def test_a_closed_terminal_is_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.signum is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_does_not_wait():
    def impatient():
        with StopSignals(grace=60) as stop, stop.may_leave():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            time.sleep(60)

    began = time.monotonic()
    with pytest.raises(interrupts.IterationAborted):
        impatient()
    assert time.monotonic() - began < 5


def test_a_save_is_never_left():
    with StopSignals(grace=0.05) as stop:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.3)  # not under may_leave
    assert stop.signum == signal.SIGTERM


def test_training_works_outside_the_main_thread(whole, tmp_path):
    thread = threading.Thread(target=train, args=(tmp_path / "run",))
    thread.start()
    thread.join()
    assert digest(tmp_path / "run") == digest(whole)


# --- kill -9 -----------------------------------------------------------------------------------

KILLED = dict(checkpoint_every=1, evaluate_every=20)


def train_or_go_on(run: Path, iterations: int) -> None:
    """What a killed process does when it is started again."""
    torch.set_num_threads(1)
    if any((run / "checkpoints").glob("step_*")):
        go_on(run)
    else:
        train(run, iterations=iterations, **KILLED)


@pytest.mark.parametrize(
    "kills",
    [3, pytest.param(10, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
    ids=["3 kills", "10 kills"],
)
def test_kill_9_at_any_moment_then_resume_gives_the_same_bits(tmp_path, kills):
    """With a checkpoint an iteration, many of the kills fall inside a save."""
    run, moment = tmp_path / "run", random.Random(kills)
    done, iterations = 0, min(40, 8 * kills)
    for _ in range(kills):
        process = forked(lambda: train_or_go_on(run, iterations), stdout=None, stderr=None)
        # Let it come at least one checkpoint further, then kill it up to 50 ms later.
        goal = min(done + moment.randint(1, max(1, iterations // kills)), iterations - 5)
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            steps = [int(p.name[5:]) for p in (run / "checkpoints").glob("step_*")]
            if max(steps, default=-1) >= goal:
                break
            time.sleep(0.01)
        time.sleep(moment.uniform(0, 0.05))
        process.kill()
        process.wait()
        newest = checkpoints.newest(run)
        assert checkpoints.load(newest).step >= done  # what was saved once stays saved
        done = checkpoints.load(newest).step
    train_or_go_on(run, iterations)
    whole = train(tmp_path / "whole", iterations=iterations, **KILLED)
    assert digest(run) == digest(whole)
    assert rows(run) == rows(whole)
    assert curve(run) == curve(whole)
    left = [p.name for p in (run / "checkpoints").iterdir() if not p.name.startswith("step_")]
    assert left == []


def test_a_run_does_not_go_on_with_other_tasks(plugin, tmp_path, monkeypatch):
    """Not even if a value differs in the last digit."""
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    source = Path(plugin.rpartition(":")[0])
    text = source.read_text()

    def rewrite(values):
        source.write_text(text.replace("(-1.0, 1.0)", values))
        plugins._import.cache_clear()  # as in a process of its own

    run = start_run(
        plugin, "maml-trpo", replace(TRAIN, out=str(tmp_path / "run"), iterations=1), SMALL
    )
    for values, shown in (("(-1.0, 2.0)", "{-1.0, 2.0}"), ("(-1.0, 1.0000000000000002)", "0002}")):
        rewrite(values)
        with pytest.raises(UserError, match=r"'direction' was drawn from \{-1.0, 1.0\}") as error:
            go_on(run, iterations=2)
        assert shown in str(error.value)
    rewrite("(-1.0, 1.0)")
    go_on(run, iterations=2)

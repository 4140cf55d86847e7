"""The training loop: same bits after any interruption, and nothing computed is lost."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metarl import TaskDistribution, TaskWorlds, UserError, find_family
from metarl import checkpoint as checkpoints
from metarl import interrupt as interrupts
from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
from metarl.interrupt import StopSignals, TrainingStopped
from metarl.launch import resume, start, train_config
from metarl.run_folder import MetricsCsv, RunFolder, write_json
from metarl.train_config import TrainConfig
from metarl.training import meta_train

SMALL = MamlTrpoConfig(hidden=(4,), cg_iterations=2)
TRAIN = TrainConfig(
    tasks_per_iteration=2, rollouts_per_task=2, iterations=6, evaluate_every=3, evaluate_tasks=2,
    evaluate_episodes=1, checkpoint_every=2, threads=1, device="cpu", progress=False,
)  # fmt: skip
TIMES = {"seconds", "env_steps_per_second", "seconds_sampling", "seconds_update"}


def train(out: Path, **changes) -> Path:
    """Train the tiny learner from scratch."""
    return start("point-goal", "maml-trpo", replace(TRAIN, out=str(out), **changes), SMALL)


def go_on(run: Path, **changes) -> Path:
    """Go on from the newest checkpoint."""
    checkpoint = checkpoints.load(checkpoints.newest(run))
    return resume(checkpoint, replace(train_config(checkpoint), **changes), SMALL)


def digest(run: Path) -> str:
    """The sha256 of a run's newest weights."""
    return hashlib.sha256(
        (checkpoints.newest(run) / "weights.safetensors").read_bytes()
    ).hexdigest()


def rows(run: Path) -> list[dict[str, str]]:
    """metrics.csv without what a clock measured."""
    with (run / "metrics.csv").open() as file:
        return [{k: v for k, v in r.items() if k not in TIMES} for r in csv.DictReader(file)]


def curve(run: Path) -> list[dict]:
    """curve.json without what a clock measured."""
    return [{k: v for k, v in e.items() if k not in TIMES} for e in json.loads(
        (run / "curve.json").read_text())]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of six iterations that nothing interrupted."""
    torch.set_num_threads(1)
    return train(tmp_path_factory.mktemp("whole") / "run")


class Steerable(MamlTrpo):
    """A learner whose n-th meta-step does something on top, after changing its weights."""

    def __init__(self, *args, at: int = 0, do=lambda learner: None, **more):
        super().__init__(*args, **more)
        self.calls, self.at, self.do = 0, at, do
        self.extra: dict[str, float] = {}

    def meta_step(self, worlds, tasks, key):
        metrics = super().meta_step(worlds, tasks, key)
        self.calls += 1
        if self.calls == self.at:
            self.do(self)
        return metrics | self.extra


def steer(out: Path, at: int, do, **changes) -> Path:
    """Train a `Steerable`."""
    config = replace(TRAIN, out=str(out), **changes)
    family = find_family("point-goal")
    worlds = TaskWorlds(family, config.tasks_per_iteration * config.rollouts_per_task, 1)
    learner = Steerable(worlds.spec, SMALL, seed=config.seed, at=at, do=do)
    return meta_train(learner, worlds, TaskDistribution(family), config)


# --- what a run leaves behind ------------------------------------------------------------------


def test_a_run_folder_has_what_the_design_names(whole):
    names = {p.name for p in whole.iterdir()}
    assert {"config.json", "metrics.csv", "curve.json", "evaluation", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    steps = sorted(p.name for p in (whole / "checkpoints").iterdir())
    assert steps == ["step_00000002", "step_00000004", "step_00000006"]  # 3 kept
    reports = sorted(p.name for p in (whole / "evaluation").iterdir())
    assert reports == [f"heldout_step_{i:08d}.json" for i in (0, 3, 6)]
    config = json.loads((whole / "config.json").read_text())
    assert (config["family"], config["algorithm"], config["threads"]) == (
        "point-goal",
        "maml-trpo",
        1,
    )
    assert config["train"]["iterations"] == 6
    assert config["learner"]["hidden"] == [4]


def test_metrics_have_a_row_an_iteration_and_count_training_steps_only(whole):
    table = rows(whole)
    assert [int(row["iteration"]) for row in table] == [1, 2, 3, 4, 5, 6]
    # 2 tasks x 2 rollouts x 20 steps, before and after the inner step
    assert [int(row["env_steps"]) for row in table] == [160 * i for i in range(1, 7)]
    assert list(table[0])[:2] == ["iteration", "env_steps"]
    assert {"return_before", "return_after", "kl"} <= set(table[0])


def test_curve_agrees_with_the_reports(whole):
    entries = curve(whole)
    assert [entry["iteration"] for entry in entries] == [0, 3, 6]
    for entry in entries:
        name = f"heldout_step_{entry['iteration']:08d}.json"
        report = json.loads((whole / "evaluation" / name).read_text())
        assert report["split"] == "heldout"
        assert (entry["before"], entry["after"]) == (report["mean"][0], report["mean"][-1])
        assert entry["before_ci"] == report["ci95"][0]
        assert entry["after_ci"] == report["ci95"][-1]


def test_held_out_returns_are_in_tensorboard(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole))
    events.Reload()
    assert [e.step for e in events.Scalars("heldout/after")] == [0, 480, 960]
    assert [e.step for e in events.Scalars("return_after")] == [160 * i for i in range(1, 7)]


def test_the_seed_decides_everything(whole, tmp_path):
    assert digest(train(tmp_path / "again")) == digest(whole)
    assert digest(train(tmp_path / "other", seed=1)) != digest(whole)


def test_draws_from_torchs_global_generator_are_keyed_and_do_not_leak(tmp_path):
    def draw(learner):
        learner.theta = learner.theta + torch.randn_like(learner.theta)

    torch.manual_seed(1)
    run = steer(tmp_path / "one", 2, draw)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(3))
    torch.manual_seed(2)
    assert digest(steer(tmp_path / "two", 2, draw)) == digest(run)


def test_evaluation_and_checkpoints_do_not_change_the_weights(whole, tmp_path):
    rare = train(tmp_path / "rare", evaluate_every=100, checkpoint_every=100)
    assert digest(rare) == digest(whole)


def test_env_steps_end_a_run_instead_of_iterations(tmp_path):
    run = train(tmp_path / "run", env_steps=300)  # 160 an iteration
    assert checkpoints.load(checkpoints.newest(run)).meta["env_steps"] == 320


def test_callbacks_see_every_iteration(tmp_path):
    family, seen = find_family("point-goal"), []
    worlds = TaskWorlds(family, 4, 1)
    config = replace(TRAIN, out=str(tmp_path / "run"), iterations=3)
    meta_train(
        MamlTrpo(worlds.spec, SMALL), worlds, TaskDistribution(family), config,
        [lambda i, learner, metrics: seen.append((i, learner.name, "return_after" in metrics))],
    )  # fmt: skip
    assert seen == [(i, "maml-trpo", True) for i in (1, 2, 3)]


def test_a_resumed_run_says_where_it_goes_on(whole, tmp_path, capsys):
    go_on(train(tmp_path / "run", iterations=2), iterations=3, progress=True)
    assert capsys.readouterr().out.splitlines()[0].endswith("/run, from iteration 2")


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    run = train(tmp_path / "run", progress=True, print_every=2)
    lines = capsys.readouterr().out.splitlines()
    shown = [line.split()[1] for line in lines if line.startswith("iteration ")]
    assert shown == ["1", "2", "4", "6"]
    assert any("env steps/s" in line and "left" in line and "→" in line for line in lines)
    assert f"metarl evaluate {run}" in lines[-2]
    assert "--set goal_x=" in lines[-1]


def test_nothing_is_printed_without_progress(tmp_path, capsys):
    train(tmp_path / "run", iterations=1)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_no_file_stays_open(tmp_path):
    train(tmp_path / "first", iterations=1)
    before = len(os.listdir("/proc/self/fd"))
    for i in range(3):
        train(tmp_path / f"run{i}", iterations=1)
    assert len(os.listdir("/proc/self/fd")) <= before


# --- going on ----------------------------------------------------------------------------------


def test_a_resumed_run_equals_an_uninterrupted_one(whole, tmp_path):
    run = train(tmp_path / "run", iterations=3)
    go_on(run, iterations=6)
    assert digest(run) == digest(whole)
    assert rows(run) == rows(whole)
    assert curve(run) == curve(whole)


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


def test_tensorboard_hides_what_was_logged_after_the_checkpoint(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tmp_path / "run", iterations=5)
    for later in (run / "checkpoints").glob("step_00000005"):
        for file in later.iterdir():
            file.write_bytes(b"")
    go_on(run, iterations=6)  # from step 4
    events = EventAccumulator(str(run))
    events.Reload()
    assert [e.step for e in events.Scalars("return_after")] == [160 * i for i in range(1, 7)]


def test_a_finished_run_can_be_extended_only_in_length(tmp_path):
    run = train(tmp_path / "run", iterations=2)
    for name, value in (("seed", 1), ("rollouts_per_task", 3), ("evaluate_tasks", 5)):
        with pytest.raises(UserError, match=f"{name} cannot change"):
            go_on(run, **{name: value})
    checkpoint = checkpoints.load(checkpoints.newest(run))
    with pytest.raises(UserError, match="inner_lr cannot change"):
        resume(checkpoint, train_config(checkpoint), replace(SMALL, inner_lr=0.2))


def test_an_older_checkpoint_goes_on_in_a_folder_of_its_own(whole, tmp_path):
    old = checkpoints.load(whole / "checkpoints" / "step_00000002")
    with pytest.raises(UserError, match="not the newest checkpoint of its run"):
        resume(old, train_config(old), SMALL)
    before = sorted(p.name for p in (whole / "checkpoints").iterdir())
    fork = resume(old, replace(train_config(old), out=str(tmp_path / "fork")), SMALL)
    assert digest(fork) == digest(whole)
    assert rows(fork) == rows(whole)
    assert curve(fork) == curve(whole)
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == before


def test_the_thread_count_is_recorded_and_restored(tmp_path):
    run = train(tmp_path / "run", iterations=1, threads=2)
    torch.set_num_threads(1)
    go_on(run, iterations=2, threads=None)
    assert torch.get_num_threads() == 2
    assert json.loads((run / "config.json").read_text())["threads"] == 2


# --- signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_iteration_and_saves_it(whole, tmp_path, number, code):
    with pytest.raises(TrainingStopped, match="metarl train --resume") as stopped:
        steer(tmp_path / "run", 3, lambda _: signal.raise_signal(number))
    assert stopped.value.exit_code == code
    assert checkpoints.newest(tmp_path / "run").name == "step_00000003"
    go_on(tmp_path / "run")
    assert digest(tmp_path / "run") == digest(whole)
    assert curve(tmp_path / "run") == curve(whole)
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)


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
    monkeypatch.setattr("metarl.training.SNAPSHOT_BYTES", 0)

    def spoil_and_hang(learner):
        learner.theta = learner.theta + 1.0
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    with pytest.raises(TrainingStopped):
        steer(tmp_path / "run", 4, spoil_and_hang)
    assert checkpoints.newest(tmp_path / "run").name == "step_00000002"
    go_on(tmp_path / "run")
    assert digest(tmp_path / "run") == digest(whole)


def test_a_second_signal_does_not_wait():
    def impatient():
        with StopSignals(grace=60) as stop, stop.may_leave():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            time.sleep(60)

    began = time.monotonic()
    with pytest.raises(interrupts.Left):
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


# --- what goes wrong ---------------------------------------------------------------------------


def test_weights_that_are_not_finite_stop_the_run(tmp_path):
    def poison(learner):
        learner.theta = learner.theta.clone()
        learner.theta[1] = float("nan")

    with pytest.raises(UserError, match=r"iteration 4: 1 of \d+ numbers of 'theta' are not finite"):
        steer(tmp_path / "run", 4, poison)
    newest = checkpoints.load(checkpoints.newest(tmp_path / "run"))
    assert newest.step == 3
    assert torch.isfinite(newest.tensors["theta"]).all()


def test_metrics_that_are_not_finite_are_reported_and_written(tmp_path, capsys):
    def blur(learner):
        learner.extra = {"kl": float("nan")}

    run = steer(tmp_path / "run", 6, blur, progress=True)
    assert "warning: iteration 6: not finite: kl" in capsys.readouterr().out
    assert rows(run)[-1]["kl"] == "nan"


def test_an_error_of_the_learner_loses_no_iteration(whole, tmp_path):
    def fail(learner):
        learner.theta = learner.theta * 0
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        steer(tmp_path / "run", 6, fail)
    assert checkpoints.newest(tmp_path / "run").name == "step_00000005"
    go_on(tmp_path / "run")
    assert digest(tmp_path / "run") == digest(whole)


def test_an_error_of_a_callback_loses_no_iteration(whole, tmp_path):
    run = tmp_path / "run"

    def plot(iteration, learner, metrics):
        if iteration == 3:
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        start("point-goal", "maml-trpo", replace(TRAIN, out=str(run)), SMALL, [plot])
    assert checkpoints.newest(run).name == "step_00000003"
    go_on(run)
    assert digest(run) == digest(whole)


def test_a_full_disk_ends_in_one_line_with_the_last_checkpoint_intact(whole, tmp_path, monkeypatch):
    run = tmp_path / "run"
    sync = os.fsync

    def full(descriptor):
        if (run / "checkpoints" / "step_00000002").exists():
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device") as refused:
        train(run)
    assert "\n" not in str(refused.value)
    monkeypatch.setattr(os, "fsync", sync)
    assert checkpoints.newest(run).name == "step_00000002"
    assert not [p for p in (run / "checkpoints").iterdir() if not p.name.startswith("step_")]
    go_on(run)
    assert digest(run) == digest(whole)
    assert rows(run) == rows(whole)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write '.*file.*': "):
        train(tmp_path / "file" / "run")


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    with RunFolder(tmp_path / "run"), pytest.raises(UserError, match="is in use"):
        train(tmp_path / "run")


def test_a_run_is_not_overwritten(whole):
    before = digest(whole)
    with pytest.raises(UserError, match="already holds a run: go on with `metarl train --resume"):
        train(whole)
    assert digest(whole) == before


def test_worlds_must_fit_the_configuration(tmp_path):
    family = find_family("point-goal")
    worlds = TaskWorlds(family, 5, 1)
    with pytest.raises(UserError, match="tasks_per_iteration x rollouts_per_task = 4, not 5"):
        meta_train(MamlTrpo(worlds.spec, SMALL), worlds, TaskDistribution(family), TRAIN)


@pytest.mark.parametrize(
    ("field", "value"),
    [(name, value) for name in ("tasks_per_iteration", "iterations", "checkpoint_every", "threads")
     for value in (0, -1, 2.5, True, "3", float("nan"), 2**70)]
    + [("seed", -1), ("seed", None), ("device", "tpu"), ("out", ""), ("progress", 1),
       ("iterations", None), ("rollouts_per_task", 10**6)],
)  # fmt: skip
def test_a_configuration_names_its_bad_field(field, value):
    with pytest.raises(UserError, match=field):
        replace(TRAIN, **{field: value})


def test_a_configuration_from_a_checkpoint_is_checked():
    with pytest.raises(UserError, match=r"'x': unknown train setting 'sed' \(did you mean 'seed'"):
        TrainConfig.from_json({"sed": 1}, "x")
    with pytest.raises(UserError, match="train configuration is missing"):
        TrainConfig.from_json(None, "x")


# --- metrics.csv -------------------------------------------------------------------------------


def test_a_metric_that_appears_later_gets_a_column(tmp_path):
    path = tmp_path / "metrics.csv"
    file = MetricsCsv(path, upto=0)
    file.write({"iteration": 1, "b": 2.0, "a": 3.0}, {})
    file.write({"iteration": 2, "c": 4.0, "b": 5.0, "a": 6.0}, {})
    file.close()
    assert path.read_text().splitlines() == ["iteration,b,a,c", "1,2.0,3.0,", "2,5.0,6.0,4.0"]
    file = MetricsCsv(path, upto=1)
    file.write({"iteration": 2, "b": 1.0, "a": 1.0, "c": 1.0}, {})
    file.close()
    assert path.read_text().splitlines() == ["iteration,b,a,c", "1,2.0,3.0,", "2,1.0,1.0,1.0"]


# --- kill -9 -----------------------------------------------------------------------------------

KILLED = dict(iterations=60, checkpoint_every=1, evaluate_every=20)


def train_or_go_on(run: Path) -> None:
    """What a killed process does when it is started again."""
    torch.set_num_threads(1)
    if any((run / "checkpoints").glob("step_*")):
        go_on(run)
    else:
        train(run, **KILLED)


@pytest.mark.parametrize(
    "kills",
    [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
    ids=["3 kills", "20 kills"],
)
def test_kill_9_at_any_moment_then_resume_gives_the_same_bits(tmp_path, kills):
    """With a checkpoint an iteration, many of the kills fall inside a save."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["metarl.launch", "metarl.algorithms.maml_trpo", "metarl.live", "matplotlib.figure"]
    )
    run, moment = tmp_path / "run", random.Random(kills)
    done = 0
    for _ in range(kills):
        process = context.Process(target=train_or_go_on, args=(run,))
        process.start()
        # Let it come at least one checkpoint further, then kill it up to 50 ms later.
        goal = min(done + moment.randint(1, max(1, 80 // kills)), 55)
        deadline = time.monotonic() + 60
        while process.is_alive() and time.monotonic() < deadline:
            steps = [int(p.name[5:]) for p in (run / "checkpoints").glob("step_*")]
            if max(steps, default=-1) >= goal:
                break
            time.sleep(0.002)
        time.sleep(moment.uniform(0, 0.05))
        process.kill()
        process.join()
        newest = checkpoints.newest(run)
        assert checkpoints.load(newest).step >= done  # what was saved once stays saved
        done = checkpoints.load(newest).step
    train_or_go_on(run)
    whole = train(tmp_path / "whole", **KILLED)
    assert digest(run) == digest(whole)
    assert rows(run) == rows(whole)
    assert curve(run) == curve(whole)
    left = [p.name for p in (run / "checkpoints").iterdir() if not p.name.startswith("step_")]
    assert left == []

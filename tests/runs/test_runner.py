"""The training loop: what a run leaves behind, and what goes wrong in one."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.refusals import refused
from helpers.runs import SMALL, TRAIN, curve, digest, go_on, rows, steer, train

from metarl import TaskDistribution, TaskWorlds, UserError, find_family
from metarl.algorithms.maml_trpo import MamlTrpo
from metarl.learning import checkpoint as checkpoints
from metarl.run import start_run
from metarl.runs.config import TrainConfig
from metarl.runs.run_folder import MetricsCsv, RunFolder
from metarl.runs.runner import meta_train

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
    assert [e.step for e in events.Scalars("rollout/return_after")] == [
        160 * i for i in range(1, 7)
    ]


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


def test_every_iteration_has_tasks_and_a_key_of_its_own(tmp_path, monkeypatch):
    keys, drawn, meta_step = [], [], MamlTrpo.meta_step

    def spy(self, worlds, tasks, key):
        keys.append(key)
        drawn.append(tasks.values.tobytes())
        return meta_step(self, worlds, tasks, key)

    monkeypatch.setattr(MamlTrpo, "meta_step", spy)
    train(tmp_path / "run", iterations=3)
    assert len(set(keys)) == len(set(drawn)) == 3


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
        start_run("point-goal", "maml-trpo", replace(TRAIN, out=str(run)), SMALL, [plot])
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
    with refused(match="No space left on device"):
        train(run)
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

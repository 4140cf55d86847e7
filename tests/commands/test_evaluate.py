"""`metarl evaluate` and `metarl adapt`, from the outside."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.refusals import refused

from metarl.cli import main
from metarl.learning import checkpoint as checkpoints
from metarl.runs import progress

NAN = float("nan")


def test_evaluate_prints_json_alone_on_a_dash(trained_run, capsys):
    assert (
        main(["evaluate", str(trained_run), "--tasks", "3", "--episodes", "2", "--json", "-"]) == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert list(report) == [
        "family", "algorithm", "split", "seed", "rollouts_per_task", "task_names", "tasks",
        "returns", "experience", "iqm", "ci95", "mean", "stand_still", "env_steps", "seconds",
        "diverged", "adapts_within", "train_is_heldout", "stand_still_by_task", "distinct_tasks",
    ]  # fmt: skip
    assert (report["family"], report["algorithm"]) == ("point-goal", "maml-trpo")
    assert report["experience"] == [0, 2, 4]
    assert (len(report["returns"]), len(report["returns"][0])) == (3, 3)


def test_evaluate_says_which_checkpoint_it_takes_and_why(trained_run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(trained_run, copy)
    *_, old, new = checkpoints.checkpoints(copy / "checkpoints")
    (new / "weights.safetensors").write_bytes(b"x")
    assert main(["evaluate", str(copy), "--tasks", "2", "--episodes", "0"]) == 0
    got = capsys.readouterr()
    assert got.out.startswith(f"{old}: 2 heldout tasks, 2 worlds each\n")
    assert got.err.startswith(f"metarl: warning: '{new}/weights.safetensors' ")
    assert got.err.endswith(f"; using {old.name} instead\n")
    assert len(got.err.splitlines()) == 1


def test_evaluate_writes_a_file_and_takes_a_checkpoint(trained_run, tmp_path, capsys):
    file = tmp_path / "new folder" / "report.json"
    step = str(checkpoints.newest(Path(trained_run)))
    argv = ["evaluate", step, "--split", "ood", "--tasks", "2", "--rollouts-per-task", "3"]
    assert main([*argv, "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert (report["split"], report["rollouts_per_task"], report["experience"]) == (
        "ood", 3, [0, 3, 6, 9],
    )  # fmt: skip
    assert f"wrote {file}" in capsys.readouterr().out


def test_adapt_agrees_with_evaluate_to_the_bit(trained_run, tmp_path, capsys):
    from metarl import TaskDistribution, TaskWorlds, evaluate, find_family
    from metarl.learning.adaptation import adapt_to

    learner = checkpoints.restore(checkpoints.load(checkpoints.newest(Path(trained_run))))
    family = find_family("point-goal")
    task = TaskDistribution(family).make(goal_x=0.5)
    worlds = TaskWorlds(family, 3, 1)
    rounds = list(adapt_to(learner, worlds, task, episodes=2, seed=4))
    report = evaluate(learner, worlds, task, episodes=2, seed=4)
    assert [r.experience for r in rounds] == report.experience
    assert [float(r.returns.mean()) for r in rounds] == report.mean


def test_adapt_prints_the_rounds_and_saves_the_policy(trained_run, tmp_path, capsys):
    out = tmp_path / "adapted"
    argv = ["adapt", str(trained_run), "--set", "goal_x=-0.5", "--set", "goal-y=0.25"]
    assert main([*argv, "--episodes", "2", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "goal_x=-0.5, goal_y=0.25" in lines[0]
    assert [line.split()[1] for line in lines[1:4]] == ["0", "2", "4"]
    about = json.loads((out / "adapted.json").read_text())
    assert about["task"]["values"] == [[-0.5, 0.25]]
    assert about["experience"] == [0, 2, 4]
    tensors = safetensors.torch.load_file(out / "adapted.safetensors")
    prior = checkpoints.load(checkpoints.newest(Path(trained_run))).tensors["theta"]
    assert torch.equal(tensors["theta"], prior)
    assert tensors["state.params"].shape == (1, len(prior))
    assert torch.equal(tensors["state.params"][0], prior) == (about["round"] == 0)


@pytest.fixture
def adapted(trained_run, tmp_path) -> Path:
    out = tmp_path / "adapted"
    argv = ["adapt", str(trained_run), "--set", "goal_x=0.5", "--episodes", "1", "--seed", "3"]
    assert main([*argv, "--rollouts-per-task", "2", "--out", str(out)]) == 0
    return out


def test_a_policy_is_replaced_whole_and_nothing_else_is(trained_run, adapted, tmp_path, capsys):
    argv = ["adapt", str(trained_run), "--episodes", "0", "--rollouts-per-task", "2", "--out"]
    assert main([*argv, str(adapted)]) == 0
    assert json.loads((adapted / "adapted.json").read_text())["experience"] == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["adapted"]
    (adapted / "diary.txt").write_text("dear")
    assert main([*argv, str(adapted)]) == 2
    assert "holds something else than a policy" in capsys.readouterr().err
    assert (adapted / "diary.txt").is_file()


@pytest.mark.parametrize(
    ("means", "best"), [((1, 3, 2), 1), ((1, 1), 0), ((NAN, 1, NAN), 1), ((NAN, NAN), 1), ((2,), 0)]
)
def test_the_best_round_is_saved(means, best):
    from metarl.learning.adaptation import Round, best_round

    assert (
        best_round([Round(k, torch.tensor([float(m)]), None) for k, m in enumerate(means)]) == best
    )


def test_a_later_round_that_is_worse_is_said(trained_run, tmp_path, capsys, monkeypatch):
    from metarl.learning import adaptation

    worse = adaptation.adapt_to

    def adapt_to(*args, **kwargs):
        for k, one in enumerate(worse(*args, **kwargs)):
            yield one._replace(returns=one.returns * 0 - [3, 1, 2][k])

    monkeypatch.setattr(adaptation, "adapt_to", adapt_to)
    out = tmp_path / "a"
    assert main(["adapt", str(trained_run), "--episodes", "2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert (
        "note: later rounds are worse: the policy after 2 episodes is the one that is saved" in said
    )
    assert "return -1.00" in said.splitlines()[-1]
    assert json.loads((out / "adapted.json").read_text())["round"] == 1


def test_a_saved_policy_earns_what_its_round_did(adapted):
    from metarl import TaskDistribution, TaskWorlds, collect, load_adapted
    from metarl.base.keys import Key

    learner, state = load_adapted(adapted)
    worlds = TaskWorlds("point-goal", 2, 1)
    worlds.set_tasks(TaskDistribution(worlds.family).make(goal_x=0.5), 2)
    about = json.loads((adapted / "adapted.json").read_text())
    key = Key(3, "evaluate").fold("score", about["round"])
    worlds.seed(key)
    worlds.reset()
    data, _ = collect(worlds, learner, state, worlds.spec.horizon, key, explore=False)
    assert float(data.first_episode_return().mean()) == about["returns"][about["round"]]
    assert about["returns"][about["round"]] == max(about["returns"])


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def change(folder: Path, **entries) -> None:
    path = folder / "adapted.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "adapted.json").unlink(), "adapted.json' is missing: not a whole policy"),
        (lambda f: (f / "adapted.safetensors").unlink(), "is missing: not a whole policy"),
        (lambda f: (f / "adapted.json").write_text("[]"), "not a policy that can be read"),
        (lambda f: (f / "adapted.safetensors").write_bytes(b"x"), "was changed after it was writ"),
        (lambda f: pipe(f / "adapted.json"), "it is no regular file"),
        (lambda f: pipe(f / "adapted.safetensors"), "it is no regular file"),
        (lambda f: change(f, format=1), "its format is 1, this metarl reads 2"),
        (lambda f: change(f, algorithm="rl3"), "unknown algorithm 'rl3'"),
        (lambda f: change(f, spec={"observation_size": 4}), "its spec"),
        (lambda f: change(f, learner_config={"inner_lr": "x"}), "adapted"),
        (lambda f: change(f, algorithm=f"{f / 'mine.py'}:Mine"), "mine.py', which is not there"),
    ],
)
def test_a_damaged_policy_is_refused_in_one_line(adapted, damage, message):
    from metarl import load_adapted

    damage(adapted)
    with refused(message):
        load_adapted(adapted)


def test_adapt_says_what_lies_outside_the_training_range(trained_run, capsys):
    note = "note: goal_x=7 is outside the training range [-1, 1]\n"
    assert main(["adapt", str(trained_run), "--set", "goal_x=7", "--episodes", "0"]) == 0
    assert note in capsys.readouterr().out
    assert main(["adapt", str(trained_run), "--set", "goal_x=1", "--episodes", "0"]) == 0
    assert "note" not in capsys.readouterr().out


def test_reading_commands_leave_the_run_alone(trained_run):
    before = {p: p.stat().st_mtime_ns for p in Path(trained_run).rglob("*")}
    assert main(["evaluate", str(trained_run), "--tasks", "2", "--episodes", "1"]) == 0
    assert main(["adapt", str(trained_run), "--episodes", "1"]) == 0
    assert {p: p.stat().st_mtime_ns for p in Path(trained_run).rglob("*")} == before


# --- agents by name, and progress --------------------------------------------------------------


def test_an_agent_goes_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "half-cheetah-dynamics-maml-trpo"
    words = ["--threads", "1", "--rollouts-per-task", "1", "--episodes", "0"]
    assert main(["evaluate", name, "--tasks", "1", *words]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: 1 heldout task, 1 world each\n")
    assert "heldout: 1 task, 1 world each" in out
    assert main(["report", name, "--no-evaluate"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert main(["adapt", "half-cheetah-dynamics-maml"]) == 2
    assert f"no agent of that name (did you mean '{name}'?)" in capsys.readouterr().err
    (tmp_path / name).mkdir()  # a folder of one's own of that name comes first
    assert main(["evaluate", name, *words]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err


def test_progress_is_lines_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.bar("evaluating") as show:
        for done in (1, 2, 3):
            show(done, 3)
    got = capsys.readouterr()
    assert got.out == ""  # which may be a report's JSON
    assert [line.partition(",")[0] for line in got.err.splitlines()] == [
        "evaluating: 1 of 3", "evaluating: 2 of 3",
    ]  # fmt: skip

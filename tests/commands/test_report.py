"""`metarl report` on a run folder, also a damaged one, and the page that training keeps."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers.html import Structure, check, words
from helpers.runs import train

from metarl import cli
from metarl.commands.report import Protocol, add_reports
from metarl.evaluation.protocol import Report
from metarl.report.page import render
from metarl.report.run_summary import evaluation_path, read_run

pytestmark = pytest.mark.pages

SMALL = Protocol(tasks=4, episodes=1, threads=1, device="cpu")
FLAGS = ["--tasks", "4", "--episodes", "1", "--threads", "1", "--device", "cpu"]


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    """A copy of the small run, to be damaged."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def report(run: Path, *flags: str, capsys) -> tuple[str, str]:
    code = cli.main(["report", str(run), *FLAGS, *flags])
    said = capsys.readouterr()
    assert code == 0, said.err
    return (run / "report.html").read_text(), said.out


@pytest.mark.usefixtures("_empty_charts")
def test_missing_evaluations_are_made_and_kept(run, capsys):
    page, said = report(run, capsys=capsys)
    check(page)
    assert said.count("evaluating on 4") == 2
    assert "Adaptation outside the box" in page
    assert evaluation_path(run, "ood", 2).is_file()
    kept = Report.load(evaluation_path(run, "heldout", 2))
    assert cli.main(["evaluate", str(run), "--json", "-", *FLAGS]) == 0
    same = json.loads(capsys.readouterr().out)
    assert (same["returns"], same["iqm"]) == (kept.returns, kept.iqm)
    _, said = report(run, capsys=capsys)
    assert "evaluating" not in said
    _, said = report(run, "--seed", "4", capsys=capsys)
    assert said.count("evaluating on 4") == 2
    assert str(run) not in page


@pytest.mark.usefixtures("_empty_charts")
def test_no_evaluate_shows_what_there_is(run, capsys):
    page, said = report(run, "--no-evaluate", capsys=capsys)
    check(page)
    assert "There is no evaluation on ood tasks." in page
    assert "note: run: There is no evaluation on ood tasks." in said
    assert "Adaptation to held-out tasks" in page


DAMAGE = {
    "half-written evaluation": ("evaluation/test_heldout_step_00000002.json", '{"family": "poi'),
    "of other fields": ("evaluation/test_heldout_step_00000002.json", '{"format": 2}'),
    "of another kind": ("evaluation/test_heldout_step_00000002.json", "[1, 2]"),
    "half-written curve": ("curve.json", '[{"env_steps": 0,'),
    "curve of another kind": ("curve.json", '[1, {"env_steps": "x"}]'),
    "no config": ("config.json", None),
    "config of another kind": ("config.json", '{"train": 7, "versions": []}'),
    "no curve": ("curve.json", None),
    "no weights": ("checkpoints/step_00000002/weights.safetensors", None),
}


SEEN = ("of other fields", "half-written curve", "no weights")
"""What is looked at also without evaluating, in the fast tests."""
CASES = [
    pytest.param(
        flags, damage, id=f"{label}-{damage}",
        marks=[pytest.mark.slow] if flags and damage not in SEEN else [],
    )
    for label, flags in (("evaluate", ()), ("no-evaluate", ("--no-evaluate",)))
    for damage in DAMAGE
]  # fmt: skip


@pytest.mark.usefixtures("_empty_charts")
@pytest.mark.parametrize(("flags", "damage"), CASES)
def test_what_cannot_be_read_is_said_and_the_rest_is_shown(run, damage, flags, capsys):
    name, text = DAMAGE[damage]
    if text is None:
        (run / name).unlink()
    else:
        (run / name).write_text(text)
    page, _ = report(run, *flags, capsys=capsys)
    check(page)
    assert "Adaptation to held-out tasks" in page
    if "evaluation/" in name:
        note = re.search(r"<li>(An evaluation cannot be read|cannot read)[^<]*</li>", page)
        assert note
        assert ("evaluated again" in note[0]) == (not flags)
    if name == "curve.json":  # the checkpoint has the curve, too
        assert ">Learning<" in page


@pytest.mark.usefixtures("_empty_charts")
def test_evaluations_of_older_weights_or_other_versions(run, capsys):
    report(run, capsys=capsys)
    made_at = evaluation_path(run, "heldout", 2)
    old = json.loads(made_at.read_text())
    made_at.write_text(json.dumps(old | {"versions": {"mujoco": "3.0.0"}}))
    page, _ = report(run, "--no-evaluate", capsys=capsys)
    assert "The heldout evaluation was made with mujoco 3.0.0; here is" in page
    page, said = report(run, capsys=capsys)
    assert "3.0.0" not in page
    assert "evaluating on 4 heldout" in said
    made_at.rename(evaluation_path(run, "heldout", 1))
    page, _ = report(run, "--no-evaluate", capsys=capsys)
    assert "is of iteration 1; the newest checkpoint is of 2" in page
    add_reports(found := read_run(run), run, SMALL, lambda line: None)
    assert not found.stale


def test_an_evaluation_of_another_split_is_not_taken(run):
    report_path = evaluation_path(run, "ood", 2)
    shutil.copy(next((run / "evaluation").glob("heldout_step_*2.json")), report_path)
    found = read_run(run)
    assert "ood" not in found.reports
    assert any("heldout tasks of point-goal" in text for _, text in found.notes)


@pytest.mark.usefixtures("_empty_charts")
def test_a_run_that_cannot_be_loaded_is_shown_all_the_same(run, capsys):
    shutil.rmtree(run / "checkpoints")
    page, _ = report(run, capsys=capsys)
    check(page)
    assert "No checkpoint could be read" in page
    assert "It could not be evaluated" in page
    assert "Adaptation to held-out tasks" in page


def test_two_runs(run, trained_run, tmp_path, capsys):
    out = tmp_path / "both.html"
    assert cli.main(["report", str(run), str(trained_run), "--no-evaluate", "--out", str(out)]) == 0
    page = out.read_text()
    check(page)
    assert "Compared on the same tasks" in page


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["nowhere"], "there is no run or checkpoint 'nowhere'"),
        (["{run}", "--out", "x.pdf"], "the report is HTML"),
        (["{run}", "--tasks", "0"], "tasks must be"),
        (["{run}", "--task", "3"], "did you mean"),
        (["{run}", "{empty}"], "neither config.json nor a checkpoint"),
        (["{run}", "--no-evaluate", "--out", "{file}/x.html"], "cannot write"),
        ([], "RUN"),
    ],
)
def test_bad_input_is_one_line(trained_run, tmp_path, capsys, argv, match):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    names = {"run": trained_run, "empty": tmp_path / "empty", "file": tmp_path / "file"}
    assert cli.main(["report", *(word.format(**names) for word in argv)]) == 2
    said = capsys.readouterr().err
    assert match in said
    assert said.count("\n") == 1


# --- while it trains ---------------------------------------------------------------------------


def test_training_leaves_a_page_and_figures(tmp_path):
    run = train(tmp_path / "run", iterations=2, evaluate_every=2)
    page = (run / "report.html").read_text()
    text = words(page)
    assert "2 iterations" in text
    assert "training goes on" not in text
    assert 'http-equiv="refresh"' not in page
    assert page.count('class="chart"') >= 3
    Structure(page)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    assert len(events.Images("heldout/adaptation")) == 2


@pytest.mark.usefixtures("_empty_charts")
def test_a_running_page_reads_itself_again(trained_run):
    found = read_run(trained_run, {"iteration": 1, "env_steps": 100, "seconds": 2.0})
    page = render([found], live=True, running=True)
    assert '<meta http-equiv="refresh" content="30">' in page
    assert "training goes on" in page
    assert "There is no evaluation on ood" not in page


def test_a_page_that_cannot_be_written_ends_no_training(tmp_path, capsys, monkeypatch):
    from dataclasses import replace

    from metarl.algorithms.maml_trpo import MamlTrpoConfig
    from metarl.run import start_run
    from metarl.runs.config import TrainConfig

    def broken(*args, **kwargs):
        raise RuntimeError("no page\ntoday")

    monkeypatch.setattr("metarl.report.callbacks.write_page", broken)
    monkeypatch.setattr("metarl.report.callbacks.adaptation_figure", broken)
    config = TrainConfig(
        tasks_per_iteration=2, rollouts_per_task=2, iterations=2, evaluate_every=1,
        evaluate_tasks=2, threads=1, device="cpu",
    )  # fmt: skip
    config = replace(config, out=str(tmp_path / "run"))
    start_run("point-goal", "maml-trpo", config, MamlTrpoConfig(hidden=(4,), cg_iterations=2))
    said = capsys.readouterr().out
    assert said.count("no page today; the training goes on") == 2  # page and figure
    assert not (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "checkpoints" / "step_00000002").is_dir()

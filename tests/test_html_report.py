"""The report: whole, self-contained, true to its numbers, and of use when half of it is missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from metarl import UserError, cli
from metarl.evaluation import Report, gain_interval
from metarl.html_report import duration, render, write_page
from metarl.report_tasks import common_rows, rank_correlation, scores, task_words
from metarl.run_summary import Protocol, RunSummary, add_reports, evaluation_path, read_run

VOID = {"meta", "img", "br"}
SMALL = Protocol(tasks=4, episodes=1, threads=1, device="cpu")
FLAGS = ["--tasks", "4", "--episodes", "1", "--threads", "1", "--device", "cpu"]


def made(returns, tasks=None, split: str = "heldout", experience=(0, 20), names=("x",)) -> Report:
    table = np.asarray(returns, float)
    tasks = tasks or [[float(n)] for n in range(len(table))]
    mean = table.mean(0).tolist()
    return Report(
        "toy", "maml-trpo", split, 0, 20, list(names), tasks, table.tolist(), list(experience),
        mean, [[value - 1, value + 1] for value in mean], mean, -12.0, 10, 1.0,
    )  # fmt: skip


def summary(label: str, heldout: Report | None = None, ood: Report | None = None) -> RunSummary:
    run = RunSummary(Path(f"runs/{label}"), label, "toy", "maml-trpo", 1, 10, 1000, 65.0, True)
    run.curve = [
        {"env_steps": n * 500, "before": -9.0, "after": -9.0 + n, "before_ci": [-10, -8],
         "after_ci": [-10 + n, -8 + n], "experience": [0, 20], "stand_still": -12.0}
        for n in range(3)
    ]  # fmt: skip
    for report in (heldout, ood):
        if report is not None:
            run.reports[report.split] = report
    return run


class Structure(HTMLParser):
    """Checks that elements close in order, and collects what could reach out of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(page)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def check(page: str) -> Structure:
    """A page is well-formed, and holds nothing that a network would be asked for."""
    found = Structure(page)
    assert "script" not in found.tags
    assert "link" not in found.tags
    assert all(link.startswith("data:") for link in found.links), found.links
    assert "@import" not in page
    assert not re.search(r"url\(|https?://", page)
    assert not re.search(r"\bNaN\b|\bnan\b|\binf\b", page)
    assert 'name="viewport"' in page
    return found


def words(page: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.S).split())


# --- one run -----------------------------------------------------------------------------------


def test_a_page_says_what_the_report_says():
    returns = [[-10.0, -4.0], [-20.0, -5.0], [-6.0, -9.0]]
    page = render([summary("a", made(returns), made(returns, split="ood"))])
    found = check(page)
    assert found.tags.count("svg") > 4
    text = words(page)
    assert "Run a , seed 1: 10 iterations, 1k env steps, 65 s." in text
    assert "from −12 to −6 (+6" in text
    assert "raises the return on 2 of 3 held-out tasks and lowers it on 1" in text
    best, worst = text.index("x 1 −20 −5 +15"), text.index("x 2 −6 −9 −3")
    assert best < worst


def test_two_parameters_have_maps():
    tasks = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    run = summary("a", made([[-1, 2], [-2, 3], [-3, 1]], tasks, names=("x", "y")))
    page = render([run])
    check(page)
    assert "Gain by adaptation" in page
    assert "Return over y" in page


def test_names_from_files_are_text_and_not_markup():
    run = summary("<img src=x>", made([[-1.0, 2.0]], names=("<b>",)))
    run.train = {"note": "</table><script>alert(1)</script>"}
    run.note("<i>odd</i>")
    check(render([run]))


def test_a_run_without_parameters_or_adaptation():
    run = summary("a", made([[-1.0], [-2.0]], [[], []], experience=(0,), names=()))
    run.reports["heldout"] = Report.from_json(json.loads(json.dumps(
        run.reports["heldout"].to_json() | {"tasks": [[], []]})))  # fmt: skip
    check(render([run]))


def test_videos_are_in_the_page_up_to_a_size(tmp_path, monkeypatch):
    run = summary("a", made([[-1.0, 2.0]]))
    for name in ("one.mp4", "two.gif"):
        (tmp_path / name).write_bytes(b"video" * 100)
        run.videos.append(tmp_path / name)
    run.videos.append(tmp_path / "gone.mp4")
    found = check(render([run]))
    assert sorted(link.partition(";")[0] for link in found.links) == [
        "data:image/gif", "data:video/mp4",
    ]  # fmt: skip
    monkeypatch.setattr("metarl.html_report.LARGEST_VIDEO", 499)
    page = render([run])
    assert check(page).links == []
    assert "too large for this page" in page
    live = Structure(render([run], live=True))
    assert "videos/one.mp4" in live.links


# --- several -----------------------------------------------------------------------------------


def test_runs_are_compared_on_the_tasks_that_they_share():
    """a has tasks 0, 1, 2 and b has 2, 1, 7: the returns of 1 and 2 are compared, task by task."""
    a = made([[-9, -9], [-8, -4], [-7, -2]], [[0.0], [1.0], [2.0]])
    b = made([[-7, -1], [-8, -1], [-9, -9]], [[2.0], [1.0], [7.0]], experience=(0, 1))
    rows, shared = common_rows([a, b])
    assert (rows, shared) == ([[1, 2], [1, 0]], 2)
    page = render([summary("a", a), summary("b", b)])
    check(page)
    text = words(page)
    assert "Held-out tasks: 2 tasks" in text
    better = gain_interval(np.array([3.0, 1.0]), [[1.0], [2.0]], 0)[0]
    assert better == 2.0
    assert "b −7.5 −1 1 +6.5" in text
    assert "+2 [" in text
    assert "Not every run was evaluated on every task" in text


def test_tasks_that_occur_several_times_are_matched_as_often_as_both_have_them():
    a = made([[0, 1]] * 3, [[1.0], [1.0], [-1.0]])
    b = made([[0, 1]] * 3, [[-1.0], [1.0], [-1.0]])
    assert common_rows([a, b]) == ([[0, 2], [1, 0]], 2)
    both = scores(made([[0, 1], [0, 3], [2, 2]], [[1.0], [1.0], [-1.0]]))
    assert both.tasks.ravel().tolist() == [-1, 1]
    assert both.after.tolist() == [2, 2]


def test_no_shared_tasks_and_other_families():
    a, b = summary("a", made([[0, 1]], [[0.0]])), summary("b", made([[0, 1]], [[5.0]]))
    page = render([a, b])
    check(page)
    assert "different tasks" in page
    b.family = "other"
    with pytest.raises(UserError, match="different families"):
        render([a, b])


def test_runs_of_one_name_are_told_apart():
    a, b = summary("a", made([[0, 1]])), summary("a", made([[0, 2]]))
    a.path, b.path = Path("/x/one/a"), Path("/x/two/a")
    render([a, b])
    assert [a.label, b.label] == ["one/a", "two/a"]


def test_words():
    assert rank_correlation(np.arange(5), np.arange(5) ** 2) == pytest.approx(1)
    assert rank_correlation(np.ones(5), np.arange(5)) == 0
    gains = [[0, float(n)] for n in range(1, 10)]
    (line,) = task_words({"heldout": scores(made(gains))})
    assert line == (
        "Adaptation raises the return on 9 of 9 held-out tasks. The gain is larger where x is "
        "larger (rank correlation +1)."
    )
    assert [duration(s) for s in (7, 99, 600, 7500)] == ["7 s", "99 s", "10 min", "2 h 5 min"]


# --- from a run folder -------------------------------------------------------------------------


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    """A copy of the small run, to be damaged."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def report(run: Path, *flags: str, capsys) -> tuple[str, str]:
    code = cli.main(["report", str(run), *FLAGS, *flags])
    said = capsys.readouterr()
    assert code == 0, said.err
    return (run / "report.html").read_text(), said.out


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


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("flags", [(), ("--no-evaluate",)], ids=["evaluate", "no-evaluate"])
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


def test_training_leaves_a_page_and_figures(trained_run):
    page = (trained_run / "report.html").read_text()
    text = words(page)
    assert "2 iterations" in text
    assert "training goes on" not in text
    assert 'http-equiv="refresh"' not in page
    assert page.count("<polyline") >= 3
    Structure(page)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained_run))
    events.Reload()
    assert len(events.Images("heldout/adaptation")) == 3


def test_a_running_page_reads_itself_again(trained_run):
    found = read_run(trained_run, {"iteration": 1, "env_steps": 100, "seconds": 2.0})
    page = render([found], live=True, running=True)
    assert '<meta http-equiv="refresh" content="30">' in page
    assert "training goes on" in page
    assert "There is no evaluation on ood" not in page


def test_a_page_that_cannot_be_written_ends_no_training(tmp_path, capsys, monkeypatch):
    from dataclasses import replace

    from metarl.algorithms.maml_trpo import MamlTrpoConfig
    from metarl.launch import start
    from metarl.train_config import TrainConfig

    def broken(*args, **kwargs):
        raise RuntimeError("no page\ntoday")

    monkeypatch.setattr("metarl.html_report.write_page", broken)
    monkeypatch.setattr("metarl.report.adaptation_figure", broken)
    config = TrainConfig(
        tasks_per_iteration=2, rollouts_per_task=2, iterations=2, evaluate_every=1,
        evaluate_tasks=2, threads=1, device="cpu",
    )  # fmt: skip
    config = replace(config, out=str(tmp_path / "run"))
    start("point-goal", "maml-trpo", config, MamlTrpoConfig(hidden=(4,), cg_iterations=2))
    said = capsys.readouterr().out
    assert said.count("no page today; the training goes on") == 1
    assert not (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "checkpoints" / "step_00000002").is_dir()


# --- in a browser ------------------------------------------------------------------------------


def browser() -> str | None:
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("METARL_BROWSER") or next(filter(None, map(shutil.which, names)), None)


@pytest.mark.skipif(browser() is None, reason="no Chromium here; METARL_BROWSER names one")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("count", [1, 3])
def test_it_renders_in_a_browser_without_errors_or_scrolling_sideways(tmp_path, width, count):
    rng = np.random.default_rng(0)
    tasks = rng.uniform(0, 1, (30, 2)).tolist()
    runs = [
        summary(
            f"half-cheetah-with-a-long-name-maml-trpo-seed{n}",
            made(rng.normal(-1e4, 3e3, (30, 2)), tasks, names=("goal_velocity", "strength")),
        )
        for n in range(count)
    ]
    page = write_page(runs, tmp_path / "page.html").read_text()
    script = (
        "<script>document.title = 'W' + [document.documentElement.scrollWidth,"
        "document.documentElement.clientWidth, document.querySelectorAll('svg.chart').length]"
        "</script></body>"
    )
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    (tmp_path / "asked.html").write_text(page.replace("</body>", script))
    command = [
        str(browser()), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom",
    ]  # fmt: skip
    got = subprocess.run(
        [*command, f"file://{tmp_path}/asked.html"], capture_output=True, text=True, timeout=120
    )
    wide, visible, charts = map(int, re.search(r"<title>W([\d,]+)", got.stdout)[1].split(","))
    assert wide <= visible
    assert visible > width - 30
    assert charts >= 4
    plain = subprocess.run(
        [*command, f"file://{tmp_path}/page.html"], capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in plain.stderr + got.stderr

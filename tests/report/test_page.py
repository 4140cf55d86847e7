"""The report's page: whole, self-contained, and true to its numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.html import PROBE, STREAM, Structure, check, empty_charts, made, summary, words
from matplotlib.figure import Figure

from metarl import UserError
from metarl.evaluation.protocol import Report, gain_interval
from metarl.report.page import render
from metarl.report.run_summary import probe_path, read_run, stream_path
from metarl.report.sections.adapting import draw_first_episode, draw_sweep
from metarl.report.tasks import common_rows, per_task_scores, rank_correlation, task_words

# --- one run -----------------------------------------------------------------------------------


def test_a_page_says_what_the_report_says():
    returns = [[-10.0, -4.0], [-20.0, -5.0], [-6.0, -9.0]]
    page = render([summary("a", made(returns), made(returns, split="ood"))])
    found = check(page)
    assert found.tags.count("svg") == 4
    text = words(page)
    assert "Run a , seed 1: 10 iterations, 1k env steps, 65 s." in text
    assert "from −12 to −6. The interquartile mean of the gain is +6, 95 % interval" in text
    assert "Verdict: too few tasks for a verdict." in text
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
    run = summary("<img src=x>", made([[-1.0, 2.0]], names=("<b>$",)))
    run.train = {"note": "</table><script>alert(1)</script>", "<u>": 1}
    run.algorithm, run.command = "<hr>", "<s>"
    run.versions = run.machine = {"<em>": "</td>"}
    run.videos = [Path("videos/<video>.mp4")]
    run.note("<i>odd</i>")
    other = summary("<script>", made([[-1.0, 2.0]], names=("<b>$",)))
    for page in (render([run]), render([run], live=True), render([run, other])):
        found = Structure(page)
        assert not {"img", "script", "hr", "s", "em", "u"} & set(found.tags)
        assert "<i>odd" not in page
    check(render([run]))


def test_a_run_without_parameters_or_adaptation():
    run = summary("a", made([[-1.0], [-2.0]], [[], []], experience=(0,), names=()))
    run.reports["heldout"] = Report.from_json(json.loads(json.dumps(
        run.reports["heldout"].to_json() | {"tasks": [[], []]})))  # fmt: skip
    check(render([run]))


@pytest.mark.usefixtures("_empty_charts")
def test_videos_are_in_the_page_up_to_a_size(tmp_path, monkeypatch):
    run = summary("a", made([[-1.0, 2.0]]))
    for name in ("one.mp4", "two.gif"):
        (tmp_path / name).write_bytes(b"video" * 100)
        run.videos.append(tmp_path / name)
    run.videos.append(tmp_path / "gone.mp4")
    found = check(render([run]))
    videos = [link for link in found.links if link[:1] != "#"]
    assert sorted(link.partition(";")[0] for link in videos) == ["data:image/gif", "data:video/mp4"]
    monkeypatch.setattr("metarl.report.page.LARGEST_VIDEO", 499)
    page = render([run])
    assert "video" not in check(page).tags
    assert "too large for this page" in page
    live = Structure(render([run], live=True))
    assert "videos/one.mp4" in live.links


# --- several -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("_empty_charts")
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
    both = per_task_scores(made([[0, 1], [0, 3], [2, 2]], [[1.0], [1.0], [-1.0]]))
    assert both.tasks.ravel().tolist() == [-1, 1]
    assert both.after.tolist() == [2, 2]


@pytest.mark.usefixtures("_empty_charts")
def test_no_shared_tasks_and_other_families():
    a, b = summary("a", made([[0, 1]], [[0.0]])), summary("b", made([[0, 1]], [[5.0]]))
    page = render([a, b])
    check(page)
    assert "different tasks" in page
    b.family = "other"
    with pytest.raises(UserError, match="different families"):
        render([a, b])


@pytest.mark.usefixtures("_empty_charts")
def test_runs_of_one_name_are_told_apart():
    a, b = summary("a", made([[0, 1]])), summary("a", made([[0, 2]]))
    a.path, b.path = Path("/x/one/a"), Path("/x/two/a")
    render([a, b])
    assert [a.label, b.label] == ["one/a", "two/a"]


def test_words():
    assert rank_correlation(np.arange(5), np.arange(5) ** 2) == pytest.approx(1)
    assert rank_correlation(np.ones(5), np.arange(5)) == 0
    gains = [[0, float(n)] for n in range(1, 10)]
    (line,) = task_words({"heldout": per_task_scores(made(gains))})
    assert line == (
        "Adaptation raises the return on 9 of 9 held-out tasks. The gain is larger where x is "
        "larger (rank correlation +1)."
    )


def test_a_probe_is_in_the_page_for_all_runs():
    """The mean leaves out the task on which every world diverged."""
    a, b, c = (summary(name, made([[-1.0, 2.0]])) for name in "abc")
    a.probe, b.probe = PROBE, PROBE | {"identified": None, "readable": {}}
    page = render([a, b, c])
    check(page)
    text = words(page)
    assert "it sees rewards of 0, while it acts and while it adapts 2 −2 [−3, −1]" in text
    assert "the policy after its rounds of adaptation 4" in text
    assert "Reward hidden: too few tasks for a verdict; in 1 task all diverged." in text
    assert "x 0.75 &lt;y&gt; —" in text
    assert "90 % of its way to the final rate by step 18." in text
    assert "The first episode does not come to 90 % of the final reward." in text
    assert "Within the first episode" in text
    assert "Sweep of &lt;y&gt;" in text
    with empty_charts():
        text = words(render([c]))
    assert "Within the first episode" not in text
    assert "Sweep of" not in text


@pytest.mark.usefixtures("_empty_charts")
def test_a_probe_says_in_the_page_what_the_command_says():
    """An interval without 0 is a verdict on enough tasks, and on fewer it is none."""
    run, many = summary("a", made([[-1.0, 2.0]])), list(range(12))
    change = [-2.0, -3.0, -1.0]
    for tasks, said in (
        ([[n] for n in many], "it costs return, so the policy makes use of it."),
        ([[n % 2] for n in many[:4]], "too few tasks for a verdict."),
    ):
        returns = [0.0] * len(tasks)
        effects = {name: {"returns": returns, "change": change} for name in PROBE["effects"]}
        run.probe = PROBE | {"effects": effects, "tasks": tasks}
        assert f"Reward hidden: {said}" in words(render([run]))


def test_a_sweep_is_grey_beside_and_between_values_that_training_does_not_draw():
    run = summary("a", made([[-1.0, 2.0]]))
    run.probe = PROBE
    axes = Figure().add_subplot()
    draw_sweep(axes, [run], "<y>")
    first, last = (line.get_ydata() for line in axes.get_lines())
    assert np.isnan(first[1])
    assert last.tolist() == [1.0, 1.0, 2.0]
    assert [(patch.get_x(), patch.get_width()) for patch in axes.patches] == [(1.0, 1.0)]


@pytest.mark.parametrize(("change", "note"), [
    ({}, None), ({"step": 3}, "The probe is of iteration 3"), ({"first": []}, "cannot be read"),
    ({"readable": {"x": "high"}}, "cannot be read"), ({"effects": None}, "cannot be read"),
    ({"first": [None]}, "cannot be read"), ({"sweeps": {}}, None),
    ({"sweeps": []}, "cannot be read"),
    ({"sweeps": {"x": PROBE["sweeps"]["<y>"] | {"last": [1.0]}}}, "cannot be read"),
    ({"tasks": [[0.0]] * 3}, None), ({"tasks": [[0.0]] * 2}, "cannot be read"),
    ({"step": 10**400}, "cannot be read"), ({"tasks": 7}, "cannot be read"),
    ({"effects": {"as it is": {"returns": [1.0], "change": [0.0]}}}, "cannot be read"),
])  # fmt: skip
def test_a_probe_is_read_if_it_is_whole(tmp_path, change, note):
    (tmp_path / "config.json").write_text("{}")
    path = probe_path(tmp_path, "heldout")
    path.parent.mkdir()
    path.write_text(json.dumps(PROBE | change))
    run = read_run(tmp_path)
    said = [text for _, text in run.notes if text.startswith(("The probe", "probe/"))]
    assert bool(run.probe) == (note != "cannot be read")
    assert len(said) == (note is not None)
    assert all(note in text for text in said)


def test_a_stream_is_in_the_page_with_its_regret():
    a, b = (summary(name, made([[-1.0, 2.0]])) for name in "ab")
    a.stream, b.stream = STREAM, STREAM | {"reference": None, "drift": True}
    page = render([a])
    check(page)
    text = words(page)
    assert "Tasks change every 50 steps on average, in 3 streams of 2 episodes." in text
    assert "rl2 on toy 2 5 [4, 6] 12 steps [9, 15], after a loss of 0.5 a step" in text
    assert "ppo on toy+told 4.25 oracle —" in text
    assert "Regret against the oracle" in text
    assert "Return while tasks change" in text
    with empty_charts():
        without, none = (words(render([run])) for run in (b, summary("c", made([[0, 1]]))))
    assert "Regret" not in without
    assert "Where tasks change without notice" in without
    assert "Where tasks change without notice" not in none
    failed = {"diverged": 9, "worlds_each": 1, "left_out": 4, "gaps": 2}
    curve = {"mean": [None, None], "iqm": [None] * 2, "ci95": [[None, None]] * 2}
    lost = STREAM["runs"][0] | failed | {"windows": curve, "regret": curve}
    a.stream = STREAM | {"runs": [lost]}
    with empty_charts():
        text = words(render([a]))
    assert "rl2 on toy all diverged all diverged 12 steps" in text
    assert "9 steps of rl2 on toy diverged: 4 of 6 episodes are left out; 2 of 3 streams" in text


@pytest.mark.parametrize(("change", "note"), [
    ({}, None), ({"step": 3}, "The stream is of iteration 3"), ({"runs": []}, "cannot be read"),
    ({"runs": [{}]}, "cannot be read"), ({"every": None}, "cannot be read"),
    *(
        ({"runs": [STREAM["runs"][0] | change]}, "cannot be read")
        for change in (
            {"windows": {"mean": [], "iqm": [], "ci95": []}}, {"windows": None},
            {"windows": {"mean": [1.0], "iqm": [1.0], "ci95": [[1.0]]}}, {"algorithm": ["rl2"]},
            {"recovery": {"steps": "many"}}, {"diverged": 3},
        )
    ),
])  # fmt: skip
def test_a_stream_is_read_if_it_is_whole(tmp_path, change, note):
    (tmp_path / "config.json").write_text("{}")
    path = stream_path(tmp_path, "heldout")
    path.parent.mkdir()
    path.write_text(json.dumps(STREAM | change))
    run = read_run(tmp_path)
    said = [text for _, text in run.notes if text.startswith(("The stream", "stream/"))]
    assert bool(run.stream) == (note != "cannot be read")
    assert len(said) == (note is not None)
    assert all(note in text for text in said)


def test_the_score_stands_between_a_blind_policy_and_an_oracle():
    """Blind −10, oracle 10: a learner at 0 and then at 10 has a score of 0.5 and of 1."""
    tasks = [[float(n)] for n in range(12)]

    def line(algorithm: str, family: str, *curve: float) -> Report:
        returns = [[value + 0.1 * (n % 3) for value in curve] for n in range(12)]
        found = made(returns, tasks, experience=(0, 20)[: len(curve)])
        return replace(found, algorithm=algorithm, family=family)

    blind = summary("blind", line("ppo", "toy", -10.0))
    oracle = summary("oracle", line("ppo", "toy+told", 10.0))
    oracle.family = "toy+told"
    learner = summary("learner", line("rl2", "toy", 0.0, 10.0))
    page = render([learner, blind, oracle])
    check(page)
    text = words(page)
    assert "Does adapting pay?" in text
    assert "learner 0.50 [0.50, 0.50] 1.00 [1.00, 1.00]" in text
    assert "Knowing the task is worth 20, 95 % interval 20 to 20 here." in text
    poor = summary("oracle", line("ppo", "toy+told", -10.0))
    with empty_charts():
        assert "Does adapting pay?" not in words(render([learner, blind]))
        assert "no score: the oracle is not shown" in words(render([learner, blind, poor]))


# --- what the mean does not say ----------------------------------------------------------------


@pytest.mark.usefixtures("_empty_charts")
def test_the_worst_tail_and_what_is_measured_are_in_the_page():
    """Of 200 tasks with returns 0 to 199 the worst ten have a mean of 4.5, then of 9."""
    returns = [[float(n), 2.0 * n] for n in range(200)]
    said = {"measured/slip_speed": [[1.0, np.nan], [3.0, np.nan]], "std": [[1.0]]}
    many = replace(made(returns), diagnostics=said)
    page = render([summary("a", many)])
    check(page)
    text = words(page)
    assert "What the mean return does not say" in text
    assert "mean return of the worst 5 % of tasks 4.5 9" in text
    assert "slip speed 1 3" in text
    few = render([summary("a", made(returns[:199]))])
    assert "What the mean return does not say" not in words(few)


def test_the_agreement_of_inner_gradients_is_read_and_drawn(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.csv").write_text(
        "env_steps,inner_agreement,kl,reward/run\n10,0.5,1,2\n20,nan,1,2\n30,0.7,1,3\n"
    )
    run = read_run(tmp_path)
    assert run.checks == {"inner_agreement": [(10.0, 0.5), (30.0, 0.7)]}
    assert run.terms == {"run": [(10.0, 2.0), (20.0, 2.0), (30.0, 3.0)]}
    other = summary("b", made([[-1.0, 2.0]]))
    with empty_charts():
        assert "Agreement of inner gradients" not in render([other])
    other.checks = run.checks
    check(page := render([other]))
    assert "Agreement of inner gradients" in page


def test_blind_and_oracle_are_dashed_beside_a_learner_that_was_probed():
    runs = [summary(name) for name in ("learner", "blind", "oracle")]
    for run, algorithm, family in zip(
        runs, ("rl2", "ppo", "ppo"), ("toy", "toy", "toy+told"), strict=True
    ):
        run.algorithm, run.family, run.probe = algorithm, family, PROBE
    axes = Figure().add_subplot()
    draw_first_episode(axes, runs)
    curves = [line for line in axes.get_lines() if line.get_label()[0] != "_"]
    assert [(line.get_label(), line.get_linestyle()) for line in curves] == [
        ("learner", "-"), ("blind, blind", "--"), ("oracle, oracle", "--"),
    ]  # fmt: skip
    assert len(axes.get_lines()) == 4  # the learner's time of identification

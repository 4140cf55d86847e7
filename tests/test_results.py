"""The results tables: what they say of the files, and that they are of the files as they are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from metarl.base.keys import Key
from metarl.evaluation.protocol import Report
from metarl.evaluation.statistics import iqm_interval
from metarl.report.charts import plot_comparison
from metarl.runs.presets import MEASURED

ROOT = Path(__file__).resolve().parents[1]


def summarise(name: str = "summarise"):
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "experiments")
        spec.loader.exec_module(module)
    return module


def result(seed: int, mean: list[float], experience: list[int], *, iteration: int = 5) -> dict:
    report = {
        "family": "toy", "algorithm": "a", "split": "heldout", "seed": 0, "rollouts_per_task": 1,
        "task_names": ["x"], "tasks": [[0.0], [1.0]], "returns": [mean, mean],
        "experience": experience, "iqm": mean, "ci95": [[m, m] for m in mean], "mean": mean,
        "stand_still": -0.2, "env_steps": 10, "seconds": 1.0,
    }  # fmt: skip
    curve = [{"iteration": iteration, "env_steps": 2_500_000, "seconds": 90.0}]
    return report | {
        "ood": None, "curve": curve, "command": f"train --seed {seed}",
        "config": {"train": {"iterations": 5, "env_steps": None, "seed": seed}},
    }  # fmt: skip


def test_a_row_says_after_how_many_episodes():
    results = {
        ("toy", "rl2"): [result(1, [-9, -5, -2], [0, 1, 2]) | {"adapts_within": True}],
        ("toy", "maml-trpo"): [
            result(1, [-9, -4, -3], [0, 20, 40]), result(2, [-8, -4.4, -1], [0, 20, 40]),
        ],
    }  # fmt: skip
    head, _, maml, rl2 = summarise().rows(results)
    assert "| standing still | before / first episode | adapted once |" in head
    assert maml == (
        "| toy | maml-trpo | heldout | 2 | 0 | −8 [−9, −8] | −4 [−4, −4] after 20 episodes "
        "| −2 [−3, −1] after 40 episodes | none: blind policy and oracle not trained "
        "| 2.5 M | 1.5 | 2 |"
    )
    assert "| −9 | −5 after 1 episode | −2 after 2 episodes |" in rl2


def test_a_round_that_only_some_seeds_have_says_of_how_many_it_is():
    results = {("toy", "a"): [
        result(1, [-9, -5, -2], [0, 20, 40]) | {"exploring": 1}, result(2, [-7, -3], [0, 20]),
    ]}  # fmt: skip
    row = summarise().rows(results)[-1]
    assert "| −8 [−9, −7] exploring | −4 [−5, −3] after 20 episodes | −2 (1 seed) after 40" in row
    page = summarise().page(results)
    assert "(seed 2, after 20 episodes: " in page
    assert "| heldout: episodes seen | 0 | 20 | 40 |" in page


def test_a_row_counts_the_distinct_tasks_and_says_where_heldout_is_train():
    """Four rows of two tasks in turns are the training tasks; four draws of three are not."""
    turns, draws = [[0.0], [1.0]] * 2, [[0.0], [1.0], [1.0], [2.0]]
    for tasks, where in ((turns, "train = held-out | 2"), (draws, "heldout | 3")):
        one = result(1, [-9, -5], [0, 1]) | {"tasks": tasks, "returns": [[-9, -5]] * 4}
        module, results = summarise(), {("toy", "a"): [one]}
        assert f"| toy | a | {where} | 0 |" in module.rows(results)[-1]
    assert "Gain on 3 heldout tasks (1 to 2 worlds each)" in module.page(results)


@pytest.mark.parametrize(("within", "first"), [(False, "before"), (True, "first episode")])
def test_a_table_heads_the_first_round_by_what_its_learners_do_in_it(within, first):
    one = result(1, [-9, -5], [0, 1]) | {"adapts_within": within}
    assert f"| standing still | {first} |" in summarise().rows({("toy", "a"): [one]})[0]


def test_a_curve_that_was_cut_off_says_so():
    results = {("toy", "a"): [result(1, [-9, -5], [0, 1], iteration=4)]}
    assert "| ≥ 2.5 M | ≥ 1.5 |" in summarise().rows(results)[-1]


def with_lines(monkeypatch, blind: float, oracle: float, tasks: list[list[float]] | None = None):
    """Return the module with a ladder that has a blind policy and an oracle on toy."""
    module = summarise()
    lines = {
        name: [result(1, [mean], [0]) | ({"tasks": tasks} if tasks else {})]
        for name, mean in (("ppo", blind), ("oracle", oracle))
    }
    monkeypatch.setattr(module, "read_ladder", lambda _: {"toy": lines})
    return module


@pytest.mark.parametrize(("oracle", "tasks", "words"), [
    (-1.0, None, "0.75 [0.75, 0.75] (1 seed), against 2.5M"),
    (-9.0, None, "no score: the oracle is not shown to be better"),
    (-1.0, [[0.0], [2.0]], "none: other tasks"),
])  # fmt: skip
def test_a_cell_has_the_score_or_why_there_is_none(monkeypatch, oracle, tasks, words):
    """(−3 + 9) / (−1 + 9), of the one seed that has the longest adaptation."""
    results = {("toy", "a"): [result(1, [-9, -5, -3], [0, 1, 2]), result(2, [-9, -6], [0, 1])]}
    assert f"| {words}" in with_lines(monkeypatch, -9, oracle, tasks).rows(results)[-1]


@pytest.mark.parametrize("more", [False, True])
def test_a_card_says_what_its_score_is_against(monkeypatch, more):
    one = result(1, [-9, -5], [0, 1])
    one["curve"][-1]["env_steps"] += more
    (said,) = with_lines(monkeypatch, -9, -1).score_sentences(one)
    assert said.startswith("Adaptation score on heldout tasks after 1 episode: 0.50 [0.50, 0.50].")
    assert "(blind policy: 1 seed, 2.5M env steps; oracle: 1 seed, 2.5M env steps)" in said
    assert ("longer training" in said) == more
    assert summarise().score_sentences(one) == []


def test_a_page_has_every_algorithm_and_a_plot_of_several(tmp_path):
    module = summarise()
    results = {
        ("toy", "a"): [result(1, [-9, -5], [0, 1])],
        ("toy", "b"): [result(1, [-9, -5], [0, 20])],
    }
    page = module.page(results)
    assert "### toy, a" in page
    assert "### toy, b" in page
    assert "../experiments/results/toy.png" in page
    assert "train --seed 1" in page
    path = plot_comparison(module.families(results)["toy"], tmp_path / "toy.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_tables_are_of_the_files_as_they_are():
    """`python experiments/summarise.py --write` makes them anew."""
    module = summarise()
    results = module.load(ROOT / "experiments" / "results")
    assert results
    assert (ROOT / "docs" / "results.md").read_text() == module.page(results)
    assert MEASURED.read_text() == module.a_line_each(module.measured(results))
    assert (ROOT / "docs" / "literature.md").read_text() == summarise("literature").page()


@pytest.mark.parametrize("agent", summarise().agents(), ids=lambda path: path.name)
def test_a_model_card_is_of_the_results_as_they_are(agent):
    assert (agent / "README.md").read_text() == summarise().card(agent)


@pytest.mark.parametrize("name", ["half-cheetah-dir-rl2-seed1", "point-goal-pearl-seed1"])
def test_the_intervals_of_a_result_file_are_those_of_its_returns(name):
    report = Report.load(ROOT / "experiments" / "results" / f"{name}.json")
    rng = Key("bootstrap", report.seed).numpy()
    centre, interval = iqm_interval(np.array(report.returns), np.array(report.tasks), rng)
    np.testing.assert_allclose(report.iqm, centre, rtol=1e-12)
    np.testing.assert_allclose(report.ci95, interval, rtol=1e-12)

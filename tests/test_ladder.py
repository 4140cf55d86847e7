"""The ladder: its page says what its files hold, and its queue is what it says."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from helpers.scripts import experiment

from envs.point import PointGoal


@pytest.fixture
def ladder():
    with experiment("ladder") as module:
        yield module


def test_the_page_is_made_from_the_files(ladder):
    results, text = ladder.load(ladder.RESULTS), ladder.README.read_text()
    assert ladder.PAGE.read_text() == ladder.page(results)
    assert ladder.readme(text, results) == text


def test_the_picture_is_made_from_the_files(ladder):
    import ladder_profiles

    found = ladder_profiles.profiles(ladder.scored(ladder.load(ladder.RESULTS)))
    held = ladder_profiles.drawn(ladder_profiles.PICTURE)
    assert held.keys() == found.keys()
    for line, curves in found.items():
        for name, curve in curves.items():
            assert held[line][name] == pytest.approx(curve, abs=2e-3)
    assert ladder_profiles.PICTURE.stat().st_size < 100_000


def test_the_curves_are_made_from_the_files(ladder):
    import ladder_curves

    trained = dict(ladder._trained(ladder.load(ladder.RESULTS)))
    assert ladder_curves.drawn(ladder_curves.PICTURE) == ladder_curves.curves(trained)
    assert ladder_curves.PICTURE.stat().st_size < 300_000


def test_a_line_is_ahead_from_where_it_stays_above_the_blind_one(ladder):
    """Of means over seeds that were tested at other steps, and as far as both were trained."""
    import ladder_curves

    def seed(*points: tuple[float, float], teacher: int = 0) -> dict:
        rows = [{"env_steps": 1e6 * at, "before": value} for at, value in points]
        return {"curve": rows, "teacher_env_steps": teacher}

    found = ladder_curves.curves({
        "f": {
            "ppo": [seed((0, 0.0), (3, 30.0))],  # 10 a million
            "rl2": [seed((0, -10.0), (1, 0.0), (2, 60.0), (4, 60.0)), seed((0, -10.0), (4, 30.0))],
            "oracle": [seed((0, 1.0), (3, 31.0))],
            "distil": [seed((0, 0.0), (1, 5.0), teacher=2_000_000)],
        },
        "none": {"rl2": [seed((0, 0.0), (3, 30.0))]},
    })  # fmt: skip
    assert list(found) == ["f"]  # nothing to compare with on the other
    lines = found["f"]
    assert lines["rl2"]["mean"][0] == -10.0
    assert (lines["rl2"]["low"][-1], lines["rl2"]["high"][-1]) == (30.0, 60.0)
    assert lines["distil"]["steps"][0] == 2.0
    # Means at 1 M: (0 + 0) / 2 = 0, below 10; at 2 M: (60 + 10) / 2 = 35, above 20. They meet at
    # 0 + 35 (x - 1) = 10 x, x = 1.4.
    at = ladder_curves.ahead_from(lines["rl2"], lines["ppo"])
    assert 1.4 < at < 1.4 + 0.3
    assert ladder_curves.ahead_from(lines["oracle"], lines["ppo"]) == 0.0
    assert ladder_curves.ahead_from(lines["distil"], lines["ppo"]) is None
    assert ladder_curves.table(found)[2] == f"| f | the start | {at:.1f} M | 4.0 M |"


def test_every_result_belongs_to_the_queue(ladder):
    import run_queue

    known = {item.result.name for item in run_queue.queue()}
    assert {path.name for path in ladder.RESULTS.glob("*.json")} <= known
    for path in ladder.RESULTS.glob("*.json"):
        result = json.loads(path.read_text())
        steps = result["curve"][-1]["env_steps"]
        family = result["family"].replace("+told", "")
        share = run_queue.SHORT.get(result["line"], 1.0)
        assert steps >= 1e6 * run_queue.MILLIONS[family] * share  # it was trained to the end


def result(line: str, family: str, returns: list[list[float]], seed: int = 1) -> dict:
    from run_queue import LINES, Item

    rounds, settings = len(returns[0]), {}
    if line in LINES:
        settings = Item(family.replace("+told", ""), line, seed).preset.settings
    return {
        "family": family, "line": line, "returns": returns, "tasks": [[float(i)] for i in range(8)],
        "experience": list(range(rounds)), "ood": None, "seed": seed,
        "mean": [sum(row[k] for row in returns) / 8 for k in range(rounds)],
        "curve": [{"env_steps": 3_000_000, "seconds": 120.0}],
        "config": {"train": {"seed": seed, **settings}, "learner": {}},
    }  # fmt: skip


def test_scores_stand_between_the_blind_policy_and_the_oracle(ladder, tmp_path):
    family = "half-cheetah-vel"
    for number, one in enumerate((
        result("ppo", family, [[-10.0 + i] for i in range(8)]),
        result("oracle", f"{family}+told", [[10.0 + i] for i in range(8)]),
        result("rl2", family, [[-10.0 + i, 5.0 + i] for i in range(8)]),
    )):  # fmt: skip
        (tmp_path / f"{number}.json").write_text(json.dumps(one))
    import ladder_profiles

    results = ladder.load(tmp_path)
    found = ladder_profiles.profiles(ladder.scored(results))
    ladder_profiles.draw(found, tmp_path / "profiles.svg")
    assert ladder_profiles.drawn(tmp_path / "profiles.svg") == found
    assert list(found) == ["rl2 (1 family)", "oracle (1 family)"]
    steps = [float(t < 0.75) for t in ladder_profiles.THRESHOLDS]
    assert found["rl2 (1 family)"]["fraction"] == steps
    page = ladder.page(results)
    assert f"| {family} | rl2 | 0 | -6.5 | none | 0.00 [0.00, 0.00] | 1 |" in page
    assert f"| {family} | rl2 | 1 | 8.5 | none | 0.75 [0.75, 0.75] | 1 |" in page
    assert f"| rl2 | 0.75 [0.75, 0.75] | 1: {family} | 1 of each |" in page
    assert f"| {family} | rl2 | 3.0 M | 2 | 1 |  |  |" in page  # the cost
    assert f"| {family} | pearl" not in page  # it is among those that are to be trained
    assert re.search(rf"^- {family}: finetune, .*\bpearl, ", page, re.M)
    assert "- ant-dir: nothing is\n" in page


def test_fine_tuning_is_compared_with_the_policies_that_it_started_from(ladder, tmp_path):
    """Blind policies of two seeds, of which one was tuned: before tuning the score is exactly 0."""
    family = "half-cheetah-vel"
    for number, (line, seed, level) in enumerate((
        ("ppo", 1, -10.0), ("ppo", 2, -30.0), ("oracle", 1, 10.0), ("oracle", 2, 30.0),
        ("finetune", 1, -10.0), ("rl2", 1, 10.0),
    )):  # fmt: skip
        one = result(line, family, [[level + i] for i in range(8)], seed=seed)
        (tmp_path / f"{number}.json").write_text(json.dumps(one))
    lines = ladder.load(tmp_path)[family]
    assert ladder.score(lines, "finetune", 0).value == 0
    assert ladder.score(lines, "rl2", 0).value == pytest.approx(30 / 40)  # of both seeds
    assert ladder.score(lines, "ppo", 0) is None
    lines["finetune"][0]["config"]["train"]["tasks_per_iteration"] = 3  # of a policy that is gone
    assert ladder.score(lines, "finetune", 0) is None
    assert ladder.summary({family: lines})[2].startswith("| rl2 |")


def test_a_family_whose_oracle_is_no_better_is_not_counted(ladder, tmp_path):
    family = "half-cheetah-vel"
    for number, one in enumerate((
        result("ppo", family, [[1.0 * i] for i in range(8)]),
        result("oracle", f"{family}+told", [[7.0 - i] for i in range(8)]),
        result("rl2", family, [[0.0, 99.0]] * 8),
    )):  # fmt: skip
        (tmp_path / f"{number}.json").write_text(json.dumps(one))
    results = ladder.load(tmp_path)
    assert ladder.scored(results) == {}
    page = ladder.page(results)
    assert "No family has a score yet." in page
    assert ladder.best(results)[2:] == [f"| {family} | 4 | **rl2** | 0 | 99 (K = 1) | 4 | – | 1 |"]
    assert "Performance profiles" not in page


def test_the_queue_lists_what_is_done(ladder, tmp_path, monkeypatch, capsys):
    import run_queue

    monkeypatch.setattr(run_queue, "RESULTS", tmp_path)
    for line, settings in (("ppo", {}), ("rl2", {"tasks_per_iteration": 7, "print_every": 7})):
        item = run_queue.Item("ant-dir", line, 1)
        one = result(line, "ant-dir", [[1.0]] * 8)
        one["config"]["train"] |= settings
        item.result.write_text(json.dumps(one))
    assert run_queue.outdated(one) == {"tasks_per_iteration": 7}
    assert run_queue.main(["--list", "--only", "ant-dir-(ppo|oracle|rl2)"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "done  ant-dir-ppo-seed1", "to do  ant-dir-oracle-seed1", "to do  ant-dir-rl2-seed1",
    ]  # fmt: skip


def small_queue(monkeypatch, tmp_path, lines, **tiny):
    """Make these lines, with these settings, the whole queue. Returns its lines and its items."""
    import run_queue

    tiny = {"tasks_per_iteration": 2, "evaluate_tasks": 2, "hidden": [8], **tiny}
    small = {
        name: replace(run_queue.LINES[name], settings=run_queue.LINES[name].settings | tiny)
        for name in lines
    }
    monkeypatch.setattr(PointGoal, "horizon", 4)
    monkeypatch.setattr(run_queue, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run_queue, "ROOT", tmp_path)
    monkeypatch.setattr(run_queue, "LINES", small)
    monkeypatch.setattr(run_queue, "MILLIONS", {"point-goal": 0.00016})
    items = [run_queue.Item("point-goal", line, 1) for line in small]
    monkeypatch.setattr(run_queue, "queue", lambda: items)
    monkeypatch.setattr(run_queue.os, "nice", lambda _: 0)
    return small, items


def test_the_queue_works_and_goes_on(ladder, tmp_path, monkeypatch, capsys):
    """A small queue: blind, oracle and fine-tuning on point-goal, from nothing to three files."""
    import run_queue

    lines = ("ppo", "oracle", "finetune")
    small, items = small_queue(monkeypatch, tmp_path, lines, epochs=1)
    assert run_queue.main([]) == 0
    results = {item.line: json.loads(item.result.read_text()) for item in items}
    assert results["oracle"]["family"] == "point-goal+told"
    assert results["oracle"]["tasks"] == results["ppo"]["tasks"]
    assert results["finetune"]["experience"] == [20 * k for k in range(11)]
    assert results["finetune"]["algorithm"] == "finetune"
    items[1].result.unlink()
    assert run_queue.main([]) == 0
    assert json.loads(items[1].result.read_text())["returns"] == results["oracle"]["returns"]
    assert "has finished training; testing it" in capsys.readouterr().out
    changed = small["oracle"]
    small["oracle"] = replace(changed, settings=changed.settings | {"tasks_per_iteration": 4})
    assert run_queue.main([]) == 0  # of other settings, and so begun anew
    train = json.loads(items[1].result.read_text())["config"]["train"]
    assert train["tasks_per_iteration"] == 4
    assert run_queue.main(["--list"]) == 0
    assert "to do" not in capsys.readouterr().out


def test_rounds_of_who_adapts_between_episodes_are_those_of_training(
    ladder, tmp_path, monkeypatch, capsys
):
    """A result of other rounds is tested anew, and nothing is trained anew for it."""
    import run_queue

    tiny = {"rollouts_per_task": 3, "inner_steps": 1}
    _, (item,) = small_queue(monkeypatch, tmp_path, ("reptile",), **tiny)
    assert run_queue.main([]) == 0
    first = json.loads(item.result.read_text())
    assert first["experience"] == [0, 3, 6, 9]
    item.result.write_text(json.dumps(first | {"experience": [0, 4, 8, 12], "returns": []}))
    assert run_queue.stale(json.loads(item.result.read_text())) == {"test_rollouts": 4}
    capsys.readouterr()
    assert run_queue.main(["--list"]) == 0
    assert capsys.readouterr().out == "to do  point-goal-reptile-seed1\n"
    assert run_queue.main([]) == 0
    assert "has finished training; testing it" in capsys.readouterr().out
    assert run_queue.stale(json.loads(item.result.read_text())) == {}
    again = json.loads(item.result.read_text())
    assert [again[k] for k in ("experience", "returns")] == [first["experience"], first["returns"]]


def test_results_of_other_settings_are_marked_until_they_are_trained_anew(ladder):
    family = "half-cheetah-vel"
    lines = {line: [result(line, family, [[r]] * 8)] for line, r in (("ppo", 1.0), ("rl2", 2.0))}
    assert ladder.daggers({family: lines}) == []
    lines["ppo"][0]["config"]["train"]["tasks_per_iteration"] = 3
    page = ladder.page({family: lines})
    assert f"| {family} | ppo † | 0 | 1.0 |" in page
    assert f"| {family} | rl2 | 0 | 2.0 |" in page
    assert "`make results` makes it anew: ppo tasks_per_iteration=3." in " ".join(page.split())


def test_witnesses_stand_beside_ours(ladder):
    """Two seeds of one agent, of 100 and 300, on a family of which we have a blind policy."""
    family = "half-cheetah-dynamics"
    ours = {family: {"ppo": [result("ppo", family, [[50.0]] * 8)]}}
    agents = [result("sb3-ppo", family, [[r]] * 8, seed) for seed, r in ((1, 100.0), (2, 300.0))]
    assert ladder.witnesses(ours, {family: {"sb3-ppo": agents}})[2:] == [
        f"| {family} | sb3-ppo | 3.0 M | 200.0 | none | 50.0 at 3.0 M |  | 2 |"
    ]

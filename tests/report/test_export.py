"""Agents to share: small, whole, without what only training needs, and as good as their run."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.teacher import teacher

from metarl import UserError, cli
from metarl.commands.export import export_agent
from metarl.commands.training.experiment import Measure, measure
from metarl.learning import checkpoint as checkpoints
from metarl.learning.learner import Learner
from metarl.report.model_card import model_card
from metarl.report.run_summary import read_run
from metarl.run import load_run, train_config, worlds_for

ROOT = Path(__file__).resolve().parents[2]
AGENTS = sorted((ROOT / "experiments" / "agents").glob("*/checkpoint.json"))


@pytest.fixture(scope="module")
def run(small_run, tmp_path_factory) -> Path:
    return Path(shutil.copytree(small_run, tmp_path_factory.mktemp("export") / "run"))


@pytest.fixture(scope="module")
def agent(run, tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return export_agent(run, tmp_path_factory.mktemp("agents") / "point", threads=1)


def adapted(run: Path, capsys) -> list[str]:
    words = f"adapt {run} --set goal_x=0.8 --episodes 1 --threads 1"
    assert cli.main(words.split()) == 0
    return capsys.readouterr().out.splitlines()[1:]


def test_an_agent_adapts_as_its_run_does(run, agent, capsys):
    assert adapted(agent, capsys) == adapted(run, capsys)
    results = []
    for path in (run, agent):
        assert cli.main(["evaluate", str(path), "--json", "-", "--tasks", "3"]) == 0
        results.append(json.loads(capsys.readouterr().out) | {"seconds": 0})
    assert results[0] == results[1]


def test_an_agent_is_small_and_names_no_place_of_this_machine(run, agent):
    files = {path.name: path.read_bytes() for path in agent.iterdir()}
    assert set(files) == {
        "weights.safetensors", "checkpoint.json", "result.json", "README.md", "curve.png",
    }  # fmt: skip
    assert sum(map(len, files.values())) < 10**6
    assert not any(str(run.parent).encode() in data for data in files.values())
    header = json.loads(files["checkpoint.json"])
    assert header["meta"]["train"]["out"] is None
    assert "curve" not in header["meta"]


def test_what_an_agent_was_trained_with_stays_on_this_machine(tmp_path):
    """The path of its teacher: in the agent, in an adapted policy, in a result that is given."""
    out, saved, result = tmp_path / "run", tmp_path / "adapted", tmp_path / "result.json"
    words = f"train point-goal distil --teacher {teacher('ppo', 'point-goal+told', hidden=(8,))}"
    small = "--units 8 --hidden 8 --episodes 1 --tasks-per-iteration 2 --rollouts-per-task 1"
    often = "--iterations 1 --evaluate-tasks 2 --threads 1"
    assert cli.main([*words.split(), *small.split(), *often.split(), "--out", str(out)]) == 0
    trained = checkpoints.load(checkpoints.newest(out))
    assert "metarl-teacher" in trained.learner_config["teacher"]
    found = measure(out, Measure(test_tasks=2, test_episodes=1), train_config(trained))
    result.write_text(json.dumps(found | {"command": "the command"}))
    agent = export_agent(out, tmp_path / "agent", result=result, threads=1)
    assert cli.main(["adapt", str(agent), "--set", "goal_x=0.8", "--out", str(saved)]) == 0
    again = export_agent(out, tmp_path / "again", threads=1)  # evaluated, and its command made up
    assert "--teacher step_" in (again / "README.md").read_text()
    for file in (result, *agent.iterdir(), *again.iterdir(), *saved.iterdir()):
        assert b"metarl-teacher" not in file.read_bytes(), file
    assert cli.main(["evaluate", str(agent), "--tasks", "2", "--threads", "1"]) == 0


@pytest.mark.usefixtures("_empty_charts")
def test_a_report_on_an_agent_needs_no_evaluation(agent, tmp_path, capsys):
    out = tmp_path / "report.html"
    assert cli.main(["report", str(agent), "--out", str(out)]) == 0
    assert "evaluating" not in capsys.readouterr().out
    page = out.read_text()
    assert "Adaptation outside the box" in page
    assert "metarl train point-goal maml-trpo" in page
    found = read_run(agent)
    assert (found.finished, found.notes, len(found.curve)) == (True, [], 3)


def test_the_card_has_the_numbers_of_the_result(agent):
    card = (agent / "README.md").read_text()
    assert "with a trust-region meta-update. Trained on `point-goal`: " in card
    result = json.loads((agent / "result.json").read_text())
    for report in (result, result["ood"]):
        for seen, mean in zip(report["experience"], report["mean"], strict=True):
            row = re.search(rf"\| {report['split']} \| {seen} \| (\S+) \|", card)
            assert float(row[1].replace("−", "-")) == pytest.approx(mean, abs=0.051)
    assert "| `goal_x` | m | [-1, 1] | [1, 1.25] |" in card.replace("−", "-")
    assert (
        "metarl train point-goal maml-trpo --tasks-per-iteration 2 --rollouts-per-task 2 "
        "--iterations 2 --evaluate-every 1 --evaluate-tasks 4 --evaluate-episodes 1 --seed 3 "
        "--hidden 4 --cg-iterations 2"
    ) in card


def test_training_cannot_go_on_from_an_agent(agent, capsys):
    assert cli.main(["train", "--resume", str(agent)]) == 2
    assert "this is an exported agent" in capsys.readouterr().err
    with pytest.raises(UserError, match="exported agent already"):
        export_agent(agent, agent.parent / "again")


@pytest.mark.usefixtures("_empty_charts")
def test_the_result_file_of_the_run_is_taken_and_that_of_another_refused(run, tmp_path, capsys):
    checkpoint = checkpoints.load(checkpoints.newest(run))
    how = Measure(test_tasks=3, test_episodes=1)
    result = measure(run, how, train_config(checkpoint)) | {"command": "the command"}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    out = export_agent(run, tmp_path / "agent", result=path, note="It is a toy.")
    card = (out / "README.md").read_text()
    assert "the command" in card
    assert "- It is a toy." in card
    assert json.loads((out / "result.json").read_text())["tasks"] == result["tasks"]
    for change, match in (
        ({"family": "other"}, "family is other there"),
        ({"curve": [{"iteration": 1}]}, "the last iteration is 1 there and 2 here"),
        ({"config": None}, "malformed"),
    ):
        path.write_text(json.dumps(result | change))
        with pytest.raises(UserError, match=match):
            export_agent(run, tmp_path / "agent", result=path)
    assert (out / "README.md").read_text() == card


@pytest.mark.usefixtures("_empty_charts")
def test_half_precision(run, tmp_path, capsys):
    """The card is of the rounded weights, and they load in full precision."""
    full = export_agent(run, tmp_path / "full", threads=1)
    half = export_agent(run, tmp_path / "half", half=True, threads=1)
    theta = [safetensors.torch.load_file(p / "weights.safetensors")["theta"] for p in (full, half)]
    assert theta[1].dtype == torch.float16
    learner = checkpoints.restore(checkpoints.load(half))
    assert torch.equal(learner.theta, theta[0].half().float())
    results = [json.loads((p / "result.json").read_text()) for p in (full, half)]
    assert results[0]["returns"] != results[1]["returns"]
    assert "rounded to half precision" in (half / "README.md").read_text()
    words = f"evaluate {half} --json - --threads 1"
    assert cli.main(words.split()) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["returns"] == results[1]["returns"]


def test_settings_are_those_of_the_checkpoint_whatever_config_json_says(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    config |= {"train": {"iterations": "many", "seed": [1]}, "learner": {"hidden": "x"}}
    (copy / "config.json").write_text(json.dumps(config))
    words = ["export", str(copy), "--out", str(tmp_path / "agent"), "--threads", "1"]
    assert cli.main(words) == 0, capsys.readouterr().err
    settings = json.loads((tmp_path / "agent" / "result.json").read_text())["config"]
    assert settings["train"]["iterations"] == 2
    assert settings["learner"]["hidden"] == [4]
    assert "--seed 3 --hidden 4" in (tmp_path / "agent" / "README.md").read_text()


def test_what_stands_there_is_not_overwritten(run, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    assert cli.main(["export", str(run), "--out", str(tmp_path / "mine")]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert (tmp_path / "mine" / "diary.txt").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_family_in_a_file_is_not_shared(tmp_path, run):
    """A checkpoint that names a file of this machine would be of no use elsewhere."""
    checkpoint = checkpoints.newest(run)
    learner = checkpoints.restore(checkpoints.load(checkpoint))
    made = checkpoints.save(
        tmp_path / "checkpoints", learner, family="/x/robots.py:Robot", step=1, meta={}
    )
    with pytest.raises(UserError, match=r"only registered names can be shared: the family.*entry"):
        export_agent(made, tmp_path / "agent")


# --- a learner with more than a policy ---------------------------------------------------------


@dataclass(frozen=True)
class _Config:
    """No settings."""


class Hoarder(Learner):
    """Has a weight that it acts by, and a moment and a replay that it does not."""

    name, Config = "hoarder", _Config

    def __init__(self, spec, config, *, seed=0, device="cpu"):
        super().__init__(spec, config, seed=seed, device=device)
        self.tensors = {"w": torch.full((1,), float(seed)), "adam": torch.zeros(2 * 2**20)}

    def state_dict(self):
        return self.tensors

    def policy_state_dict(self):
        return {"w": self.tensors["w"]}

    def load_state_dict(self, tensors):
        if tensors.keys() != {"w", "adam"}:
            raise UserError("the weights do not fit")
        self.tensors = dict(tensors)

    def begin(self, tasks, worlds):
        return None

    def act(self, step, state, *, explore, noise):
        return self.tensors["w"].expand(len(step.obs), self.spec.action_size), state

    def adapt(self, state, rollout):
        return state

    def meta_step(self, worlds, tasks, key):
        return {}


@pytest.mark.usefixtures("_empty_charts")
def test_only_what_acting_needs_is_shipped(run, tmp_path, monkeypatch):
    from metarl.worlds.task_worlds import TaskWorlds

    monkeypatch.setattr("metarl.learning.registry.find_learner", lambda name: Hoarder)
    monkeypatch.setattr("metarl.report.model_card.find_learner", lambda name: Hoarder)
    monkeypatch.setattr("metarl.learning.checkpoint.reference", lambda plugin: "hoarder")
    spec = TaskWorlds("point-goal", 1, 1).spec
    learner = Hoarder(spec, _Config(), seed=7)
    learner.tensors["adam"] += 1
    meta = checkpoints.load(checkpoints.newest(run)).meta
    source = tmp_path / "run" / "checkpoints"
    made = checkpoints.save(source, learner, family="point-goal", step=2, meta=meta)
    assert (made / "weights.safetensors").stat().st_size > 8 * 10**6
    agent = export_agent(source.parent, tmp_path / "agent", threads=1)
    assert safetensors.torch.load_file(agent / "weights.safetensors").keys() == {"w"}
    again = checkpoints.restore(checkpoints.load(agent))
    assert again.tensors["w"].item() == 7
    assert again.tensors["adam"].sum() == 0
    monkeypatch.setattr(Hoarder, "policy_state_dict", Hoarder.state_dict)
    with pytest.raises(UserError, match=r"takes 8.\d MB, and the limit is 1 MB: try --half"):
        export_agent(source.parent, tmp_path / "big", threads=1)
    assert not (tmp_path / "big").exists()


# --- the agents of this repository -------------------------------------------------------------


def test_there_are_agents():
    assert AGENTS


@pytest.mark.parametrize("header", AGENTS, ids=lambda path: path.parent.name)
def test_shipped_agents_load_adapt_and_are_small(header, capsys, monkeypatch):
    """They fit their families; what they do in short episodes does not go by the length."""
    folder = header.parent
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10**6
    _, family, learner = load_run(str(folder), "cpu", 1)
    worlds_for(family, learner, 1, 1)
    monkeypatch.setattr(type(family), "horizon", 25)
    monkeypatch.setattr("metarl.run.check_spec", lambda learner, worlds: None)
    words = f"adapt {folder} --episodes 1 --rollouts-per-task 2 --threads 1"
    assert cli.main(words.split()) == 0, capsys.readouterr().err
    found = read_run(folder)
    assert found.notes == []
    assert folder.name.startswith(f"{found.family}-{found.algorithm}")
    card = (folder / "README.md").read_text()
    assert f"metarl adapt experiments/agents/{folder.name}" in card
    assert f"# {found.family}, {found.algorithm}" in card


@pytest.mark.usefixtures("_empty_charts")
def test_an_agent_is_replaced_only_by_name(run, agent, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "experiments" / "agents" / "point-goal-maml-trpo"
    shutil.copytree(agent, there)
    (there / "README.md").write_text("an older one")
    with pytest.raises(UserError, match="is there already: say --out"):
        export_agent(run, threads=1)
    assert (there / "README.md").read_text() == "an older one"
    export_agent(run, there, result=agent / "result.json", threads=1)
    assert (there / "README.md").read_text() != "an older one"


def test_a_run_without_an_evaluation_is_refused(run, tmp_path) -> None:
    bare = Path(shutil.copytree(run, tmp_path / "bare"))
    (bare / "curve.json").unlink()
    step = checkpoints.newest(bare)
    body = json.loads((step / "checkpoint.json").read_text())
    body["meta"]["curve"] = []
    body.pop("self_sha256")
    body["self_sha256"] = checkpoints._digest(body)
    (step / "checkpoint.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match="has no held-out evaluation yet"):
        export_agent(bare, tmp_path / "agent", threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]


def test_the_card_of_a_policy_that_was_tested_without_adaptation_says_nothing_of_it() -> None:
    """It has where the return is lowest, the lowest first."""
    folder = next(path.parent for path in AGENTS if path.parent.name == "quadruped-vel-ppo")
    card = model_card(json.loads((folder / "result.json").read_text()), "agent")
    assert "daptation raises" not in card
    assert "gain" not in card.lower()
    rows = card.split("| the return is lowest on | return |\n|---|---|\n")[1].split("\n\n")[0]
    returns = [float(row.split("|")[2]) for row in rows.splitlines()]
    assert returns == sorted(returns)
    assert len(returns) == 5
    assert "after adaptation" not in card

"""Where a run's numbers go: TensorBoard by SB3's names, Weights & Biases, MLflow."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.runs import SMALL, TRAIN, digest, go_on, rows, train

from metarl import cli
from metarl.base.errors import UserError
from metarl.report import tracking
from metarl.run import start_run
from metarl.runs.config import TrainConfig
from metarl.runs.tags import tag, tagged

pytestmark = [pytest.mark.pages, pytest.mark.usefixtures("no_drawings")]


@pytest.fixture(scope="module")
def no_drawings():
    """The page is not about tracking, and a chart takes a tenth of a second."""
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        for name, does in (("read_run", dict), ("write_page", dict), ("adaptation_figure", Figure)):
            patch.setattr(f"metarl.report.callbacks.{name}", lambda *_, do=does, **__: do())
        yield


def events(run: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run), size_guidance={"images": 0, "tensors": 0}).Reload()


def test_the_tags_are_those_of_sb3():
    assert tag("env_steps_per_second") == "time/fps"
    assert tag("env_steps") == "time/total_timesteps"
    assert tag("kl") == "train/kl"
    assert tag("reward/effort") == "rollout/reward/effort"
    assert tag("heldout/after") == "heldout/after"
    assert tagged({"return_after": 2.0}) == {
        "rollout/return_after": 2.0, "rollout/ep_rew_mean": 2.0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def logged(tmp_path_factory, no_drawings) -> Path:
    """A small run as users train, evaluated outside the box, too."""
    with pytest.MonkeyPatch.context() as patch:
        from metarl import callbacks

        patch.setattr("metarl.run._default_callbacks", callbacks.default_callbacks)
        return train(tmp_path_factory.mktemp("logged") / "run", iterations=2, evaluate_ood=True)


def test_tensorboard_has_the_namespaces_the_settings_and_the_configuration(logged):
    found = events(logged)
    scalars = set(found.Tags()["scalars"])
    assert {name.partition("/")[0] for name in scalars} == {
        "rollout", "train", "time", "heldout", "ood",
    }  # fmt: skip
    assert {"rollout/ep_rew_mean", "time/fps", "time/total_timesteps"} <= scalars
    steps = [(e.step, e.value) for e in found.Scalars("time/total_timesteps")]
    assert steps == [(160, 160), (320, 320)]
    text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(text) == json.loads((logged / "config.json").read_text())
    assert "_hparams_/session_start_info" in found.summary_metadata
    assert rows(logged)[0].keys() >= {"iteration", "env_steps", "return_before", "return_after"}


def test_ood_tasks_are_evaluated_whenever_the_held_out_ones_are(logged):
    reports = sorted((logged / "evaluation").glob("ood_step_*.json"))
    assert [path.stem[-1] for path in reports] == ["0", "2"]
    last = json.loads(reports[-1].read_text())
    assert last["split"] == "ood"
    goals = [max(map(abs, task)) for task in last["tasks"]]
    assert min(goals) > 1.0  # the training box of point-goal ends there
    assert events(logged).Scalars("ood/after")[-1].value == pytest.approx(last["mean"][-1])


def test_what_is_logged_changes_no_bit_of_the_run(logged, tmp_path):
    plain = train(tmp_path / "plain", iterations=2)
    assert digest(plain) == digest(logged)
    assert rows(plain) == rows(logged)


# --- trackers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
@pytest.mark.parametrize("found", [None, SimpleNamespace()], ids=["missing", "an empty folder"])
def test_without_the_package_one_line_names_the_extra(kind, found, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, kind, found)
    words = ["train", "point-goal", "maml-trpo", "--track", kind, "--out", str(tmp_path / "run")]
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].endswith(f"pip install 'metarl-toolkit[{kind}]'")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_only_known_trackers_can_be_named():
    with pytest.raises(UserError, match="track must be none, wandb or mlflow, not 'aim'"):
        TrainConfig(track="aim")  # type: ignore[arg-type]


@pytest.fixture
def fake(monkeypatch):
    """A W&B that notes what it is told."""
    notes = SimpleNamespace(init=[], log=[], done=[], fail=False, logged_in=True)

    class FakeRun:
        url = "https://wandb.example/metarl/run"

        def __init__(self, mode):
            self.settings = SimpleNamespace(_offline=mode == "offline", sync_dir="run/wandb/x")

        def log(self, values, step):
            if notes.fail:
                raise ConnectionError("gone\nfor good")
            notes.log.append((step, values))

        def finish(self, exit_code):
            notes.done.append(exit_code)

    def init(**how):
        notes.init.append(how)
        if notes.fail == "at once" and how["mode"] is None:
            raise ConnectionError("no network")
        return FakeRun(how["mode"])

    module = SimpleNamespace(
        init=init, Settings=dict, login=lambda **_: notes.logged_in,
        Image=lambda figure: ("image", figure), Video=lambda path, format: ("video", path),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return notes


def test_a_tracker_gets_numbers_figures_and_the_configuration(fake, tmp_path, capsys):
    run = train(tmp_path / "run", iterations=2, track="wandb", progress=True)
    assert "tracked by wandb: https://wandb.example" in capsys.readouterr().out
    (how,) = fake.init
    assert (how["project"], how["name"], how["resume"]) == ("metarl", "run", "allow")
    assert json.loads(json.dumps(how["config"])) == json.loads((run / "config.json").read_text())
    numbers = [(step, v) for step, v in fake.log if "time/fps" in v]
    assert [step for step, _ in numbers] == [160, 320]
    assert [step for step, v in fake.log if "heldout/after" in v] == [0, 320]
    assert [step for step, v in fake.log if "heldout/adaptation" in v] == [0, 320]
    assert fake.done == [0]


def test_a_run_that_goes_on_is_the_same_run_of_the_tracker(fake, tmp_path):
    run = train(tmp_path / "run", iterations=2, track="wandb")
    go_on(run, iterations=4)
    first, second = (how["id"] for how in fake.init)
    assert first == second
    assert json.loads((run / tracking.IDENTITY).read_text()) == {"wandb": {"id": first}}


@pytest.mark.parametrize(
    ("fail", "logged_in", "why"),
    [("at once", True, "ConnectionError: no network"), (False, False, "you are not logged in")],
)
def test_without_a_network_or_a_login_it_logs_into_the_run_folder(
    fake, tmp_path, capsys, fail, logged_in, why
):
    fake.fail, fake.logged_in = fail, logged_in
    train(tmp_path / "run", iterations=1, track="wandb", progress=True)
    line = f"tracked by wandb: offline ({why}); `wandb sync run/wandb/x` sends it"
    assert line in capsys.readouterr().out.splitlines()
    assert fake.init[-1]["mode"] == "offline"


def test_a_tracker_that_fails_is_warned_of_once_and_ends_nothing(fake, tmp_path, capsys):
    fake.fail = "later"
    train(tmp_path / "run", iterations=2, track="wandb", progress=True)
    said = [line for line in capsys.readouterr().out.splitlines() if "--track" in line]
    assert len(said) == 1
    assert "ConnectionError: gone for good; the training goes on" in said[0]


def test_a_tracker_that_cannot_begin_is_warned_of(monkeypatch, fake, tmp_path, capsys):
    def broken(*_):
        raise OSError("no\nserver")

    monkeypatch.setattr(tracking.WandbTracker, "__init__", broken)
    train(tmp_path / "run", iterations=1, track="wandb", progress=True)
    assert "OSError: no server; the training goes on without" in capsys.readouterr().out


@pytest.mark.usefixtures("_gl", "_small_videos")
def test_a_tracker_gets_the_videos(fake, tmp_path, monkeypatch):
    run = train(tmp_path / "run", iterations=2, track="wandb", video_every=2)
    ((step, values),) = [(step, v) for step, v in fake.log if "heldout/video" in v]
    assert step == 320
    assert values["heldout/video"] == ("video", str(run / "videos" / "step_00000002.gif"))


def test_the_real_wandb_without_a_network(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = replace(TRAIN, out=str(tmp_path / "run"), iterations=2, track="wandb", progress=True)
    run = start_run("point-goal", "maml-trpo", config, SMALL)
    out = capsys.readouterr().out
    assert "tracked by wandb: offline; `wandb sync" in out
    assert "warning" not in out
    (kept,) = (run / "wandb").glob("offline-run-*/*.wandb")
    data = kept.read_bytes()
    for name in (b"rollout/ep_rew_mean", b"heldout/after", b"point-goal"):
        assert name in data


@pytest.mark.slow
def test_the_real_mlflow_in_a_file(tmp_path, monkeypatch, capsys):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = train(tmp_path / "run", iterations=2, track="mlflow", progress=True)
    assert "warning" not in capsys.readouterr().out
    go_on(run, iterations=4)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("metarl")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    assert found.data.params["train.tasks_per_iteration"] == "2"
    history = client.get_metric_history(found.info.run_id, "time/total_timesteps")
    assert [(m.step, m.value) for m in history] == [(160 * k, 160 * k) for k in range(1, 5)]

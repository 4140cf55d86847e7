"""Settings from files: which come after which, what was measured with them, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

import metarl
from envs.half_cheetah import HalfCheetahVel
from metarl.base.errors import UserError
from metarl.cli import main
from metarl.commands.training.train import read_train
from metarl.learning.registry import list_learners
from metarl.runs.presets import MEASURED, choose, plain, presets
from metarl.tasks.registry import list_families

CHEETAH = ["half-cheetah-vel", "rl2"]
TINY = ["--env-steps", "1", "--tasks-per-iteration", "2", "--evaluate-tasks", "2", "--hidden", "4",
        "--units", "4", "--threads", "1", "--device", "cpu"]  # fmt: skip


def test_every_preset_is_of_a_pair_that_exists():
    for name, preset in presets().items():
        family = name.partition("/")[0]
        assert family in (*list_families(), "ladder")
        assert preset.algorithm in list_learners()
        assert preset.configs() != plain(preset.algorithm)


def test_what_was_measured_was_measured_with_these_settings():
    """Older runs of rl2 did not see the last transition of a trial; one of pearl went on."""
    rows = json.loads(MEASURED.read_text())
    timed = {"half-cheetah-vel/rl2-fast"}  # benchmarks/from_nothing.py measures it
    known = {name for name in presets() if "ladder/" not in name and "full" not in name}
    assert set(rows) - timed == known - timed
    unlike = {name: row["unlike"] for name, row in rows.items() if row["unlike"]}
    assert unlike.pop("half-cheetah-vel/pearl") == {"env_steps": 800_000}
    assert {name.partition("/")[2] for name in unlike} == {"rl2"}
    assert all(settings == {"last_transition": False} for settings in unlike.values())


@pytest.mark.parametrize(
    ("family", "algorithm", "name", "found"),
    [("half-cheetah-vel", "rl2", None, "half-cheetah-vel/rl2"),
     ("half-cheetah-vel", "rl2", "none", None),
     ("half-cheetah-crippled", "ppo", None, None),
     ("half-cheetah-vel", "pearl", "pearl-full", "half-cheetah-vel/pearl-full"),
     ("half-cheetah-vel+told", "rl2", None, None),
     ("half-cheetah-vel+told", "ppo", "ladder/oracle", "ladder/oracle"),
     ("robot.py:Robot", "rl2", None, None)],
)  # fmt: skip
def test_a_pair_has_its_own_preset_and_takes_the_one_that_is_named(family, algorithm, name, found):
    chosen = choose(family, algorithm, name)
    assert (chosen and chosen.name) == found


def test_defaults_then_preset_then_file_then_flags(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("epochs = 3\niterations = 7\nseed = 5\nhidden = 16")
    argv = [*CHEETAH, "--config", str(file), "--seed", "6"]
    for words in (argv, [*argv[2:], *CHEETAH]):
        got = read_train(words)
        train, learner = got.train, got.learner
        assert (train.evaluate_every, train.tasks_per_iteration) == (25, 100)  # default, preset
        assert (learner.shards, learner.epochs, learner.hidden) == (2, 3, 16)
        assert (train.iterations, train.env_steps, train.seed) == (7, None, 6)
    assert read_train([*CHEETAH, "--env-steps", "9"]).train.env_steps == 9
    assert read_train([*CHEETAH, "--iterations", "9"]).train.env_steps is None
    got = read_train([*CHEETAH, "--preset", "none"])
    assert (got.train, got.learner) == plain("rl2")


def test_a_run_says_what_it_starts_from_goes_on_with_it_and_is_started_from(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(HalfCheetahVel, "horizon", 20)
    run, said = tmp_path / "run", "settings tuned for this pair (preset half-cheetah-vel/rl2); "
    assert main(["train", *CHEETAH, *TINY, "--out", str(run)]) == 0
    assert capsys.readouterr().out.startswith(f"{said}--preset none for the plain defaults\n")
    assert main(["train", "--resume", str(run), "--preset", "none"]) == 0
    assert main(["train", "--resume", str(run), "--iterations", "2"]) == 0
    assert said not in capsys.readouterr().out
    assert main(["train", "--resume", str(run), "--preset", "rl2"]) == 2
    assert "cannot change when a run goes on" in capsys.readouterr().err
    again = read_train([*CHEETAH, "--preset", "none", "--config", str(run / "config.json")])
    config = json.loads((run / "config.json").read_text())
    assert json.loads(json.dumps([asdict(again.train), asdict(again.learner)])) == [
        config["train"] | {"out": None}, config["learner"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [("a.toml", "sede = 1", "rl2 has no setting 'sede' (did you mean 'seed'?)"),
     ("a.toml", "[train]\nlr = 1\n[learner]\nlr = -1", "lr must be"),
     ("a.toml", "lr = ", "not TOML"), ("a.json", "{", "not JSON"), ("a.json", "[1]", "no table"),
     ("a.json", '{"train": 3}', "no table"), ("a.yaml", "lr: 1", "JSON or TOML"),
     ("a.toml", 'algorithm = "ppo"', "has settings of ppo, not of rl2"),
     ("a.toml", "seed = 1.5", "seed must be a whole number")],
)  # fmt: skip
def test_a_file_of_settings_is_refused_in_one_line(name, text, words, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    assert main(["train", *CHEETAH, "--config", str(tmp_path / name)]) == 2
    out = capsys.readouterr()
    assert (out.out, out.err.count("\n")) == ("", 1)
    assert name in out.err
    assert words in out.err
    with pytest.raises(UserError):
        metarl.train(*CHEETAH, config=tmp_path / name)


@pytest.mark.parametrize(
    ("name", "words"),
    [("rl3", "(did you mean 'half-cheetah-vel/rl2'?); `metarl presets` lists them"),
     ("pearl", "preset half-cheetah-vel/pearl is of pearl, not of rl2")],
)  # fmt: skip
def test_a_preset_that_is_none_is_refused(name, words, capsys):
    assert main(["train", *CHEETAH, "--preset", name]) == 2
    assert words in capsys.readouterr().err
    with pytest.raises(UserError):
        metarl.train(*CHEETAH, preset=name)


def test_the_presets_are_listed_with_what_was_measured(capsys):
    assert main(["presets", "half-cheetah-vel/pearl", "--json"]) == 0
    pearl, full = json.loads(capsys.readouterr().out)
    assert (pearl["measured"]["env_steps"], full["measured"]) == (800_000, None)
    assert main(["presets", "dir/maml"]) == 0
    assert "19.2M env steps, seeds 1 2 3\n  tasks_per_iteration=10," in capsys.readouterr().out
    assert main(["presets", "nothing"]) == 2
    assert main(["families", "half-cheetah-vel"]) == 0
    listed = capsys.readouterr().out
    assert "presets      maml-trpo, rl2, rl2-fast, rl2-long, pearl, pearl-full" in listed

"""The `metarl` command: help, what it lists, and how it ends."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.process import forked

from metarl import UserError, cli, find_family
from metarl.base.files import whole_file
from metarl.cli import main
from metarl.runs.presets import MEASURED
from metarl.tasks.composition import compose


def metarl(*argv: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "metarl.cli", *argv], capture_output=True,
                          text=True, timeout=300, **more)  # fmt: skip


# --- help --------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command_and_an_example(argv, capsys):
    assert main(argv) == 0
    out = capsys.readouterr().out
    for name in ("families", "algorithms", "train", "evaluate", "adapt", "check"):
        assert f"\n  {name} " in out
    assert "metarl train half-cheetah-vel rl2" in out
    assert max(map(len, out.splitlines())) <= 80
    assert sorted(sum(cli.GROUPS.values(), ())) == sorted(cli.COMMANDS)


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_explains_itself(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: metarl {command}" in out
    assert len(out.splitlines()) > 5


def test_train_help_lists_the_algorithms_own_settings(capsys):
    assert main(["train", "--help"]) == 0
    general = capsys.readouterr().out
    assert "--tasks-per-iteration" in general
    assert "--resume" in general
    assert "--inner-lr" not in general
    assert main(["train", "point-goal", "maml-trpo", "--help"]) == 0
    special = capsys.readouterr().out
    assert "FAMILY" in special
    assert "--inner-lr" in special
    assert "--first-order" in special


def test_help_does_not_wait_for_what_is_slow():
    """In a process of its own: the list of commands first, and then the help of some, in turn."""
    pages = {"--help": ("stable_baselines3", "tensorboard", "tyro", "rich", "scipy")} | {
        f"{command} --help": ("torch", "mujoco")
        for command in ("evaluate", "adapt", "render", "report", "check")
    }
    code = (
        "import sys; from metarl.cli import main\n"
        f"for words, slow in {pages}.items():\n"
        "    main(words.split())\n"
        "    print(words, [m for m in slow if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stderr.splitlines() == [f"{words} []" for words in pages]


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("metarl ")


# --- families, algorithms, check ---------------------------------------------------------------


def test_families(capsys):
    assert main(["families"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    row = next(line for line in out.splitlines() if "half-cheetah-vel " in line)
    assert row.split() == [
        "half-cheetah-vel", "cheetah", "17×6", "200", "=", "10", "s",
        "goal_velocity", "[0,", "3]", "m/s", "[3,", "3.5]",
    ]  # fmt: skip
    assert "+dynamics +crippled" in out
    assert (
        "Each also takes +latency, +sensor-bias, +skills=FILE, +varying-latency and +told;" in out
    )


def test_some_families(capsys):
    assert main(["families", "cheetah"]) == 0
    out = capsys.readouterr().out
    assert "half-cheetah-dir" in out
    assert "point-goal" not in out
    assert main(["families", "--json", "cheetah"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert {"half-cheetah-dir", "half-cheetah-dynamics", "half-cheetah-vel"} <= set(names)
    assert all("cheetah" in name for name in names)


def test_one_family_in_full(capsys):
    assert main(["families", "half-cheetah-vel"]) == 0
    out = capsys.readouterr().out
    for words in (
        "Run at a velocity that the reward alone reveals", "200 steps of 0.05 s = 10 s",
        "metarl/HalfCheetahVel-v0", "train, heldout, ood", "+dynamics", "sensor_bias[17]",
        "scale of all motor torques", "metarl train half-cheetah-vel+dynamics maml-trpo",
    ):  # fmt: skip
        assert words in out, words


def test_a_product_in_full(capsys):
    assert main(["families", "half-cheetah-vel+latency+dynamics"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("half-cheetah-vel+dynamics+latency\n")
    assert "+dynamics  " not in out  # it has that already
    assert "+sensor-bias" in out
    assert main(["families", "half-cheetah-vel+dynamics", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert [param["name"] for param in row["params"]][:2] == ["goal_velocity", "mass"]
    assert row["gymnasium_id"] == "metarl/TaskFamily-v0"


def test_the_command_that_ends_a_page_names_the_file_and_is_one_line(plugin, tmp_path, capsys):
    folder = tmp_path / "a folder with spaces and a long name"
    folder.mkdir()
    file = folder / "mine.py"
    file.write_text(Path(plugin.partition(":")[0]).read_text())
    assert main(["families", f"{file}:Slider+told+noise"]) == 0
    page = capsys.readouterr().out.splitlines()
    assert page[0] == f"{file}:Slider+noise+told"
    family = shlex.split(page[-1])[2]
    assert page[-1] == f"metarl train '{family}' maml-trpo"
    assert family.startswith(f"{file}:Slider+noise+told+")
    assert find_family(family).params


@pytest.mark.parametrize(
    "name", ["half-cheetah-dir+switch+history", "point-goal+told", "half-cheetah-vel+command+told"]
)
def test_a_product_takes_no_variation_that_it_has(name, capsys):
    """What it could be combined with is listed, whatever the class of a variation is."""
    assert main(["families", name]) == 0
    said = capsys.readouterr().out
    has = name.split("+")[1:]
    assert "+noise  " in said
    assert not any(f"+{word}  " in said for word in has)
    with pytest.raises(UserError, match=f"'{has[-1]}'|parameter"):
        compose(type(find_family(name)), [has[-1]])


def test_families_as_json(capsys):
    assert main(["families", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    point = rows["point-goal"]
    assert (point["observation_size"], point["action_size"], point["horizon"]) == (4, 2, 20)
    goal = point["params"][0]
    assert (goal["name"], goal["unit"], goal["size"]) == ("goal_x", "m", 1)
    assert goal["train"] == {"low": -1.0, "high": 1.0, "log": False}
    assert goal["ood"] == [{"low": 1.0, "high": 1.25, "log": False}]
    found = point["variations"]["dynamics"]  # read off its model
    assert [(p["name"], p["size"]) for p in found["params"]] == [
        ("mass", 1), ("damping", 2), ("strength", 2), ("payload", 1),
    ]  # fmt: skip
    assert not found["own"]
    assert "terrain" not in point["variations"]  # its base moves in the plane of x and y
    assert rows["half-cheetah-dir"]["params"][0]["train"] == {"values": [-1.0, 1.0]}
    vel = rows["half-cheetah-vel"]
    assert (vel["robot"], vel["gymnasium_id"]) == ("cheetah", "metarl/HalfCheetahVel-v0")
    assert vel["splits"] == ["train", "heldout", "ood"]
    assert list(vel["variations"]) == [
        "dynamics", "crippled", "terrain", "terrain-scan", "command", "history", "latency", "noise",
        "push", "sensor-bias", "switch", "varying-latency", "told",
    ]  # fmt: skip
    assert vel["variations"]["dynamics"]["params"][0]["name"] == "mass"
    assert "dynamics" not in rows["half-cheetah-dynamics"]["variations"]  # it has that already


def test_a_broken_family_does_not_hide_the_others(monkeypatch, capsys):
    monkeypatch.setattr("metarl.commands.families.list_families", lambda: ["gone", "point-goal"])
    assert main(["families"]) == 0
    out = capsys.readouterr().out
    assert "gone cannot be used: unknown family 'gone'" in out
    assert "goal_x" in out


def test_presets_say_what_was_reached_with_each_that_was_measured(capsys):
    """A blind policy has one return: it does not adapt."""
    assert main(["presets"]) == 0
    said = capsys.readouterr().out
    measured = json.loads(MEASURED.read_text())
    for name, result in measured.items():
        (line,) = (line for line in said.splitlines() if line.startswith(f"{name}   "))
        returns = [result["return"][0], *result["return"][1:][-1:]]
        assert f" tasks {' → '.join(map(str, returns))} " in line
        assert (" after " in line) == (len(returns) == 2)
    assert min(len(result["return"]) for result in measured.values()) == 1


def test_algorithms(capsys):
    assert main(["algorithms"]) == 0
    assert "inner_lr=0.1" in capsys.readouterr().out
    assert main(["algorithms", "--json"]) == 0
    row = next(r for r in json.loads(capsys.readouterr().out) if r["name"] == "maml-trpo")
    assert row["settings"]["max_kl"] == 0.01


def test_check_exits_by_what_it_finds(plugin, tmp_path, capsys):
    assert main(["check", plugin]) == 0
    assert "FAIL" not in capsys.readouterr().out
    bad = tmp_path / "bad.py"
    text = Path(plugin.partition(":")[0]).read_text()
    bad.write_text(text.replace("sim.qvel[:, 0] *", "sim.qvel *"))
    assert main(["check", f"{bad}:Slider"]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_backend_of_matplotlib_that_is_none_keeps_nobody_from_charts(after_torch):
    """Commands draw into files."""
    code = (
        "import metarl.cli as c; c.main(['--version']); import metarl.report.charts; print('drawn')"
    )
    assert after_torch(code, MPLBACKEND="nonsense").splitlines()[-1] == "drawn"


# --- interruptions of the command itself -------------------------------------------------------


def test_ctrl_c_anywhere_is_one_line(monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("metarl.commands.families.families", interrupted)
    assert main(["families"]) == 130
    assert capsys.readouterr().err == "metarl: interrupted\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_any_command_in_one_line_and_leaves_nothing_half(name, tmp_path):
    """Its code is that of the signal, as a shell has it."""
    number = getattr(signal, name)

    def work(argv: list[str]) -> int:
        with whole_file(tmp_path / "out") as draft:
            draft.write_text("half")
            print("begun", flush=True)
            time.sleep(60)
        return 0

    process = forked(lambda: cli.guarded(work, []))
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    said = process.communicate(timeout=300)[1].splitlines()
    assert process.returncode == 128 + number
    assert said == ["metarl: interrupted" if name == "SIGINT" else f"metarl: ended by {name}"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_that_comes_as_the_command_ends_is_no_traceback(name, monkeypatch, capfd):
    """As from torchrun, which ends a rank that is ending by itself since another has died."""
    number = getattr(signal, name)
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)]

    def told(command, argv):  # its end is told, and the signal is not caught in there any more
        signal.raise_signal(number)
        return 2

    monkeypatch.setattr(cli, "_code", told)
    assert cli.guarded(lambda _: 0, []) == 128 + number
    assert capfd.readouterr() == ("", "")
    assert handlers == [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)]


def test_a_signal_that_comes_while_handlers_are_given_back_does_nothing(monkeypatch):
    own, real = signal.getsignal(signal.SIGTERM), signal.signal

    def again(number, handler):
        before = real(number, handler) if handler is not own else signal.getsignal(number)
        if handler is own:
            signal.raise_signal(signal.SIGTERM)
            real(number, handler)
        return before

    monkeypatch.setattr(signal, "signal", again)
    assert cli.guarded(lambda _: 3, []) == 3
    assert signal.getsignal(signal.SIGTERM) is own


def test_what_is_ignored_stays_so_and_handlers_are_given_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        found = []

        def work(argv: list[str]) -> int:
            found.extend(map(signal.getsignal, (signal.SIGHUP, signal.SIGTERM)))
            return 0

        own = signal.getsignal(signal.SIGTERM)
        assert cli.guarded(work, []) == 0
        assert found[0] == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == own
        assert (found[1] == own) == (own is not signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_too_little_memory_for_torch_is_one_line(monkeypatch, capsys):
    def hungry(argv):
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr("metarl.commands.families.families", hungry)
    assert main(["families"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("metarl: error: out of memory: use fewer tasks or rollouts")
    assert len(error.splitlines()) == 1


def test_too_little_memory_for_python_is_one_line(monkeypatch, capsys):
    def hungry(argv):
        raise MemoryError

    monkeypatch.setattr("metarl.commands.families.families", hungry)
    assert main(["families"]) == 2
    error = capsys.readouterr().err
    assert error == "metarl: error: out of memory: use fewer tasks or rollouts\n"


@pytest.mark.parametrize("error", [RuntimeError, OSError])
def test_a_bug_keeps_its_traceback_without_control_characters(monkeypatch, capsys, error):
    def buggy(argv):
        raise error("a bug \x1b]0;title\x07")

    monkeypatch.setattr("metarl.commands.families.families", buggy)
    assert main(["families"]) == 1
    said = capsys.readouterr().err
    assert "in buggy" in said
    assert f"{error.__name__}: a bug \\x1b]0;title\\x07" in said
    assert said.splitlines()[-1].endswith("please report it, with the lines above")
    assert "\x1b" not in said


def test_a_reader_that_goes_away_is_no_error():
    with forked(lambda: main(["families", "--json"])) as process:
        assert process.stdout.read(1) == "["
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0

"""The documentation is true: its code runs, its commands exist, its links and copies are right."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace

import mujoco
import pytest
import torch
from helpers.short_checks import checked_in_short

from envs.point import PointGoal
from metarl import TaskWorlds, cli, find_family, find_learner
from metarl.check.suite import CHECKS
from metarl.learning.registry import list_learners
from metarl.tasks.registry import list_families

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(
    r"^(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<lang>\w+)\n(?P<code>.*?)^```", re.M | re.S
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[tuple[int, str, str | None]]:
    """Return (line, code, copied file) of the fenced blocks in one language."""
    text = page.read_text(encoding="utf-8")
    return [
        (text[: found.start("code")].count("\n"), found["code"], found["file"])
        for found in BLOCK.finditer(text)
        if found["lang"] == language
    ]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def slug(heading: str) -> str:
    kept = "".join(c for c in heading.lower() if c.isalnum() or c in " -_")
    return kept.strip().replace(" ", "-")


@pytest.mark.usefixtures("_empty_charts")
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_python_code_runs(page, tmp_path, monkeypatch):
    """The blocks of a page run in order, as one script; of a training, one short iteration."""
    monkeypatch.setattr(PointGoal, "horizon", 5)
    monkeypatch.chdir(tmp_path)
    logged = fake_wandb(monkeypatch)
    scope = {"__name__": "docs"}
    for line, code, copied in blocks(page, "python"):
        if copied is None:  # copies are compared below, and their files are tested as plug-ins
            short = re.sub(r"\biterations=\d+", "iterations=1", code)
            exec(compile("\n" * line + short, name(page), "exec"), scope)
    if page.name == "tracking.md":
        assert {"rollout/ep_rew_mean", "heldout/after", "finished"} <= set().union(*logged)


def fake_wandb(monkeypatch) -> list[dict]:
    """Let pages import a W&B without a network; return what is logged to it."""
    logged: list[dict] = []
    run = SimpleNamespace(
        log=lambda values, step: logged.append(values),
        finish=lambda: logged.append({"finished": 1}),
    )
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: run))
    return logged


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_copies_equal_their_files(page):
    for line, code, copied in blocks(page, "python"):
        if copied is not None:
            original = (page.parent / copied).read_text(encoding="utf-8")
            assert code == original, (
                f"{name(page)}:{line}: run `python docs/copy_examples.py` ({copied} has changed)"
            )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), f"{name(page)} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.M)
            assert anchor in map(slug, headings), f"{name(page)} links to {target}"


def metarl_commands(page: Path) -> list[list[str]]:
    """Return the words of each metarl command in the page's shell blocks and code spans."""
    text = page.read_text(encoding="utf-8")
    shell = [line for _, code, _ in blocks(page, "sh") for line in unfolded(code)]
    spans = re.findall(r"`(metarl [^`]+)`", text)
    found = [shlex.split(line, comments=True) for line in (*shell, *spans)]
    return [words[1:] for words in found if words and words[0] == "metarl" and len(words) > 1]


def unfolded(code: str) -> list[str]:
    return re.sub(r"\\\n\s*", " ", code).splitlines()


HELP: dict[tuple[str, ...], str] = {}


def help_of(capsys, *words: str) -> str:
    """Return a page of help; many pages of the documentation ask for the same ones."""
    if words not in HELP:
        assert cli.main([*words, "--help"]) == 0
        HELP[words] = capsys.readouterr().out
    return HELP[words]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page, capsys):
    """Every command named is one that `metarl --help` lists, with options that its help lists."""
    listed = re.findall(r"^  (\w+)  ", help_of(capsys), re.M)
    for words in metarl_commands(page):
        if words[0] == "COMMAND":
            continue
        assert words[0] in listed, f"{name(page)}: metarl {words[0]}"
        named = [word for word in words[1:3] if not word.startswith("-")]
        algorithm = named[1] if len(named) == 2 and named[1] in list_learners() else "maml-trpo"
        text = help_of(
            capsys, words[0], *(["point-goal", algorithm] if words[0] == "train" else [])
        )
        for option in (word for word in words if word.startswith("--")):
            assert re.search(rf"{option}\b", text), f"{name(page)}: metarl {' '.join(words)}"


def test_every_command_is_on_the_page_of_commands(capsys):
    cli.main(["--help"])
    listed = set(re.findall(r"^  (\w+)  ", capsys.readouterr().out, re.M)) & set(cli.COMMANDS)
    assert listed == set(cli.COMMANDS)
    assert {words[0] for words in metarl_commands(ROOT / "docs" / "commands.md")} >= listed


def test_every_family_and_algorithm_has_a_page():
    ours = set(entry_points("families"))
    assert ours <= {p.stem for p in (ROOT / "docs/families").glob("*.md")} & set(list_families())
    theirs = set(entry_points("learners"))
    pages = {p.stem for p in (ROOT / "docs/algorithms").glob("*.md")}
    assert theirs <= pages & set(list_learners())


def entry_points(kind: str) -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["entry-points"][f"metarl.{kind}"]


@pytest.mark.parametrize("family", sorted(entry_points("families")))
def test_family_page_has_the_ranges_of_the_code(family):
    """Parameter, unit and ranges stand in the page's table as they are in the code."""
    found = find_family(family)
    page = (ROOT / "docs/families" / f"{family}.md").read_text(encoding="utf-8")
    page = page.replace("−", "-")
    for param in found.params:
        ood = ", ".join(str(interval) for interval in param.outside) or "none"
        row = f"| `{param.name}` | {param.unit or '1'} | {param.train} | {ood} |"
        assert row in page, f"{family}.md lacks: {row}"
    assert f"{found.horizon} steps" in page
    assert f"dt {found.dt:g} s (frame skip {found.frame_skip})" in page


def script(name: str):
    """A script of the documentation, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_and_the_reading_lists_are_those_of_the_code():
    """`python docs/draw_rooms.py` would change nothing, and each list is an afternoon's."""
    rooms = script("draw_rooms")
    assert rooms.main(["--check"]) == 0, "run `python docs/draw_rooms.py`"
    assert rooms.READING.keys() == entry_points("learners").keys()
    for name, files in rooms.READING.items():
        paths = [ROOT / "metarl" / f"{file}.py" for file in files]
        assert name.replace("-", "_") in {path.stem for path in paths}
        assert len(paths) <= 6
        most = 1500 if name in ("maml-trpo", "rl2", "pearl") else 1600
        assert sum(len(path.read_text("utf-8").splitlines()) for path in paths) <= most


@pytest.mark.parametrize("page", [*PAGES, ROOT / "mkdocs.yml"], ids=name)
def test_modules_and_files_exist(page):
    """Each dotted name and path of ours is where the page says; a changelog tells of the past."""
    text = page.read_text(encoding="utf-8")
    if page.name == "CHANGELOG.md":
        return
    for path in set(
        re.findall(r"\b(?:metarl|envs|experiments|benchmarks|tests)/[\w/]+\.py\b", text)
    ):
        assert (ROOT / path).is_file(), f"{name(page)}: {path}"
    for dotted in set(re.findall(r"\bmetarl(?:\.[A-Za-z_]\w*)+", text)) - {
        "metarl.families",
        "metarl.learners",
    }:
        assert resolve_name(dotted) is not None, f"{name(page)}: {dotted}"


def test_the_tables_of_the_family_pages_are_those_of_the_code():
    """`python docs/family_tables.py` would change no page."""
    tables = script("family_tables")
    assert tables.main(["--check"]) == 0
    assert "| random actions |" in tables.reference_lines("ant-vel")
    assert "Not measured" in tables.reference_lines("no-family")


def test_the_chooser_has_what_was_measured():
    """`python docs/choosing.py` would change nothing, and all that was measured is in it."""
    chooser = script("choosing")
    assert chooser.main(["--check"]) == 0
    page = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    assert "| point-goal | " in chooser.results()
    assert chooser.filled(page.replace("| point-goal | ", "| nowhere | ")) == page


def test_every_learner_is_in_the_table_with_its_results_or_without():
    """`python docs/algorithm_table.py` would change nothing."""
    table = script("algorithm_table")
    assert table.main(["--check"]) == 0, "run `python docs/algorithm_table.py`"
    assert table.CHOOSE.keys() == entry_points("learners").keys()
    page = (ROOT / "docs" / "algorithms" / "index.md").read_text(encoding="utf-8")
    for name in table.CHOOSE:
        assert f"| [{name}]({name}.md) |" in page
        assert f"\n| {name} | " in page


def test_the_best_learner_of_a_family_and_the_cheapest_that_comes_near():
    """From −10 to 0, nine tenths is −1: pearl is short of it, and rl2 took the fewest steps."""
    row = {"still": -10.0, "mark": "", "first": -5.0}
    rows = {
        "rl2": {"toy": row | {"last": -1.0, "steps": 1_000_000}},
        "varibad": {"toy": row | {"last": 0.0, "steps": 3_000_000, "first": -6.0}},
        "pearl": {"toy": row | {"last": -1.5, "steps": 10}, "alone": row},
        "mil": {"toy": row | {"last": 5.0, "steps": 10}},
    }
    assert script("algorithm_table").ranked(rows)[2:] == ["| toy | rl2 | varibad | rl2, 1 M |"]
    bad = {name: {"toy": row | {"last": -11.0, "steps": 1}} for name in ("ppo", "rl2")}
    assert script("algorithm_table").ranked(bad)[2:] == [
        "| toy | – | – | none came above standing still |"
    ]


def test_the_comparison_says_what_this_version_needs():
    page = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = {row[1]: row[2] for row in re.finditer(r"^\| ([^|]+) \| ([^|]+) \|", page, re.M)}
    assert rows["Python"].replace("≥ ", ">=") == project["requires-python"]
    assert "torch" + rows["torch"].replace("≥ ", ">=") in project["dependencies"]
    assert rows["last release"] == project["version"]


@pytest.mark.parametrize("learner", sorted(entry_points("learners")))
def test_algorithm_page_has_the_settings_of_the_code(learner):
    page = (ROOT / "docs/algorithms" / f"{learner}.md").read_text(encoding="utf-8")
    config = find_learner(learner).Config()
    for field, value in vars(config).items():
        row = re.search(rf"^\| `{field}` \| ([^|]+) \|", page, re.M)
        assert row, f"{learner}.md lacks {field}"
        assert row[1].strip() == shown(value), f"{learner}.md: {field} is {value}"


def shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_versions_agree():
    import metarl

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == metarl.__version__


def test_every_direct_dependency_is_pinned():
    """constraints.txt pins what pyproject.toml asks for, apart from the optional extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([a-z0-9_-]+)==", pins, re.M))
    assert {re.split(r"[\[<>=!]", line)[0] for line in wanted} <= pinned


@pytest.mark.parametrize(
    "family", ["my_robot.py:MyRobot", "my_arm.py:MyArm", "my_arm.py:MyHand", "my_cart.py:MyCart"]
)
def test_example_family_trains_with_the_example_learner(family, tmp_path, capsys, monkeypatch):
    """The plug-in examples work from their files, through the command line."""
    examples = ROOT / "docs" / "examples"
    monkeypatch.setattr(type(find_family(f"{examples}/{family}")), "horizon", 25)
    words = f"train {examples}/{family} {examples}/my_learner.py:ConstantAction"
    flags = "--iterations 1 --tasks-per-iteration 2 --rollouts-per-task 2 --evaluate-tasks 2"
    code = cli.main([*words.split(), *flags.split(), "--out", str(tmp_path / "run")])
    assert code == 0, capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.csv").is_file()


def test_example_family_is_short():
    """Two parameters of the dynamics and a goal in at most 40 lines, docstrings included."""
    file = ROOT / "docs" / "examples" / "my_robot.py"
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 40
    params = find_family(f"{file}:MyRobot").params
    assert [bool(param.edits) for param in params] == [True, True, False]


def test_example_of_a_bare_robot_is_short_and_stands():
    """From bodies and joints to a command in at most 60 lines; it stands, and feels that."""
    file = ROOT / "docs" / "examples" / "own_robot.py"
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 60
    bare = mujoco.MjModel.from_xml_path(str(file.with_suffix(".xml")))
    assert (bare.nu, bare.nkey, bare.nlight) == (0, 0, 0)
    worlds = TaskWorlds(f"{file}:OwnRobot+command+dynamics+push+terrain", 2, 1)
    for _ in range(100):
        got = worlds.step(torch.zeros(2, 8))
    assert not (got.terminated | got.diverged).any()
    assert got.obs[:, 22:26].tolist() == [[1.0] * 4] * 2  # on its four feet
    assert (worlds.family.root.position(worlds.simulator, 2) > 0.2).all()


OWN = f"{ROOT}/docs/examples/own_robot.py:OwnRobot+command+dynamics+noise+push+terrain"


@pytest.mark.slow
def test_the_whole_product_of_a_bare_robot_is_sound(monkeypatch):
    """With a command, dynamics, noise, pushes and terrain, all at once, as the page has it."""
    family = find_family(OWN)
    for check in CHECKS:
        checked_in_short(family, check, monkeypatch)


@pytest.mark.slow
def test_the_whole_product_of_a_bare_robot_trains(tmp_path, capsys):
    """As the page has it, and with a critic that is privileged; the terms are logged."""
    flags = "--iterations 1 --tasks-per-iteration 2 --rollouts-per-task 1 --evaluate-tasks 2"
    small = "--critic privileged --episodes 1 --units 8 --hidden 8 --epochs 1 --threads 1"
    words = f"train {OWN} rl2 {flags} {small} --evaluate-episodes 1 --out {tmp_path}/run"
    assert cli.main(words.split()) == 0, capsys.readouterr().err
    assert "reward/command_tracking" in (tmp_path / "run" / "metrics.csv").read_text()


@pytest.mark.slow
def test_example_environment_trains_and_is_evaluated(tmp_path, capsys):
    examples, run = ROOT / "docs" / "examples", str(tmp_path / "run")
    words = f"train {examples}/my_env.py:MyPendulum {examples}/my_learner.py:ConstantAction"
    flags = "--iterations 1 --tasks-per-iteration 2 --rollouts-per-task 2 --evaluate-tasks 2"
    flags += " --evaluate-episodes 1 --threads 2"
    assert cli.main([*words.split(), *flags.split(), "--out", run]) == 0
    look = "--split ood --tasks 2 --episodes 1 --threads 2"
    assert cli.main(["evaluate", run, *look.split()]) == 0
    assert "my-pendulum  constant-action  ood: 2 tasks" in capsys.readouterr().out


def test_example_learner_adapts():
    """On point-goal the example learner's held-out return rises by more than a third."""
    from metarl import TaskDistribution, evaluate

    worlds = TaskWorlds("point-goal", 10 * 20, threads=1)
    cls = find_learner(f"{ROOT}/docs/examples/my_learner.py:ConstantAction")
    learner = cls(worlds.spec, cls.Config())
    tasks = TaskDistribution(worlds.family).split("heldout", 10)
    report = evaluate(learner, worlds, tasks, episodes=2, seed=0)
    assert report.mean[-1] > report.mean[0] * 2 / 3

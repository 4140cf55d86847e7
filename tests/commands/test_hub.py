"""`metarl agents`, `push` and `pull`: against a hub of our own on 127.0.0.1, never the real one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from helpers.hub import TOKEN, running_hub
from helpers.process import forked

from metarl import cli
from metarl.commands.hub import agents as known_agents
from metarl.learning import agents as known
from metarl.learning.checkpoint import HEADER, WEIGHTS
from metarl.worlds.task_worlds import TaskWorlds

AGENTS = Path(__file__).resolve().parents[2] / "experiments" / "agents"
SHIPPED = AGENTS / "half-cheetah-vel-maml-trpo"


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    """The user's data folder, and a working folder without anything in it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "data" / "metarl" / "agents"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        place = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # as of a process that begins so
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place)
        yield hub


def refused(capsys, *words: str) -> str:
    assert cli.main(list(words)) == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1, line
    return line


# --- the list ----------------------------------------------------------------------------------


def test_the_list_has_every_shipped_agent_with_the_numbers_of_its_card(capsys):
    assert cli.main(["agents", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    folders = {path.parent.name for path in AGENTS.glob("*/checkpoint.json")}
    assert rows.keys() == folders
    card = (SHIPPED / "README.md").read_text()
    row = rows[SHIPPED.name]
    assert (row["family"], row["algorithm"]) == ("half-cheetah-vel", "maml-trpo")
    for split in ("heldout", "ood"):
        for seen, mean in zip(row["episodes"], row[split]["mean"], strict=True):
            said = re.search(rf"^\| {split} \| {seen} \| (\S+) \|", card, re.M)[1]
            assert float(said.replace("−", "-")) == pytest.approx(mean, rel=0.01)
        score, low, high = row["score"][split]
        assert low < score < high
        assert f"{split} tasks after 60 episodes: {score:.2f} [{low:.2f}, {high:.2f}]" in card
    assert Path(rows["half-cheetah-vel-rl2"]["video"]).is_file()
    assert rows["half-cheetah-dynamics-rl2"]["video"] is None


def test_the_table_has_a_line_for_each(capsys):
    assert cli.main(["agents", "half-cheetah-vel"]) == 0
    lines = capsys.readouterr().out.splitlines()
    some = [line.split() for line in lines if line.lstrip().startswith("half-cheetah-vel-")]
    assert [words[0].rpartition("-")[2] for words in some] == ["trpo", "pearl", "ppo", "rl2"]
    assert max(map(len, lines)) <= 120
    assert some[1][3:7] == ["800k", "-43", "-39", "3"]


@pytest.mark.parametrize(
    ("columns", "without"),
    [(80, {"family", "learner", "video"}), (90, {"family", "learner"}), (96, {"family"})],
)
def test_a_narrow_terminal_has_names_and_scores_in_full(columns, without, monkeypatch, capsys):
    monkeypatch.setattr(known_agents, "PIPE_WIDTH", columns)
    assert cli.main(["agents"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()[1:]
    assert set(known_agents.COLUMNS) - set(head.split()) == without
    assert max(map(len, lines)) <= columns
    assert any(line.split()[:1] == ["half-cheetah-dynamics-maml-trpo"] for line in lines)
    assert not any("…" in line for line in lines)


def test_an_agent_that_is_broken_is_named_and_the_others_are_listed(data, capsys):
    shutil.copytree(SHIPPED, data / "some" / "good")
    bad = data / "some" / "bad"
    shutil.copytree(SHIPPED, bad)
    (bad / "result.json").write_text('{"experience": [0], "mean": "\\u001b[31m"}')
    os.mkfifo(data / "some" / "pipe")  # reading it would wait for ever
    assert cli.main(["agents", "some/"]) == 0
    out = capsys.readouterr().out
    assert "some/good" in out
    assert "some/bad cannot be used: " in out
    assert "\x1b" not in out


def test_a_name_that_is_near_is_offered(capsys):
    line = refused(capsys, "agents", "half-cheetah-vel-perl")
    assert "did you mean 'half-cheetah-vel-pearl'" in line


# --- without the library, and with bad words ---------------------------------------------------


@pytest.mark.parametrize("words", [["push", str(SHIPPED), "me/agent"], ["pull", "me/agent"]])
def test_without_the_library_one_line_names_the_extra(words, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert "pip install 'metarl-toolkit[hub]'" in refused(capsys, *words)


@pytest.mark.parametrize("repo", ["agent", "../agent", "a/b/c", "me/..", "me/-agent-", "me/a b"])
def test_a_name_that_no_repository_has_is_refused(hub, repo, capsys):
    for words in (["push", str(SHIPPED), repo], ["pull", repo]):
        assert repo in refused(capsys, *words)
    assert hub.asked == []


# --- there and back ----------------------------------------------------------------------------


def test_a_shipped_agent_goes_there_and_back(hub, data, capsys):
    words = ["push", SHIPPED.name, "me/agent", "--private", "--license", "mit"]
    assert cli.main(words) == 0
    assert "metarl pull me/agent" in capsys.readouterr().out
    there = hub.branches["me/agent", "main"]
    assert hub.private == {"me/agent"}
    for name in (WEIGHTS, HEADER, "result.json", "curve.png"):
        assert there[name] == (SHIPPED / name).read_bytes()
    assert cli.main(["pull", "me/agent"]) == 0
    assert "try: metarl adapt me/agent" in capsys.readouterr().out
    assert {path.name for path in (data / "me" / "agent").iterdir()} == there.keys() - {
        ".gitattributes"
    }
    assert known.find_run("me/agent") == data / "me" / "agent"
    assert cli.main(["agents", "me/agent", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["from"], row["env_steps"]) == ("hub", 6_400_000)
    assert len(row["score"]["ood"]) == 3  # read from the card that came back


def test_the_card_is_in_the_format_of_the_hub(hub, capsys, tmp_path):
    from huggingface_hub import ModelCard

    (tmp_path / "film.gif").write_bytes(b"GIF89a")
    video = ["--video", str(tmp_path / "film.gif")]
    assert cli.main(["push", str(SHIPPED), "me/agent", *video]) == 0
    text = hub.branches["me/agent", "main"]["README.md"].decode()
    card = ModelCard(text)
    head, result = card.data, json.loads((SHIPPED / "result.json").read_text())
    assert (head.library_name, head.pipeline_tag) == ("metarl", "reinforcement-learning")
    assert {"robotics", "half-cheetah-vel", "maml-trpo"} <= set(head.tags)
    found = {(one.dataset_split, one.metric_name): one.metric_value for one in head.eval_results}
    assert found == {
        (split, f"mean return, {shot}-shot"): round(report["mean"][k], 3)
        for split, report in (("heldout", result), ("ood", result["ood"]))
        for k, shot in ((0, "zero"), (-1, "60"))
    }
    commands = re.findall(r"^metarl (\w+) (\S+)", text, re.M)
    assert commands[0] == ("pull", "me/agent")
    assert {name for word, name in commands if word != "train"} == {"me/agent"}
    assert "![It adapts](adapts.gif)" in text
    assert hub.branches["me/agent", "main"]["adapts.gif"] == b"GIF89a"
    own = (SHIPPED / "README.md").read_text()
    assert own.partition("## Trained on")[2] == text.partition("## Trained on")[2]


def edited(path: Path, *change: object) -> None:
    """Write a JSON file with a member, named by the words before the last, replaced or removed."""
    found = json.loads(path.read_text())
    at, (*way, name, value) = found, change
    for word in way:
        at = at[word]
    if value is KeyError:
        del at[name]
    else:
        at[name] = value
    path.write_text(json.dumps(found))


BAD_RESULTS = [
    (lambda path: path.write_text("[]"), "no JSON object"),
    (lambda path: path.write_text("{"), "not JSON"),
    (lambda path: path.write_bytes(b"\xff\xfe"), "not JSON"),
    (lambda path: path.write_text("[" * 10**5), "not JSON"),
    (lambda path: edited(path, "family", KeyError), "lacks family"),
    (lambda path: edited(path, "family", ["x"]), "family must be a string"),
    (lambda path: edited(path, "family", "ant-dir"), "it is of maml-trpo on ant-dir"),
    (lambda path: edited(path, "mean", float("nan")), "mean must be a list"),
    (lambda path: edited(path, "mean", {}), "mean must be a list"),
    (lambda path: edited(path, "experience", []), "returns has shape"),
    (lambda path: edited(path, "ood", ["x"]), "no JSON object"),
    (lambda path: edited(path, "ood", "experience", "many"), "experience must be a list"),
    (lambda path: edited(path, "diagnostics", 3), "diagnostics must be an object"),
    (lambda path: path.with_name("README.md").write_bytes(b"\xff\xfe"), "not a"),
    (lambda path: path.write_bytes(b" " * (16 * 2**20 + 1)), "too large to share"),
]


@pytest.mark.parametrize(("break_it", "said"), BAD_RESULTS)
def test_an_agent_whose_result_cannot_be_read_is_not_pushed(hub, tmp_path, capsys, break_it, said):
    """One line that says what is wrong, before the hub is asked for anything."""
    agent = shutil.copytree(SHIPPED, tmp_path / "agent")
    break_it(agent / "result.json")
    line = refused(capsys, "push", str(agent), "me/agent")
    assert said in line
    assert not hub.branches


def test_what_the_list_cannot_show_is_the_error_of_its_agent(data, capsys):
    for name, change in (
        ("none", ("experience", [])), ("shorter", ("mean", [1.0])), ("text", ("mean", ["x"] * 4)),
        ("still", ("stand_still", [1.0])),
    ):  # fmt: skip
        agent = shutil.copytree(SHIPPED, data / "them" / name)
        edited(agent / "result.json", *change)
    agent = shutil.copytree(SHIPPED, data / "them" / "infinite")
    edited(agent / "result.json", "mean", 0, float("nan"))
    assert cli.main(["agents", "them/", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)  # there is no NaN in it
    assert {row["name"]: "error" in row for row in rows} == {
        f"them/{name}": name != "infinite" for name in ("infinite", "none", "shorter", "still",
                                                        "text")
    }  # fmt: skip
    assert cli.main(["agents", "them/"]) == 0


@pytest.mark.usefixtures("_empty_charts")
def test_a_run_becomes_an_agent_and_a_branch_has_its_own(hub, data, small_run, tmp_path, capsys):
    run = shutil.copytree(small_run, tmp_path / "run")
    words = ["push", str(run), "me/point", "--revision", "v2", "--threads", "1"]
    assert cli.main(words) == 0
    assert hub.branches["me/point", "main"].keys() == {".gitattributes"}
    assert "metarl-toolkit" in json.loads(hub.branches["me/point", "v2"][HEADER])["versions"]
    capsys.readouterr()
    assert "has no weights" in refused(capsys, "pull", "me/point")
    assert "no such revision" in refused(capsys, "pull", "me/point", "--revision", "v3")
    assert cli.main(["pull", "me/point", "--revision", "v2"]) == 0
    assert (
        cli.main(["adapt", "me/point", "--set", "goal_x=0.5", "--episodes", "1", "--threads", "1"])
        == 0
    )


def test_what_is_no_agent_is_not_overwritten(hub, capsys):
    hub.commit("me/other", "main", {"README.md": b"mine", "model.bin": b"1"})
    assert "something else than an agent" in refused(capsys, "push", str(SHIPPED), "me/other")
    assert hub.branches["me/other", "main"]["README.md"] == b"mine"
    (Path("mine")).mkdir()
    (Path("mine") / "notes.txt").write_text("mine")
    hub.commit("me/agent", "main", agent_files())
    assert "something else" in refused(capsys, "pull", "me/agent", "--out", "mine")
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("token", "words", "said"),
    [
        ("wrong", ["push", str(SHIPPED), "me/agent"], "hf auth login"),
        (TOKEN, ["pull", "me/nothing"], "no such repository"),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub, monkeypatch, capsys, token, words, said):
    monkeypatch.setenv("HF_TOKEN", token)
    assert said in refused(capsys, *words)


def test_a_hub_that_is_not_there_is_one_line(hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for words in (["push", str(SHIPPED), "me/agent"], ["pull", "me/agent"]):
        assert "'me/agent': " in refused(capsys, *words)


@pytest.mark.parametrize(
    ("variables", "repo", "said"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "me/agent", "cannot push to 'me/agent': "),
        ({"HF_TOKEN": None}, "me/agent", "cannot push to 'me/agent': you are not logged in: run "),
        ({}, "me/other", "'me/other' holds something else than an agent"),
    ],
)
def test_what_keeps_a_run_from_the_hub_is_said_before_it_is_evaluated(
    hub, trained_run, monkeypatch, capsys, variables, repo, said, tmp_path
):
    def step(self, action):
        raise AssertionError("this is the work")

    monkeypatch.setattr(TaskWorlds, "step", step)
    hub.commit("me/other", "main", {"model.bin": b"1"})
    for name, value in variables.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        pytest.importorskip("huggingface_hub.constants"), "HF_TOKEN_PATH", tmp_path / "none"
    )
    assert refused(capsys, "push", str(trained_run), repo).startswith(f"metarl: error: {said}")


# --- a stranger's ------------------------------------------------------------------------------


def agent_files(**changes: bytes) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in SHIPPED.iterdir()} | changes


@pytest.mark.parametrize(
    ("files", "claims", "said"),
    [
        ({"../evil.py": b"1"}, {}, "'../evil.py' would lie outside"),
        ({"/etc/evil": b"1"}, {}, "would lie outside"),
        ({"a\\..\\evil": b"1"}, {}, "would lie outside"),
        ({}, {WEIGHTS: 2**40}, "its weights.safetensors is 1048576 MB, and the limit is 256 MB"),
        ({HEADER: b" " * (4 * 2**20 + 1)}, {HEADER: 10}, "the limit is 4 MB"),
        ({WEIGHTS: b"\0" * 2000}, {}, "weights.safetensors"),
        ({HEADER: b"{}"}, {}, "not a checkpoint that can be read"),
    ],
    ids=["above", "absolute", "backslash", "huge", "lie about size", "changed", "no header"],
)
def test_a_bad_repository_is_refused_and_leaves_nothing(hub, data, capsys, files, claims, said):
    hub.commit("eve/agent", "main", agent_files() | files)
    hub.claims = claims
    line = refused(capsys, "pull", "eve/agent")
    assert said in line
    assert ".writing" not in line
    left = [path for path in data.parent.parent.rglob("*") if path.is_file()]
    assert left == []


def test_files_that_no_agent_has_are_not_fetched(hub, data):
    hub.commit("eve/agent", "main", agent_files() | {"robot.py": b"1", "deep/er.py": b"1"})
    assert cli.main(["pull", "eve/agent"]) == 0
    assert not any(name in "".join(hub.asked) for name in ("robot.py", "er.py"))
    assert {path.name for path in (data / "eve/agent").iterdir()} == agent_files().keys()


def test_an_agent_that_names_code_needs_the_users_own(hub, data, plugin, tmp_path, capsys):
    """The rules of `metarl.base.trust`, as for any stranger's checkpoint."""
    from helpers.runs import SMALL

    from metarl.learning import checkpoint as checkpoints
    from metarl.learning.registry import find_learner
    from metarl.worlds.vector import Spec

    learner = find_learner("maml-trpo")(Spec(2, 1, 5), SMALL)
    meta = {"exported": True, "env_steps": 1, "seed": 0, "train": {}}
    stranger = "/somewhere/slider.py:Slider"
    saved = checkpoints.save(tmp_path / "saved", learner, family=stranger, step=1, meta=meta)
    files = agent_files() | {p.name: p.read_bytes() for p in saved.iterdir()}
    hub.commit("eve/agent", "main", files)
    line = refused(capsys, "pull", "eve/agent")
    assert "'eve/agent': its family is in '/somewhere/slider.py'" in line
    assert "--family FILE.py:Slider" in line
    assert not (data / "eve" / "agent").exists()
    assert cli.main(["pull", "eve/agent", "--family", plugin]) == 0


def test_a_killed_pull_leaves_nothing_half(hub, data, capsys):
    hub.commit("me/agent", "main", agent_files())
    hub.slow = {WEIGHTS}

    def pull() -> int:
        from huggingface_hub.utils import close_session

        close_session()  # whose descriptors did not come along
        return cli.main(["pull", "me/agent"])

    with forked(pull) as process:
        assert hub.half.wait(30), process.stderr.read()
        process.send_signal(signal.SIGKILL)
    assert not (data / "me" / "agent").exists()
    assert cli.main(["agents", "me/"]) == 2
    hub.slow = set()
    hub.stalls.set()
    assert cli.main(["pull", "me/agent"]) == 0
    assert [path.name for path in (data / "me").iterdir()] == ["agent"]


def test_an_agent_that_is_there_stays_until_the_new_one_is_whole(hub, data, capsys):
    hub.commit("me/agent", "main", agent_files())
    assert cli.main(["pull", "me/agent"]) == 0
    before = (data / "me/agent" / HEADER).read_bytes()
    hub.commit("me/agent", "main", agent_files(**{WEIGHTS: b"broken"}))
    refused(capsys, "pull", "me/agent")
    assert (data / "me/agent" / HEADER).read_bytes() == before

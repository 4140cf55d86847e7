"""Checkpoints: whole or not at all, refused when changed by a bit, and never executing code."""

import hashlib
import json
import os
import pickle
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers.process import forked

from metarl.algorithms.maml_trpo import MamlTrpo, MamlTrpoConfig
from metarl.base.errors import UserError
from metarl.learning import checkpoint as checkpoints
from metarl.worlds.vector import Spec

ROOT = Path(__file__).parents[2]
META = {"seed": 3, "iteration": 7, "note": "ü"}


def learner(seed: int = 0) -> MamlTrpo:
    return MamlTrpo(Spec(4, 2, 20), MamlTrpoConfig(hidden=(8,)), seed=seed)


def saved(folder: Path, step: int = 7) -> Path:
    return checkpoints.save(folder, learner(), family="point-goal", step=step, meta=META)


def reseal(path: Path, **changes: object) -> None:
    """Change the JSON and make its own digest right again, as a forger would."""
    body = json.loads((path / "checkpoint.json").read_text())
    body.update(changes)
    body.pop("self_sha256")
    reseal_whole(path, body)


def reseal_whole(path: Path, body: dict) -> None:
    body["self_sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (path / "checkpoint.json").write_text(json.dumps(body))


def refused(path: Path, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        checkpoints.restore(checkpoints.load(path))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_round_trip_to_the_bit(tmp_path: Path) -> None:
    path = saved(tmp_path)
    got = checkpoints.load(path)
    assert (got.step, got.family, got.algorithm, got.meta) == (7, "point-goal", "maml-trpo", META)
    again = checkpoints.restore(got)
    assert torch.equal(again.state_dict()["theta"], learner().state_dict()["theta"])
    assert again.config == learner().config
    assert again.spec == learner().spec


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    saved(tmp_path)
    path = checkpoints.save(tmp_path, learner(1), family="point-goal", step=7, meta={})
    assert torch.equal(checkpoints.load(path).tensors["theta"], learner(1).theta)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000007"]


def test_newest_skips_what_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    good = saved(folder, 10)
    (saved(folder, 20) / "weights.safetensors").write_bytes(b"x")
    (folder / "step_00000030").mkdir()
    (folder / ".writing-1-step_00000040").mkdir()
    with pytest.warns(UserWarning, match=r"step_00000030.* is missing.*; using step_00000010"):
        assert checkpoints.newest(tmp_path) == good
    with pytest.warns(UserWarning, match="using step_00000010"):
        assert checkpoints.newest(folder) == good
    assert checkpoints.newest(good) == good


def test_newest_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run"):
        checkpoints.newest(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no checkpoint: name a run folder"):
        checkpoints.newest(tmp_path)
    (saved(tmp_path) / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no readable checkpoint: .*truncated"):
        checkpoints.newest(tmp_path)


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        saved(tmp_path, step)
    checkpoints.prune(tmp_path, keep=2)
    assert [p.name for p in checkpoints.checkpoints(tmp_path)] == ["step_00000002", "step_00000010"]


def test_prune_spares_the_newest_that_can_be_read(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        saved(tmp_path, step)
    for step in (3, 4):
        (tmp_path / f"step_{step:08d}" / "weights.safetensors").write_bytes(b"x")
    checkpoints.prune(tmp_path, keep=1)
    assert [p.name[-1] for p in checkpoints.checkpoints(tmp_path)] == ["2", "3", "4"]
    with pytest.warns(UserWarning, match="using step_00000002 instead"):
        assert checkpoints.newest(tmp_path).name == "step_00000002"


@pytest.mark.parametrize("stop", ["between the renames", "at the second rename"])
def test_replacing_the_only_checkpoint_never_loses_it(
    tmp_path: Path, monkeypatch, stop: str
) -> None:
    """The old one counts until the new one is in its place, killed or failed."""
    saved(tmp_path)
    rename, calls = os.rename, []

    def failing(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(5, "Input/output error") if "second" in stop else KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises((UserError, KeyboardInterrupt)):
        checkpoints.save(tmp_path, learner(1), family="point-goal", step=7, meta={})
    monkeypatch.undo()
    (litter,) = tmp_path.iterdir()
    assert (litter.name == "step_00000007") is ("second" in stop)
    newest = checkpoints.newest(tmp_path)
    assert torch.equal(checkpoints.load(newest).tensors["theta"], learner().theta)
    checkpoints.save(tmp_path, learner(2), family="point-goal", step=8, meta={})
    kept = checkpoints.checkpoints(tmp_path)
    assert [path.name for path in kept] == ["step_00000007", "step_00000008"]
    assert torch.equal(checkpoints.load(kept[0]).tensors["theta"], learner().theta)


def test_meta_of_any_keys_can_be_read_again(tmp_path: Path) -> None:
    meta = {1: "one", "nested": {2: (3, 4)}}
    path = checkpoints.save(tmp_path, learner(), family="point-goal", step=1, meta=meta)
    assert checkpoints.load(path).meta == {"1": "one", "nested": {"2": [3, 4]}}


@pytest.mark.parametrize("name", ["weights.safetensors", "checkpoint.json"])
def test_pipes_and_devices_are_not_read(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path)
    (path / name).unlink()
    os.mkfifo(path / name)
    refused(path, name, "regular file")
    (path / name).unlink()
    (path / name).symlink_to("/dev/zero")
    refused(path, name, "regular file")


CODE = "import pathlib\npathlib.Path({!r}).touch()\n"


@pytest.mark.parametrize("where", ["run/checkpoints/step_00000007", "run", "."])
@pytest.mark.parametrize("field", ["family", "algorithm"])
def test_code_that_came_with_a_checkpoint_is_not_run(
    tmp_path: Path, monkeypatch, where: str, field: str
) -> None:
    """Neither a file inside the run, nor one named without its folder."""
    path = saved(tmp_path / "run" / "checkpoints")
    file = tmp_path / where / "evil.py"
    file.write_text(CODE.format(str(tmp_path / "boom")))
    monkeypatch.chdir(tmp_path)
    reseal(path, **{field: "evil.py:Evil" if where == "." else f"{file}:Evil"})
    refused(path, "evil.py")
    assert not (tmp_path / "boom").exists()


HOSTILE = [None, True, -1, 1e400, 2**70, "\ud800", "x" * 10**5, [], [[]], {}, {"a": None}]


def _paths(value: object, at: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else ()
    return [at, *(path for key, item in items for path in _paths(item, (*at, key)))]


def test_no_value_of_any_field_is_a_traceback(tmp_path: Path) -> None:
    """Every field of a sealed header, replaced by every kind of wrong value in turn."""
    path = saved(tmp_path)
    good = json.loads((path / "checkpoint.json").read_text())
    for at in _paths(good)[1:]:
        for bad in HOSTILE:
            body = json.loads(json.dumps(good))
            holder = body
            for key in at[:-1]:
                holder = holder[key]
            holder[at[-1]] = bad
            body.pop("self_sha256", None)
            reseal_whole(path, body)
            refusal = ""
            try:
                checkpoints.restore(checkpoints.load(path))
            except UserError as error:
                refusal = str(error)
            assert "\n" not in refusal, (at, bad)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path)
    for name in ("weights.safetensors", "checkpoint.json"):
        good = (path / name).read_bytes()
        for position in range(0, len(good), max(1, len(good) // 40)):
            bad = bytearray(good)
            bad[position] ^= 0x10
            (path / name).write_bytes(bytes(bad))
            refused(path, name)
        (path / name).write_bytes(good)
    checkpoints.load(path)


@pytest.mark.parametrize("name", ["weights.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("size", [0, 4, 100])
def test_truncated(tmp_path: Path, name: str, size: int) -> None:
    path = saved(tmp_path)
    (path / name).write_bytes((path / name).read_bytes()[:size])
    refused(path, name)


def test_missing_file(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (path / "weights.safetensors").unlink()
    refused(path, "weights.safetensors", "missing")


class Bomb:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (self.target,))


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = saved(tmp_path)
    evil = pickle.dumps(Bomb(str(tmp_path / "boom")))
    (path / "weights.safetensors").write_bytes(evil)
    reseal(path, sha256={"weights.safetensors": hashlib.sha256(evil).hexdigest()})
    refused(path, "weights.safetensors")
    (path / "checkpoint.json").write_bytes(evil)
    refused(path, "checkpoint.json")
    assert not (tmp_path / "boom").exists()


def test_a_header_of_ten_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = (10 * 2**30).to_bytes(8, "little") + b"{" * 64
    (path / "weights.safetensors").write_bytes(data)
    reseal(path, sha256={"weights.safetensors": hashlib.sha256(data).hexdigest()})
    refused(path, "truncated")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"sha256": {"../../etc/passwd": "0"}}, "no other file"),
        ({"sha256": {"weights.safetensors": "0" * 64, "../x": "0"}}, "no other file"),
        ({"sha256": None}, "no other file"),
        ({"format": 99}, "99"),
        ({"algorithm": "maml-trop"}, "maml-trpo"),
        ({"learner_config": {"inner_lrr": 1.0}}, "inner_lr"),
        ({"learner_config": {"inner_lr": -1.0}}, "inner_lr"),
        ({"spec": {"observation_size": 4}}, "spec"),
        ({"spec": {"observation_size": 0, "action_size": 2, "horizon": 1}}, "spec"),
        ({"spec": {"observation_size": 9, "action_size": 2, "horizon": 1}}, "do not fit"),
        ({"spec": []}, "checkpoint.json"),
        ({"step": "seven"}, "checkpoint.json"),
    ],
)
def test_forged_headers_are_refused(tmp_path: Path, changes: dict, word: str) -> None:
    path = saved(tmp_path)
    reseal(path, **changes)
    refused(path, word)


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write checkpoint") as caught:
        saved(tmp_path / "file" / "checkpoints")
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_last_one_and_no_litter(tmp_path: Path, monkeypatch) -> None:
    good = saved(tmp_path, 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        saved(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [good]
    checkpoints.load(good)


def save_for_ever(folder: Path) -> None:
    learner = MamlTrpo(Spec(4, 2, 20), MamlTrpoConfig(hidden=(256, 256)))
    for step in range(10**6):
        if step == 1:
            print("ready", flush=True)
        checkpoints.save(folder, learner, family="point-goal", step=step % 5, meta={})
        checkpoints.prune(folder, keep=3)


def test_kill_at_any_moment_leaves_a_readable_checkpoint(tmp_path: Path) -> None:
    for delay in (0.03, 0.05, 0.08):
        with forked(lambda: save_for_ever(tmp_path)) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        newest = checkpoints.newest(tmp_path)
        assert checkpoints.load(newest).tensors["theta"].isfinite().all()
    saved(tmp_path, 100)
    assert not list(tmp_path.glob(".*"))


def test_a_setting_that_a_checkpoint_does_not_name_is_as_it_was_then(tmp_path: Path) -> None:
    """Agents of before the last transition was shown go on without it, and may be resumed."""
    from metarl.algorithms import Rl2Config
    from metarl.run import refuse_changes
    from metarl.runs.config import TrainConfig

    agent = checkpoints.load(ROOT / "experiments/agents/half-cheetah-vel-rl2")
    assert "last_transition" not in agent.learner_config
    assert Rl2Config().last_transition
    config = checkpoints.learner_config(agent)
    assert not config.last_transition
    assert checkpoints.restore(agent).begin(1, 1).last is None
    refuse_changes(agent, TrainConfig.from_json(agent.meta["train"], agent.path), config)
    with pytest.raises(UserError, match="last_transition cannot change"):
        refuse_changes(agent, TrainConfig.from_json(agent.meta["train"], ""), Rl2Config(shards=2))

"""Skills as tasks: the discriminator by a plain loop, what it pays, and files that are refused."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from helpers.refusals import refused
from helpers.short_checks import checked_in_short

from metarl import TaskDistribution, TaskWorlds, UserError, find_family
from metarl.base.keys import Key
from metarl.base.plugins import reference, short_name
from metarl.check.suite import CHECKS
from metarl.tasks.composition import compose
from metarl.tasks.registry import family_class
from metarl.tasks.variations.skills import LOWEST, Skills


def some_skills(size: int = 4, columns: tuple[int, ...] = (1, 0, 3), count: int = 5) -> Skills:
    draws = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    widths = (len(columns), 6, 7, count)
    layers = tuple((normal(i, o), normal(o)) for i, o in itertools.pairwise(widths))
    return Skills(columns, size, normal(len(columns)), normal(len(columns)).abs() + 0.1, layers,
                  "point-goal")  # fmt: skip


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "some.safetensors"
    some_skills().save(path)
    return str(path)


def by_hand(skills: Skills, obs: list[float]) -> list[float]:
    """log q of each skill for one observation, number by number."""
    x = [
        max(-10.0, min(10.0, (obs[c] - float(m)) / float(s)))
        for c, m, s in zip(skills.columns, skills.mean, skills.std, strict=True)
    ]
    for k, (weight, bias) in enumerate(skills.layers):
        x = [max(0.0, v) for v in x] if k else x
        x = [
            float(bias[j]) + sum(v * float(weight[i, j]) for i, v in enumerate(x))
            for j in range(len(bias))
        ]
    total = math.log(sum(math.exp(v) for v in x))
    return [max(LOWEST, v - total) for v in x]


def test_the_discriminator_by_a_plain_loop() -> None:
    skills, obs = some_skills(), torch.randn(9, 4)
    found = skills.log_q(obs)
    for i in range(9):
        assert found[i].tolist() == pytest.approx(by_hand(skills, obs[i].tolist()), abs=1e-9)
    assert (found.exp().sum(1) - 1).abs().max() < 1e-5


def test_a_row_has_the_same_bits_whatever_the_others_are() -> None:
    skills = dataclasses.replace(some_skills(), mean=torch.zeros(3, dtype=torch.float64))
    obs = torch.randn(300, 4, dtype=torch.float64)
    every = skills.log_q(obs)
    for rows in (slice(7, 8), slice(0, 2), slice(3, 40), slice(100, 300)):
        assert torch.equal(skills.log_q(obs[rows]), every[rows])


def test_skills_survive_their_file(file: str) -> None:
    one, two = some_skills(), Skills.load(file)
    assert (two.columns, two.size, two.family, two.count) == ((1, 0, 3), 4, "point-goal", 5)
    obs = torch.randn(3, 4)
    assert torch.equal(one.log_q(obs), two.log_q(obs))


def test_the_reward_is_how_surely_the_skill_is_recognised(file: str) -> None:
    """log q(z | s') + log K, of where the step led; 0 is chance."""
    worlds = TaskWorlds(f"point-goal+skills={file}", 5, 1)
    tasks = TaskDistribution(worlds.family).split("heldout", 5)
    assert tasks.column("skill").tolist() == [0, 1, 2, 3, 4]
    worlds.set_tasks(tasks, 1)
    worlds.reset()
    for _ in range(3):
        got = worlds.step(torch.rand(5, 2))
        sim = worlds.simulator
        state = torch.cat((sim.qpos, sim.qvel), 1)
        for z in range(5):
            expected = by_hand(some_skills(), state[z].tolist())[z] + math.log(5)
            assert float(got.reward[z]) == pytest.approx(expected, abs=1e-9)


def test_goals_give_way_and_the_model_still_varies(tmp_path) -> None:
    path = tmp_path / "cheetah.safetensors"
    some_skills(17, (8, 9), 3).save(path)
    family = find_family(f"half-cheetah-dir+skills={path}")
    assert [param.name for param in family.params] == ["skill"]
    assert family.name == "half-cheetah-dir+skills"
    assert family.describe({"skill": 2.0}) == ["skill 2"]
    family = find_family(f"half-cheetah-vel+skills={path}+dynamics")
    assert [p.name for p in family.params] == ["mass", "friction", "damping", "strength", "skill"]
    noisy = find_family(f"half-cheetah-vel+push+noise+skills={path}")
    assert {p.name for p in noisy.params} == {"noise", "push_speed", "push_interval", "skill"}


def test_what_is_recognised_is_what_the_robot_does_and_not_what_its_sensors_say(file: str) -> None:
    worlds = TaskWorlds(f"point-goal+sensor-bias+skills={file}", 2, 1)
    distribution = TaskDistribution(worlds.family)
    far = {f"sensor_bias[{i}]": 0.1 for i in range(4)}
    rewards = []
    for task in (distribution.make(skill=3.0), distribution.make(skill=3.0, **far)):
        worlds.set_tasks(task, 2)
        worlds.seed(Key(0))
        worlds.reset()
        rewards.append(worlds.step(torch.ones(2, 2)).reward)
    assert torch.equal(*rewards)


def test_the_whole_name_says_which_file_it_is_and_that_it_has_not_changed(file: str) -> None:
    """So a run that went on with other skills would be refused, in one line."""
    name = f"point-goal+skills={file}"
    family = find_family(name)
    whole = reference(family)
    assert whole.startswith(f"{name}#")
    assert family_class(whole) is type(family)
    changed = dataclasses.replace(some_skills(), family="other")
    changed.save(file)
    with pytest.raises(UserError, match=r"has changed: it holds other skills \(#\w+\) than"):
        family_class(whole)
    assert family_class(name) is not type(family)


@pytest.mark.parametrize(
    ("whole", "short"),
    [
        ("point-goal+skills=/a/b.safetensors#12ab+told", "point-goal+skills+told"),
        ("/a+b=c/d.py:Mine+skills=/e/f.safetensors#1", "d.py:Mine+skills"),
        ("gymnasium:ALE/Pong-v5", "gymnasium:ALE/Pong-v5"),
        ("ant-vel+dynamics", "ant-vel+dynamics"),
    ],
)
def test_a_short_name_has_no_place_of_this_machine(whole: str, short: str) -> None:
    assert short_name(whole) == short


def test_the_order_of_variations_makes_no_difference(file: str) -> None:
    base = family_class("point-goal")
    one, two = (
        compose(base, names)
        for names in (["latency", f"skills={file}"], [f"skills={file}", "latency"])
    )
    assert one is two
    assert one.name == "point-goal+latency+skills"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_family_of_skills_is_sound(check, file: str, monkeypatch) -> None:
    checked_in_short(find_family(f"point-goal+skills={file}"), check, monkeypatch)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("point-goal+skills", "+skills needs a file, as in +skills=FILE"),
        ("point-goal+skills=", "+skills needs a file"),
        ("point-goal+skills=none.safetensors", "none.safetensors' is missing"),
        ("point-goal+skill=x", "no variation 'skill' (did you mean 'skills'?)"),
        ("point-goal+latency=3", "'+latency' takes no argument, such as 'latency=3'"),
        ("ant-vel+skills=FILE", "told from 4 observed numbers (point-goal), and it observes 27"),
        ("point-goal+skills=FILE+skills=FILE", "a variation is named twice"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name: str, words: str, file: str) -> None:
    with refused(words):
        find_family(name.replace("FILE", file))


def test_files_that_cannot_be_are_refused_in_one_line(tmp_path) -> None:
    good, path = some_skills(), tmp_path / "bad.safetensors"
    bad = [
        dataclasses.replace(good, columns=(0, 1, 4)),
        dataclasses.replace(good, std=torch.zeros(3, dtype=torch.float64)),
        dataclasses.replace(good, mean=torch.full((3,), math.nan, dtype=torch.float64)),
        dataclasses.replace(good, mean=torch.zeros(2, dtype=torch.float64)),
        dataclasses.replace(good, layers=good.layers[1:]),
    ]
    for skills in bad:
        skills.save(path)
        with pytest.raises(UserError, match="is not a file of skills that can be read"):
            Skills.load(path)
    good.save(path)
    data = path.read_bytes()
    for wrong in (b"", b"no", data[:100], data[:-8], np.random.default_rng(0).bytes(200)):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match="is not a file of skills"):
            Skills.load(path)
    with pytest.raises(UserError):
        Skills.load(tmp_path)
    (tmp_path / "a+b").mkdir()
    good.save(tmp_path / "a+b" / "x.safetensors")
    with pytest.raises(UserError, match="cannot be part of a name"):
        compose(family_class("point-goal"), [f"skills={tmp_path}/a+b/x.safetensors"])

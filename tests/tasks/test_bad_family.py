"""A family that cannot be: one line that names it, the parameter or method, and what is allowed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from metarl import cli
from metarl.tasks.registry import find_family

FILE = '''
from metarl import Choices, Interval, Param, TaskFamily, assign, scale, when
import torch

MJCF = """
<mujoco>
  <option timestep="{timestep}"/>
  <worldbody>
    <body name="cart">
      <joint name="slide" type="slide" axis="1 0 0"/>
      <geom name="box" size=".1" mass="1"/>
    </body>
  </worldbody>
  <actuator><motor joint="{joint}" ctrlrange="-1 1"/></actuator>
</mujoco>
"""

class Robot(TaskFamily):
    model = MJCF
    horizon = 20
    params = ({param},)

    def observe(self, sim, task):
        return {observe}

    def reward(self, sim, before, action, task):
        return {reward}

    {more}
'''
SOUND = {
    "timestep": "0.01",
    "joint": "slide",
    "param": 'Param("mass", Interval(0.5, 2.0), edit=scale("body_mass", "cart"))',
    "observe": "torch.cat((sim.qpos, sim.qvel), dim=1)",
    "reward": "-sim.qpos[:, 0].abs()",
    "more": "pass",
}
FLAGS = "--iterations 1 --tasks-per-iteration 2 --rollouts-per-task 2 --evaluate-tasks 2"


def train(tmp_path, capsys, changes: dict[str, str], variation: str = "") -> tuple[int, str]:
    """The exit code, and what was said, of a short training on a family with some changes."""
    (tmp_path / "robot.py").write_text(FILE.format(**{**SOUND, **changes}))
    name = f"{tmp_path}/robot.py:Robot{variation}"
    out = ["--threads", "1", "--out", str(tmp_path / "run")]
    code = cli.main(["train", name, "maml-trpo", *FLAGS.split(), *out])
    return code, capsys.readouterr().err


def test_the_sound_one_trains(tmp_path, capsys) -> None:
    assert train(tmp_path, capsys, {}) == (0, "")


def param(text: str) -> dict[str, str]:
    return {"param": text}


RANGES = 'Param("mass", {}, ood=({},), edit=scale("body_mass"))'
BAD = {
    "name of a parameter": (
        {"param": "Param(5, Interval(0.5, 2.0))"}, "parameter name '5' must be snake_case",
    ),
    "when with no number": (
        {"param": 'Param("w", Choices((0, 1)), edit=when(1, scale("body_mass"), float("nan")))'},
        "give finite numbers, and between them scale(…), shift(…) or assign(…)",
    ),
    "when without an edit": (
        {"param": 'Param("w", Choices((0, 1)), edit=when(1, "body_mass", 0.0))'},
        "when(1, 'body_mass', 0.0): give finite numbers",
    ),
    "negative damping": (
        {"param": 'Param("drag", Interval(-2.0, -1.0), edit=assign("dof_damping", "slide"))'},
        "parameter 'drag': dof_damping would be -",
    ),
    "range that ends below its start": (
        {"param": 'Param("limit", Interval(-2.0, -1.5), edit=assign("actuator_ctrlrange", '
                  '"slide", index=1))'},
        "in one of the tasks, and must not end below its start",
    ),
    "observation that grows": (
        {"observe": "sim.qpos.expand(-1, 1 + int(sim.time.max() > 0.15))"},
        "observe() returned shape (4, 2), expected (4, 1), with at least one number",
    ),
    "observation without numbers": (
        {"observe": "sim.qpos[:, :0]"}, "expected (4, O), with at least one number",
    ),
    "endless episode": (
        {"more": "horizon = 10**12"}, "horizon must be at most 1000000, not 1000000000000",
    ),
    "horizon that is a bool": (
        {"more": "horizon = True"}, "horizon must be a positive integer, not True",
    ),
    "reward that stops a generator": (
        {"reward": "(_ for _ in ()).throw(GeneratorExit)"}, "reward() failed: GeneratorExit",
    ),
    # ranges
    "overlap": (
        param(RANGES.format("Interval(0.5, 2.0)", "Interval(1.5, 3.0)")),
        "robot.py, line 21, in 'Robot': parameter 'mass': ood range [1.5, 3] overlaps "
        "train range [0.5, 2]: it must lie outside",
    ),
    "overlap of choices": (
        param(RANGES.format("Choices((0.5, 2.0))", "Interval(1.5, 3.0)")),
        "in 'Robot': parameter 'mass': ood range [1.5, 3] overlaps train range {0.5, 2}",
    ),
    "ends swapped": (
        param('Param("mass", Interval(2.0, 0.5))'),
        "line 21, in 'Robot': Interval(2.0, 0.5): low must be below high, both finite",
    ),
    "nan": (param('Param("m", Interval(float("nan"), 1.0))'), "Interval(nan, 1.0): low must be"),
    "no range": (param('Param("mass", 3)'), "'mass': train must be an Interval or Choices, not 3"),
    "no Param": (param("Interval(0, 1)"), "'robot': params must be a tuple of Param"),
    "no tuple": (
        {"more": 'params = Param("a", Interval(0, 1))'},
        "'robot': params must be a tuple of Param, such as (Param(…),), not Param(name='a'",
    ),
    # edits
    "body": (
        param('Param("mass", Interval(0.5, 2.0), edit=scale("body_mass", "kart"))'),
        "family 'robot', parameter 'mass': the model has no body 'kart' (did you mean 'cart'?); "
        "it has world, cart",
    ),
    "joint": (
        param('Param("drag", Interval(0.5, 2.0), edit=scale("dof_damping", "slid"))'),
        "family 'robot', parameter 'drag': the model has no joint 'slid' (did you mean 'slide'?)",
    ),
    "field": (
        param('Param("mass", Interval(0.5, 2.0), edit=scale("body_masss"))'),
        "'mass': 'body_masss' is not a model field that a task can change (did you mean "
        "'body_mass'?)",
    ),
    "index": (
        param('Param("g", Interval(-9, -3), edit=assign("opt.gravity", index=3))'),
        "parameter 'g': 'opt.gravity' has 3 components, so no index 3",
    ),
    "no edit": (
        param('Param("mass", Interval(0.5, 2.0), edit="body_mass")'),
        "in 'Robot': parameter 'mass': edit must be scale(…), shift(…), assign(…), when(…) or a "
        "tuple of them, not 'body_mass'",
    ),
    "negative": (
        param('Param("mass", Interval(-3.0, -2.0), edit=scale("body_mass"))'),
        "family 'robot', parameter 'mass': body_mass would be -2.",
    ),
    # methods
    "observe: one axis": (
        {"observe": "sim.qpos[:, 0]"},
        "'robot': observe() returned shape (4,), expected (4, O)",
    ),
    "observe: another B": (
        {"observe": "sim.qpos[:1].repeat(7, 1)"},
        "'robot': observe() returned shape (7, 1), expected (4, O)",
    ),
    "observe: numpy": (
        {"observe": "sim.qpos.numpy()"},
        "'robot': observe() returned ndarray, expected a tensor of 4 rows",
    ),
    "observe: nothing": ({"observe": "None"}, "observe() returned NoneType, expected a tensor"),
    "observe: nan": (
        {"observe": "sim.qpos / 0"},
        "'robot': observe() is not finite at the start of an episode of task mass=1: guard",
    ),
    "reward: two axes": ({"reward": "sim.qpos"}, "reward() returned shape (4, 1), expected (4,)"),
    "reward: number": ({"reward": "0.0"}, "'robot': reward() returned float, expected a tensor"),
    "reward: nan": (
        {"reward": 'sim.qpos[:, 0] * float("nan")'},
        "'robot': reward() is not finite in any world, such as that of task mass=",
    ),
    "reward: misspelt": (
        {"reward": 'task["mas"]'},
        "'robot' has no parameter 'mas' (did you mean 'mass'?); it has mass",
    ),
    "reward: raises": (
        {"reward": "1 / 0"},
        "'robot': reward() failed: ZeroDivisionError: division by zero (line 27 of robot.py)",
    ),
    "reward: arguments": (
        {"more": "def reward(self, sim, action, task): return sim.qpos[:, 0]"},
        "family 'robot': reward must take (self, sim, before, action, task), not "
        "(self, sim, action, task)",
    ),
    "reward: field": (
        {"reward": 'sim.bind("site_xposs")[:, 0, 0]'},
        "'robot': reward() failed: the simulator has no field 'site_xposs' (did you mean",
    ),
    "file: name": ({"more": "x = y"}, "robot.py, line 2"),
    "terminated: a number": (
        {"more": "def terminated(self, sim): return sim.qpos[:, 0]"},
        "'robot': terminated() returned torch.float64, expected torch.bool",
    ),
    "terminated: 0 or 1": (
        {"more": "def terminated(self, sim): return (sim.qpos[:, 0] > 1).int()"},
        "'robot': terminated() returned torch.int32, expected torch.bool",
    ),
    "terminated: two axes": (
        {"more": "def terminated(self, sim): return sim.qpos > 1"},
        "'robot': terminated() returned shape (4, 1), expected (4,)",
    ),
    "initial_state: raises": (
        {"more": "def initial_state(self, sim, ids, rng): sim.qpos[ids] = rng.uniform(0, 1, 3)"},
        "'robot': initial_state() failed: RuntimeError: shape mismatch",
    ),
    # the model
    "MJCF: element": (
        {"more": 'model = MJCF.replace("geom", "geoom")'},
        "'robot': its MJCF does not compile: XML Error: Schema violation: unrecognized element",
    ),
    "MJCF: cut short": ({"more": "model = MJCF[:80]"}, "'robot': its MJCF does not compile"),
    "MJCF: joint": ({"joint": "slid"}, "'robot': its MJCF does not compile"),
    "MJCF: nowhere": ({"more": 'model = "robbot.xml"'}, "'robot': its MJCF does not compile: "
                      "there is no model file robbot.xml"),
    "build: raises": (
        {"more": "def build(self, spec): raise ValueError"},
        "'robot': build() failed: ValueError (line 29 of robot.py)",
    ),
    "build: no such file": (
        {"more": "def build(self, spec): return open('legs.json')"},
        "'robot': build() failed: FileNotFoundError: [Errno 2] No such file or directory: "
        "'legs.json' (line 29 of robot.py)",
    ),
    "build: no such joint": (
        {"more": "def build(self, spec):\n        spec.add_actuator(name='m', target='jiont')\n"
                 "        return super().build(spec)"},
        "'robot': its MJCF does not compile: ",
    ),
    "timestep nan": ({"timestep": "nan"}, "'robot': the model's opt.timestep is not finite"),
    "timestep zero": ({"timestep": "0"}, "opt.timestep must be positive, in seconds, not 0"),
    "timestep below zero": ({"timestep": "-0.01"}, "must be positive, in seconds, not -0.01"),
    "gravity nan": (
        {"more": 'model = MJCF.replace(\'step="0.01"\', \'step="0.01" gravity="0 0 nan"\')'},
        "'robot': the model's opt.gravity is not finite",
    ),
    # what no tensor of rewards is, and what else user code raises
    "reward: sparse": ({"reward": "sim.qpos[:, 0].to_sparse()"}, "dense, real and on the CPU"),
    "reward: meta": (
        {"reward": 'sim.qpos[:, 0].to("meta")'}, "reward() returned a tensor of torch.float64",
    ),
    "reward: complex": ({"reward": "sim.qpos[:, 0] * 1j"}, "torch.complex128"),
    "reward: exit": ({"reward": "exit(3)"}, "reward() failed: SystemExit: 3"),
    "observe: assert": (
        {"more": "def observe(self, sim, task):\n        assert len(task) == 5, 'five'"},
        "observe() failed: AssertionError: five (line 30 of robot.py)",
    ),
    "assert without words": (
        {"more": "def initial_state(self, sim, ids, rng):\n        assert not len(ids)"},
        "initial_state() failed: AssertionError (line 30 of robot.py)",
    ),
    "build: exit": (
        {"more": "def build(self, spec):\n        raise SystemExit('no')"},
        "family 'robot': making it failed: SystemExit: no",
    ),
    "file: exit": ({"more": "exit('no')"}, "SystemExit: no"),
    "edit: range": (
        {"param": 'Param("mass", Interval(0.5, 2.0), edit=scale("body_mass", "cart", 0.5))'},
        "scale('body_mass', …): 0.5 is no name of an object",
    ),
    "edit: index": (
        {"param": 'Param("mass", Interval(0.5, 2.0), edit=scale("body_mass", index="x"))'},
        "scale('body_mass'): index must be an int",
    ),
    "mass: zero": (
        {"param": 'Param("mass", Interval(-1.0, 1.0), edit=assign("body_mass", "cart"))'},
        "MuJoCo refuses an edit of body_mass",
    ),
    # numbers
    "frame_skip": ({"more": "frame_skip = 0"}, "frame_skip must be a positive integer, not 0"),
    "horizon": ({"more": "horizon = 1.5"}, "'robot': horizon must be a positive integer, not 1.5"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_it_is_refused_in_one_line(what, tmp_path, capsys) -> None:
    changes, words = BAD[what]
    code, said = train(tmp_path, capsys, changes)
    assert code == 2
    assert words in said
    assert said.startswith("metarl: error: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said


VARIED = {
    "no dictionary": ("variations = None", "+rain", "variations must be a dictionary of names"),
    "no actuation": (
        'model = MJCF.replace("<worldbody>", '
        '\'<option><flag actuation="disable"/></option><worldbody>\', 1)',
        "+latency", "the physics ignores actuator_delay: a flag of the model's options disables",
    ),
    "no Variation": ('variations = {"rain": 3}', "+rain", "variation 'rain' must be a Variation"),
    "name": (
        'from metarl import Variation\n    variations = {"Rain": Variation(())}', "+Rain",
        "'Rain' cannot name a variation: use kebab-case",
    ),
    "taken": (
        'from metarl import Variation\n    variations = {"latency": Variation(())}', "+latency",
        "'latency' cannot name a variation: use kebab-case, and not latency or sensor-bias",
    ),
    "unknown": ("pass", "+latncy", "no variation 'latncy' (did you mean 'latency'?); it takes"),
    "scale: size": (
        "observation_scale = (1.0, 2.0, 3.0)", "+sensor-bias",
        "observation_scale has 3 numbers, and the observation 2",
    ),
    "scale: nan": (
        'observation_scale = float("nan")', "+sensor-bias", "must be positive numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", VARIED)
def test_a_variation_is_refused_in_one_line(what, tmp_path, capsys) -> None:
    more, variation, words = VARIED[what]
    code, said = train(tmp_path, capsys, {"more": more}, variation)
    assert code == 2
    assert words in said
    assert said.count("\n") == 1


def test_a_family_imports_modules_beside_its_file(plugin, monkeypatch) -> None:
    """From any working folder, and the search path is as it was."""
    source = Path(plugin.rpartition(":")[0])
    (source.parent / "gains_beside_a_family.py").write_text("GAIN = 3.0\n")
    text = source.read_text().replace("import torch", "from gains_beside_a_family import GAIN")
    source.write_text(text + "\n    gain = GAIN\n")
    before = list(sys.path)
    family = find_family(plugin)
    monkeypatch.delitem(sys.modules, "gains_beside_a_family")
    assert family.gain == 3.0
    assert sys.path == before


def test_a_search_path_that_has_the_folder_keeps_its_order(plugin, monkeypatch) -> None:
    folder = str(Path(plugin.rpartition(":")[0]).parent)
    monkeypatch.setattr(sys, "path", [folder, *sys.path])
    before = list(sys.path)
    find_family(plugin)
    assert sys.path == before


@pytest.mark.parametrize("method", ["reward", "observe", "terminated", "initial_state", "__init__"])
def test_what_is_no_exception_but_a_base_exception_is_one_line(method, tmp_path, capsys) -> None:
    more = f"class Stop(BaseException): pass\n    def {method}(self, *rest): raise self.Stop('now')"
    code, error = train(tmp_path, capsys, {"more": more})
    assert code == 2
    assert error.count("\n") == 1
    assert "failed: Stop: now (line" in error
    assert cli.main(["check", f"{tmp_path}/robot.py:Robot"]) == 1
    assert "Stop: now (line" in capsys.readouterr().out


@pytest.mark.parametrize("stop", ["KeyboardInterrupt", "IterationAborted('')"])
def test_what_stops_a_process_passes_a_family(stop: str) -> None:
    from metarl.base.errors import user_code
    from metarl.runs.signals import IterationAborted

    error = eval(stop, {"IterationAborted": IterationAborted})
    kind = error if isinstance(error, type) else IterationAborted
    with pytest.raises(kind), user_code("family 'x': reward()", object):
        raise error

"""An attribute of another type is refused in a line that names it and says what it has to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.refusals import refused
from helpers.robots import ARM, DOG, robot

from metarl import TaskWorlds, cli, contact, pd

NOISE = "must be a number of at least 0"
KEEP = 'keep must be a tuple of names of fields, such as ("subtree_com",), not '
FILE = """from helpers.robots import ARM, Robot
class Keeps(Robot):
    model = ARM
    keep = {}
"""


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"keep": (3,)}, f"{KEEP}(3,)"),
        ({"keep": 5}, f"{KEEP}5"),
        ({"keep": ("subtree_com")}, f"{KEEP}'subtree_com'"),
        ({"contacts": [contact("*")]}, 'contacts must be a dictionary by name, such as {"feet": '
                                       'contact("*_foot")}, not [Contact('),
        ({"contacts": {3: contact("*")}}, "contacts must be a dictionary by name"),
        ({"contacts": {"feet": contact(5)}}, "what contact(…) takes for 'feet' must be a name or "
                                             "a pattern, or several in a tuple, not 5"),
        ({"contacts": {"feet": contact("*", (5,))}}, "several in a tuple, not (5,)"),
        ({"home": 5}, "home must be the name of a keyframe, or a dictionary of joints, such as "
                      '{"*_knee": -1.8}, not 5'),
        ({"home": {5: 1.0}}, "home must be the name of a keyframe"),
        ({"home": [("elbow", 1.0)]}, "home must be the name of a keyframe"),
        ({"model": 5}, "model must be MJCF as a string, a path to an MJCF file, or an MjSpec, "
                       "not 5"),
        ({"model": None}, "model must be MJCF as a string"),
        ({"model": DOG, "actuators": pd(20, 1, joints=5)}, "joints of pd(…) must be a name or a "
                                                           "pattern, or several in a tuple, not 5"),
        ({"model": DOG, "actuators": (pd(20, 1), pd(20, 1, joints=("a", 5)))}, "not ('a', 5)"),
        ({"reset_noise": "a"}, f"reset_noise {NOISE}, not 'a'"),
        ({"reset_noise": -1}, f"reset_noise {NOISE}, not -1"),
        ({"reset_noise": None}, f"reset_noise {NOISE}, not None"),
        ({"reset_noise": True}, f"reset_noise {NOISE}, not True"),
        ({"reset_speed_noise": "q"}, f"reset_speed_noise {NOISE}, or None, not 'q'"),
        ({"reset_base_noise": float("nan")}, f"reset_base_noise {NOISE}, not nan"),
        ({"reset_base_noise": np.ones(2)}, f"reset_base_noise {NOISE}, not array("),
        ({"name": 5}, "name must be text in kebab-case, not 5"),
        ({"observation_scale": "x"}, "observation_scale must be positive numbers: one, or a"),
        ({"observation_scale": ((1.0,), (1.0, 2.0))}, "not ((1.0,), (1.0, 2.0))"),
        ({"observation_scale": None}, "one for each of the observation, not None"),
        ({"floor": "yes"}, "floor must be True or False, not 'yes'"),
    ],
)  # fmt: skip
def test_an_attribute_of_another_type_is_refused(members, words: str) -> None:
    with refused(f"family '{members.get('name', 'robot')}': ", words):
        robot(ARM, **members)()


def test_what_is_as_good_as_the_type_is_taken() -> None:
    """Numbers of numpy, a list of names, and None where it says so."""
    members = {"reset_noise": np.float32(0.1), "keep": ["subtree_com"], "reset_speed_noise": None}
    family = robot(ARM, floor=np.True_, reset_base_noise=0, **members)()
    assert TaskWorlds(family, 1, 1).simulator.snapshot(family.keep).kept["subtree_com"].numel()
    assert robot(ARM, keep={"subtree_com"})().keep == {"subtree_com"}


@pytest.mark.parametrize("keep", ["(3,)", "5", '"subtree_com"'])
def test_a_check_says_what_keep_has_to_be(keep, tmp_path: Path, capsys) -> None:
    (tmp_path / "robot.py").write_text(FILE.format(keep))
    assert cli.main(["check", f"{tmp_path}/robot.py:Keeps"]) == 1
    said = capsys.readouterr().out
    assert "keep must be a tuple of names of fields, such as" in said
    assert "metarl's own" not in said

"""What several robots share: gymnasium's model files, and parameters that vary any body's physics.

The functions give tuples of parameters, so a family takes them as they are and a product of goals
and dynamics adds them to any other family of the same robot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from metarl import Choices, Interval, Param, assign, scale, shift, when


def gymnasium_model(file: str) -> Path:
    """Return the path of an MJCF file that gymnasium ships."""
    package = find_spec("gymnasium")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("gymnasium is not installed")
    return Path(package.origin).parent / "envs" / "mujoco" / "assets" / file


def dynamics(torso: str, payload: float) -> tuple[Param, ...]:
    """Return seven parameters of a robot's dynamics, each nominal at 1, the payload at 0.

    Args:
        torso: the body that carries the payload.
        payload: its greatest mass in training, in kg; half as much again in ood.
    """
    return (
        Param("mass", Interval(0.5, 2.0, log=True), ood=(Interval(2.0, 3.0),),
              edit=(scale("body_mass"), scale("body_inertia")),
              doc="scale of every link's mass and inertia"),
        Param("inertia", Interval(0.5, 2.0, log=True), ood=(Interval(2.0, 3.0),),
              edit=scale("body_inertia"), doc="scale of every link's inertia at the same mass"),
        Param("friction", Interval(0.4, 2.0, log=True), ood=(Interval(0.2, 0.4),),
              edit=scale("geom_friction"), doc="scale of all friction coefficients"),
        Param("damping", Interval(0.5, 2.0, log=True), ood=(Interval(2.0, 3.0),),
              edit=scale("dof_damping"), doc="scale of all joint damping"),
        Param("strength", Interval(0.5, 1.25), ood=(Interval(0.3, 0.5),),
              edit=scale("actuator_gear"), doc="scale of all motor torques"),
        Param("gravity", Interval(0.7, 1.3), ood=(Interval(0.4, 0.7), Interval(1.3, 1.6)),
              edit=scale("opt.gravity"), doc="scale of gravity, 9.81 m/s²"),
        Param("payload", Interval(0.0, payload), ood=(Interval(payload, 1.5 * payload),),
              edit=shift("body_mass", torso), unit="kg", doc=f"mass added to the {torso}"),
    )  # fmt: skip


def random_params(joints: Sequence[str], *, literature: bool = False) -> tuple[Param, ...]:
    """Return the parameters of the random-parameter families: each element scaled by its own draw.

    Mass, inertia and friction by 1.5^U(−3, 3), damping by 1.3^U(−3, 3). By default one number
    scales a body's mass and inertia, so every body is one that some matter could have; friction
    has a number a geom and damping one a joint. The literature draws a number for the mass and
    each principal moment of inertia of a body, each friction coefficient of a geom, and each
    degree of freedom. Some of those move nothing, such as the two moments of inertia about axes
    in the plane of a planar robot.

    Args:
        joints: those that have damping.
        literature: whether to draw as the literature does.
    """
    wide, wider = Interval(1.5**-3, 1.5**3, log=True), (Interval(1.5**3, 1.5**4, log=True),)
    slippery = (Interval(1.5**-4, 1.5**-3, log=True),)
    damping = Interval(1.3**-3, 1.3**3, log=True)
    viscous = (Interval(1.3**3, 1.3**4, log=True),)
    if not literature:
        return (
            Param("mass", wide, wider, (scale("body_mass"), scale("body_inertia")), "model",
                  doc="scale of a link's mass and inertia"),
            Param("friction", wide, slippery, scale("geom_friction"), "model",
                  doc="scale of a geom's friction coefficients"),
            Param("damping", damping, viscous, scale("dof_damping", *joints), "model",
                  doc="scale of a joint's damping"),
        )  # fmt: skip
    return (
        Param("mass", wide, wider, scale("body_mass"), "model", doc="scale of a link's mass"),
        Param("inertia", wide, wider, scale("body_inertia", each=True), "model",
              doc="scale of a principal moment of inertia of a link"),
        Param("friction", wide, slippery, scale("geom_friction", each=True), "model",
              doc="scale of a friction coefficient of a geom"),
        Param("damping", damping, viscous, scale("dof_damping"), "model",
              doc="scale of the damping of a degree of freedom"),
    )  # fmt: skip


def faults(
    name: str, groups: Sequence[Mapping[str, float]], doc: str, *, unseen: Sequence[int] = ()
) -> tuple[Param, ...]:
    """Return one discrete parameter: 0 sound, k group k is dead, len(groups) + k it is locked.

    The motors of a dead group give no torque, and its joints swing freely. Those of a locked one
    give none either, and limits with no range between them hold its joints at an angle.

    Args:
        name: of the parameter.
        groups: what fails together: each joint, which has one motor, and the angle at which it
            locks, in rad.
        doc: one line for the tables.
        unseen: the groups, counted from 1, that fail in the ood split alone.
    """
    cases, seen, outside = [], [0.0], []
    for k, joints in enumerate(groups, start=1):
        locked = k + len(groups)
        cases += [when(case, scale("actuator_gear", *joints), 0.0) for case in (k, locked)]
        cases += [when(locked, assign("jnt_range", j), angle) for j, angle in joints.items()]
        (outside if k in unseen else seen).extend((float(k), float(locked)))
    values = Choices(tuple(sorted(seen)), ood=tuple(sorted(outside)))
    return (Param(name, values, edit=tuple(cases), nominal=0.0, doc=doc),)

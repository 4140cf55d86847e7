"""`metarl play`: MuJoCo's viewer, in which a trained agent acts and its task can be changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, cast

import tyro

from metarl.base.errors import UserError
from metarl.commands.arguments import Said, check_counts, parse
from metarl.commands.evaluating.on_run import parse_task
from metarl.commands.viewing.render import check_display, no_thread_left
from metarl.runs.progress import say
from metarl.simulation.warp.choice import SimulatorName

if TYPE_CHECKING:
    from metarl.video.play import Player
    from metarl.worlds.task_worlds import TaskWorlds


@dataclass(frozen=True)
class Play(Said):
    """Let a trained agent act in MuJoCo's viewer, with sliders for the parameters of its task.

    It acts in real time, episode after episode, and keeps its memory. The sliders are under
    "Control" on the right. M empties the memory, N draws another task, and B breaks or mends
    something, where a parameter of the family is a fault, such as a dead leg.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, a checkpoint folder, or the name of an agent (`metarl agents`)."""
    set: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")
    ] = ()
    """One of the first task's parameters; those not set are nominal. Without any: of a split."""
    split: Literal["heldout", "ood", "train"] = "heldout"
    """Where the first task comes from, if none is set."""
    speed: float = 1.0
    """1 is real time."""
    rollouts_per_task: int | None = None
    """Worlds, of which one is shown; default: one, or as in training if the learner pools them."""
    seed: int = 0
    """Of initial states, exploration and the tasks that N draws."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the learner computes, and the simulator warp."""
    simulator: SimulatorName | None = None
    """What computes the physics: mujoco or warp; the default is what the run was trained on."""
    threads: int | None = None
    """CPU threads; the default is every core."""

    def __post_init__(self) -> None:
        """Check the numbers. Raises UserError."""
        check_counts(self, rollouts_per_task=1, seed=0, threads=1)
        if not 0.01 <= self.speed <= 1000:
            raise UserError(f"speed must be from 0.01 to 1000, not {self.speed:g}")
        if self.set and self.split != "heldout":
            raise UserError("--set names the task: leave out --split")


def play(argv: Sequence[str]) -> int:
    """Open the viewer."""
    args = parse(Play, argv, prog="metarl play")
    player = make_player(args)  # what is wrong with what was named comes first
    check_display("metarl play", "try metarl render for a video")
    with no_thread_left():
        open_window(player)
    return 0


def open_window(player: Player) -> None:
    """Play in MuJoCo's viewer until it is closed. Raises UserError if it cannot open."""
    import mujoco.viewer

    from metarl.video.scene import find_root

    try:
        viewer = mujoco.viewer.launch_passive(
            player.model, player.data, key_callback=player.press, show_left_ui=False
        )
    except Exception as error:  # macOS without mjpython
        raise UserError(f"metarl play: MuJoCo's viewer cannot open: {error}") from None
    with viewer:
        viewer.cam.type = int(mujoco.mjtCamera.mjCAMERA_TRACKING)
        viewer.cam.trackbodyid = find_root(player.model).body
        viewer.cam.azimuth, viewer.cam.elevation = 90.0, -15.0
        viewer.cam.distance *= 1.5
        player.play(viewer)


def make_player(args: Play) -> Player:
    """Load the agent, and give it worlds and a first task."""
    from metarl.run import load_run, physics_for, worlds_for, worlds_per_task
    from metarl.tasks.distribution import TaskDistribution
    from metarl.video.play import Player

    checkpoint, family, learner = load_run(args.run, args.device, args.threads, **args.said())
    if not family.has_model:
        raise UserError(
            f"metarl play: '{family.name}' is no MuJoCo model of ours; try metarl render"
        )
    task = (
        parse_task(family, args.set) if args.set else TaskDistribution(family).split(args.split, 1)
    )
    wanted = args.rollouts_per_task
    if wanted is None and not learner.adapts_per_task:
        wanted = 1
    physics = physics_for(checkpoint, args.simulator, args.device)
    count = worlds_per_task(checkpoint, wanted, 1)
    worlds = worlds_for(family, learner, count, args.threads, physics)
    return Player(learner, cast("TaskWorlds", worlds), task, args.seed, args.speed, say)


__all__ = ["play"]

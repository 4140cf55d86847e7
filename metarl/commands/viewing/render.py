"""`metarl render`: a video of an adaptation, or MuJoCo's viewer playing it."""

from __future__ import annotations

import os
import platform
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import tyro

from metarl.base.errors import UserError
from metarl.base.files import check_writable
from metarl.base.text import shown
from metarl.commands.arguments import parse
from metarl.commands.evaluating.on_run import OnRun, parse_task
from metarl.commands.viewing.output import default_out, draw
from metarl.runs.progress import bar, say

if TYPE_CHECKING:
    from metarl.learning.learner import Learner
    from metarl.tasks.distribution import Tasks
    from metarl.tasks.family import TaskFamily
    from metarl.tasks.gymnasium_family import GymnasiumFamily
    from metarl.video.recording import Recording

MOST_TASKS = 16
"""Beyond this the pictures of a grid are too small, or the video too large for a decoder."""


@dataclass(frozen=True)
class Render(OnRun):
    """Show a trained policy adapt: the same task before, during and after, side by side.

    With --against, several policies on the same task from the same state, in step.
    """

    episodes: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Adaptation rounds K; the default is 3, and 0 with --against: the first episode on the task.
    With --against all K + 1 episodes are shown, one after the other."""
    against: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN")] = ()
    """One to three other runs to show beside it, such as one of ppo on the family, which is blind
    to the task, and one of ppo on the family with +told, the oracle."""
    labels: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD")] = ()
    """What to call RUN and each run of --against in the video."""

    set: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")
    ] = ()
    """One of the task's parameters; those not set are nominal. Without any: tasks of a split."""
    split: Literal["heldout", "ood", "train"] = "heldout"
    """Where the tasks come from, if none is set: the first ones that `metarl evaluate` takes."""
    tasks: int = 1
    """How many tasks of the split, in a grid."""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE.mp4|FILE.gif")] = None
    """The video; the default is an mp4 in RUN/videos, or, for an agent that is no run folder, in
    the working folder."""
    size: int = 480
    """Height of a task's pictures in pixels, such as 480 or 720; several tasks get smaller ones."""
    fps: int = 20
    """Frames in a second."""
    speed: float | None = None
    """1 is real time; the default slows episodes of less than 5 s down."""
    seconds: float | None = None
    """Show no more than so many of an episode."""
    live: bool = False
    """Play it in MuJoCo's viewer instead, which needs a display."""

    def __post_init__(self) -> None:
        """Check the numbers. Raises UserError."""
        super().__post_init__()
        if not 1 <= self.tasks <= MOST_TASKS:
            raise UserError(
                f"tasks must be a whole number from 1 to {MOST_TASKS}, not {self.tasks}"
            )
        if self.set and self.tasks != 1:
            raise UserError("--set names one task: leave out --tasks")
        if self.set and self.split != "heldout":
            raise UserError("--set names the task: leave out --split")
        _check_against(self)
        if self.live and self.out is not None:
            raise UserError("--live writes no file: leave out --out")

    @property
    def rounds(self) -> int:
        """K."""
        return self.episodes if self.episodes is not None else 0 if self.against else 3


def _check_against(args: Render) -> None:
    """Check the settings of a split screen. Raises UserError."""
    if args.against and (args.tasks != 1 or args.live):
        raise UserError(f"--against shows one task in a file: leave out --{_refused(args)}")
    if len(args.against) > 3:
        raise UserError(f"--against takes one to three runs, not {len(args.against)}")
    if args.labels and len(args.labels) != 1 + len(args.against):
        raise UserError(
            f"--labels names RUN and each run of --against: {1 + len(args.against)} words, "
            f"not {len(args.labels)}"
        )
    if args.labels and not args.against:
        raise UserError("--labels names the runs of --against: give some")


def _refused(args: Render) -> str:
    return "live" if args.live else "tasks"


def render(argv: Sequence[str]) -> int:
    """Render a run."""
    args = parse(Render, argv, prog="metarl render")
    from metarl.run import load_run, physics_for, worlds_for, worlds_per_task
    from metarl.video import encode as video
    from metarl.video.opengl import make_context
    from metarl.video.recording import record
    from metarl.worlds.task_worlds import TaskWorlds

    config = video.VideoConfig(size=args.size, fps=args.fps, speed=args.speed, seconds=args.seconds)
    if args.out is not None:
        video.check_out(args.out)
    if args.against:
        from metarl.commands.viewing.versus import render_against

        return render_against(args, config)
    checkpoint, family, learner = load_run(args.run, args.device, args.threads, **args.said())
    split, tasks = _tasks(args, family)
    out = Path(args.out or default_out(checkpoint, split, args.set))
    if not args.live:
        check_writable(out)
    if not family.has_model:
        count = worlds_per_task(checkpoint, args.rollouts_per_task, len(tasks))
        return _render_pictures(args, learner, family, tasks, count, out)
    if args.live:
        check_display("--live", "leave out --live to write a video")
    else:
        make_context(8, 8).free()  # what is missing is better said before the work than after it
    count = worlds_per_task(checkpoint, args.rollouts_per_task, len(tasks))
    physics = physics_for(checkpoint, args.simulator, args.device)
    worlds = worlds_for(family, learner, len(tasks) * count, args.threads, physics)
    assert isinstance(worlds, TaskWorlds)
    with bar("playing") as show:
        recording = record(
            learner, worlds, tasks, episodes=args.rounds, seed=args.seed, split=split,
            progress=show,
        )  # fmt: skip
    for line in returns_of(recording):
        say(line)
    if args.live:
        with no_thread_left():
            play_live(recording, config.speed or 1.0)
        return 0
    from metarl.video.film import Film

    draw(Film(recording, config), out, args.threads)
    return 0


def _tasks(args: Render, family: TaskFamily) -> tuple[str, Tasks]:
    """Return what the tasks are called, and the tasks. Raises UserError for one that is none."""
    from metarl.tasks.distribution import TaskDistribution

    if args.set:
        return "the task", parse_task(family, args.set)
    return args.split, TaskDistribution(family).split(args.split, args.tasks)


def _render_pictures(
    args: Render, learner: Learner, family: TaskFamily, tasks: Tasks, count: int, out: Path
) -> int:
    """Render a third-party environment, which draws itself."""
    from metarl.video import encode as video
    from metarl.video.gymnasium import PictureFilm

    if args.live:
        raise UserError(f"--live: '{family.name}' is no MuJoCo model of ours: leave it out")
    with bar("playing") as show:
        film = PictureFilm(
            learner, cast("GymnasiumFamily", family), tasks,
            video.VideoConfig(size=args.size, fps=args.fps), worlds_per_task=count,
            episodes=args.rounds, seed=args.seed, progress=show,
        )  # fmt: skip
    for m, row in enumerate(film.returns):
        print(f"{tasks.label(m)}: return " + " → ".join(shown(value, 1) for value in row))
    video.write(cast("video.Film", film), out, threads=1)
    print(f"wrote {out}: {film.width} × {film.height}, {film.frames} frames, one a step")
    return 0


def returns_of(recording: Recording) -> Iterator[str]:
    """Yield a line for each task: its parameters, and the return of each round."""
    from metarl.video.film import described

    for m, row in enumerate(recording.report.returns):
        words = ", ".join(described(recording.family, recording.task(m))[:6])
        yield f"{words or recording.family.name}: return " + " → ".join(shown(r, 1) for r in row)


# --- the viewer --------------------------------------------------------------------------------


def check_display(what: str, instead: str) -> None:
    """Raise UserError, in one line, where there is no display to open a window on.

    MuJoCo's viewer would end the process there. Elsewhere than on Linux windows belong to the main
    thread, which `mjpython` keeps for the viewer, so only the viewer itself can tell.

    Args:
        what: needs it.
        instead: what to do without one.
    """
    if platform.system() != "Linux":
        return
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError(
            f"{what} needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set: {instead}"
        )
    import glfw

    with warnings.catch_warnings(record=True) as said:  # the wrapper warns of errors
        warnings.simplefilter("always")
        glfw.init()
        glfw.window_hint(glfw.VISIBLE, glfw.FALSE)
        window = glfw.create_window(8, 8, "", None, None)
        glfw.terminate()
    if not window:
        reason = str(said[0].message).partition("b'")[2].rstrip("'") if said else "none was made"
        raise UserError(
            f"{what}: no window for OpenGL can be opened ({reason}); it needs libgl1 and "
            f"libgl1-mesa-dri (Fedora: mesa-dri-drivers); {instead}"
        )


@contextmanager
def no_thread_left() -> Iterator[None]:
    """Wait for the threads that a window's code began, which crash if the process ends first."""
    before = set(threading.enumerate())
    try:
        yield
    finally:
        for thread in set(threading.enumerate()) - before:
            thread.join(timeout=10.0)


def play_live(recording: Recording, speed: float) -> None:
    """Play the first task in MuJoCo's viewer, before and after in turns, until it is closed."""
    import mujoco
    import mujoco.viewer

    from metarl.video.film import described, experience
    from metarl.video.renderer import brighten, extend_ground
    from metarl.video.scene import find_root

    model, family = recording.models[0], recording.family
    brighten(model)
    extend_ground(model)
    data, seen = mujoco.MjData(model), recording.report.experience
    task = ", ".join(described(family, recording.task(0))[:6]) or family.name
    task = task.replace("\N{MINUS SIGN}", "-")  # which the viewer's font lacks
    try:
        viewer = mujoco.viewer.launch_passive(model, data, show_left_ui=False, show_right_ui=False)
    except Exception as error:  # macOS without mjpython
        raise UserError(f"--live: MuJoCo's viewer cannot open: {error}") from None
    with viewer:
        viewer.cam.type = int(mujoco.mjtCamera.mjCAMERA_TRACKING)
        viewer.cam.trackbodyid = find_root(model).body
        while viewer.is_running():
            for k in dict.fromkeys((0, len(seen) - 1)):
                episode = recording.episodes["score", k][0]
                say(f"round {k}: return {episode.running[-1]:.1f}")
                due = time.monotonic()
                for qpos, total in zip(episode.qpos, episode.running, strict=True):
                    if not viewer.is_running():
                        return
                    data.qpos[:] = qpos
                    mujoco.mj_forward(model, data)
                    words = f"{task}\n{experience(seen[k])}\nreturn {total:.1f}"
                    viewer.set_texts((None, None, words, None))
                    viewer.sync()
                    due += family.dt / speed
                    time.sleep(max(0.0, due - time.monotonic()))

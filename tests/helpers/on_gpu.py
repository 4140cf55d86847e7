"""Training on a GPU, or on its stand-in where there is none; test_gpu.py runs these tests."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from envs.point import PointGoal
from metarl import TaskDistribution, TaskWorlds, find_learner
from metarl.base.keys import Key
from metarl.cli import main
from metarl.learning import checkpoint as checkpoints
from metarl.learning.learner import Learner
from metarl.modules.cuda_graph import GraphedStep
from metarl.run import resume_run, start_run, train_config
from metarl.runs.config import TrainConfig
from metarl.tasks.sampler import task_sampler

if not torch.cuda.is_available():  # before the first backward, where torch counts devices
    from helpers.fake_cuda import stand_in_gpu

TRAIN = TrainConfig(
    tasks_per_iteration=2, rollouts_per_task=2, iterations=2, evaluate_every=2, evaluate_tasks=1,
    evaluate_episodes=1, checkpoint_every=1, threads=1, progress=False,
)  # fmt: skip
PEARL = {
    "train_tasks": 2, "hidden": (16, 16), "encoder_hidden": (12,), "meta_batch": 2,
    "batch_size": 16, "context_size": 8, "gradient_steps": 5, "initial_episodes": 2,
    "replay_capacity": 300, "automatic_temperature": True,
}  # fmt: skip
RL2 = {"units": 8, "hidden": 8, "heads": 2, "layers": 1, "minibatches": 2, "epochs": 1}
LEARNERS = {
    "maml-trpo": ("maml-trpo", {"hidden": (8,), "cg_iterations": 3}),
    "rl2-gru": ("rl2", RL2),
    "rl2-lstm": ("rl2", {**RL2, "memory": "lstm"}),
    "rl2-mingru": ("rl2", {**RL2, "memory": "mingru"}),
    "rl2-transformer": ("rl2", {**RL2, "memory": "transformer"}),
    "rl2-snail": ("rl2", {**RL2, "memory": "snail"}),
    "amago": (
        "amago",
        {"units": 8, "hidden": (8,), "gradient_steps": 2, "batch_trials": 4, "loss_steps": 4},
    ),
    "varibad": (
        "varibad",
        {"units": 8, "hidden": (8,), "vae_trials": 4, "epochs": 1, "batch_size": 20},
    ),
    "prototypes": (
        "prototypes",
        {"units": 8, "hidden": (8,), "encoder_trials": 4, "epochs": 1, "batch_size": 20},
    ),
    "pearl": ("pearl", PEARL),
    "pearl-replay-on-the-host": ("pearl", {**PEARL, "replay_device": "cpu"}),
}
ONLY_CUDA = {"rl2-lstm"}
"""Whose kernels the stand-in has not."""


@pytest.fixture(autouse=True)
def _short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps show as much, and the stand-in is slow."""
    monkeypatch.setattr(PointGoal, "horizon", 3)


@contextmanager
def a_gpu() -> Iterator[str]:
    """Give the name of a GPU; `--device cuda` means this one."""
    if torch.cuda.is_available():
        yield "cuda"
        return
    with pytest.MonkeyPatch.context() as patch, stand_in_gpu(patch) as name:
        yield name


@pytest.fixture
def gpu() -> Iterator[str]:
    """A GPU that is there for all of a test."""
    with a_gpu() as name:
        yield name


def run(name: str, out: Path, device: str, **changes) -> Path:
    algorithm, settings = LEARNERS[name]
    config = find_learner(algorithm).Config(**settings)
    return start_run(
        "point-goal", algorithm, replace(TRAIN, out=str(out), device=device, **changes), config
    )


def go_on(name: str, begun: Path, device: str) -> Path:
    """Go on, on another device, with a copy of a run after its first iteration."""
    run = shutil.copytree(begun, begun.with_name(f"{begun.name} and {device}"))
    shutil.rmtree(checkpoints.newest(run))
    algorithm, settings = LEARNERS[name]
    checkpoint = checkpoints.load(checkpoints.newest(run))
    assert checkpoint.step == 1
    train = replace(train_config(checkpoint), device=device)
    return resume_run(checkpoint, train, find_learner(algorithm).Config(**settings))


def weights(run: Path) -> dict[str, torch.Tensor]:
    tensors = checkpoints.load(checkpoints.newest(run)).tensors
    return {k: t for k, t in tensors.items() if not k.startswith(("replay", "context"))}


def assert_close(one: Path, other: Path) -> None:
    expected = weights(other)
    assert len(expected) > 0
    for key, value in weights(one).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_gpu_learns_what_a_cpu_learns(name: str, tmp_path: Path) -> None:
    """And what was begun on one goes on on the other."""
    if name in ONLY_CUDA and not torch.cuda.is_available():
        pytest.skip("needs a real GPU")
    on_cpu = run(name, tmp_path / "cpu", "cpu")
    with a_gpu():
        on_gpu = run(name, tmp_path / "cuda", "cuda")
        assert_close(on_gpu, on_cpu)
        assert_close(go_on(name, on_cpu, "cuda"), on_cpu)
    assert_close(go_on(name, on_gpu, "cpu"), on_cpu)


@pytest.mark.parametrize("name", ["maml-trpo", "rl2-transformer", "pearl"])
def test_agents_are_evaluated_and_adapted_on_a_gpu(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trained = run(name, tmp_path / "run", "cpu")
    scores = []
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.json"
        common = ["--device", device, "--episodes", "2"]
        with nullcontext() if device == "cpu" else a_gpu():
            words = ["--tasks", "2", "--json", str(out), *common]
            assert main(["evaluate", str(trained), *words]) == 0
            scores.append(json.loads(out.read_text())["mean"])
            assert main(["adapt", str(trained), "--set", "goal_x=0.5", *common]) == 0
    assert scores[1] == pytest.approx(scores[0], rel=1e-3, abs=1e-3)


def pearl(device: str, **changes) -> tuple[Learner, TaskWorlds]:
    cls = find_learner("pearl")
    worlds = TaskWorlds("point-goal", 4, 1)
    return cls(worlds.spec, cls.Config(**PEARL | changes), seed=0, device=device), worlds


def test_the_captured_gradient_step_is_the_one_that_is_not_captured(gpu: str) -> None:
    """Through collections and new seeds in between, and weights that are loaded."""
    made = []
    for captured in (True, False):
        learner, worlds = pearl(gpu, cuda_graph=captured)
        sampler = task_sampler(TaskDistribution(worlds.family), 2, learner.num_train_tasks)
        for iteration in range(4):
            tasks = sampler.sample(iteration, Key(4))
            learner.meta_step(worlds, tasks, Key(iteration))
            assert (learner._graph is not None) == captured
            if iteration == 1:
                learner.load_state_dict({k: v.clone() for k, v in learner.state_dict().items()})
        made.append({k: v.cpu() for k, v in learner.state_dict().items()})
    for name, value in made[1].items():
        torch.testing.assert_close(made[0][name], value, rtol=0, atol=0)


def test_capturing_changes_nothing(gpu: str) -> None:
    learner, _ = pearl(gpu)
    for part in learner._replay():
        part.size.fill_(part.capacity)
    before = {k: v.cpu().clone() for k, v in learner.state_dict().items()}
    drawn = learner._noise.get_state()
    assert learner._captured() is not None
    for name, value in learner.state_dict().items():
        torch.testing.assert_close(value.cpu(), before[name], rtol=0, atol=0)
    assert torch.equal(learner._noise.get_state(), drawn)


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x * x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.cpu(),
        lambda x: x + torch.ones(3).to(x.device),
    ],
    ids=["item", "mask", "to-host", "from-host"],
)
def test_a_step_that_waits_cannot_be_captured(step, gpu: str) -> None:
    x = torch.ones(3, device=gpu)
    with pytest.raises(RuntimeError):
        GraphedStep(lambda: step(x), [x], [])
    if gpu == "cuda":
        torch.cuda.synchronize()


def test_devices_do_not_mix(gpu: str) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3, device=gpu) + torch.ones(3)
    with pytest.raises(TypeError, match="numpy"):
        torch.ones(3, device=gpu).numpy()


def test_the_plain_reference_runs_on_a_gpu_too(gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import pearl_update

    learner, _ = pearl(gpu, automatic_temperature=False, lr=3e-3)
    for part in learner._replay():
        part.data.normal_(generator=torch.Generator(gpu).manual_seed(0))
        part.size.fill_(part.capacity)
    plain = pearl_update.EagerPearl(learner, per_task=True)
    for k in range(5):
        draws, noise = (torch.Generator(gpu).manual_seed(10 * k + n) for n in (0, 1))
        batch = plain.sample_batch(draws, noise)
        learner.gradient_step(batch)
        plain.update(batch)
    for name, expected in plain.weights().items():
        mine = learner.state_dict()[name if name == "target" else f"{name}.params"]
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)

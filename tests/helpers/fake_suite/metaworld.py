"""A suite with the interface of Meta-World's benchmarks: a point in a plane, and hidden goals."""

import os
import pickle
import signal
from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Box


class Task(NamedTuple):
    env_name: str
    data: bytes


class Reach:
    max_path_length = 6
    dt = 0.05
    observation_space = Box(-5.0, 5.0, (3,), np.float64)
    action_space = Box(-1.0, 1.0, (2,), np.float32)
    scale = 0.5

    def __init__(self, render_mode=None):
        self.goal = None

    def set_task(self, task):
        data = pickle.loads(task.data)
        assert isinstance(self, data["env_cls"])
        self.goal = data["rand_vec"]

    def reset(self, *, seed=None, options=None):
        self.at, self.steps = np.random.uniform(-0.1, 0.1, 2), 0
        return np.append(self.at, 0.0), {}

    def step(self, action):
        self.steps += 1
        if os.environ.get("FAKE_SUITE_PIDS"):
            with open(os.environ["FAKE_SUITE_PIDS"], "a") as file:
                file.write(f"{os.getpid()}\n")
                count = file.tell() // len(f"{os.getpid()}\n")
            if count == int(os.environ.get("FAKE_SUITE_DIES", 0)):
                os.kill(os.getpid(), signal.SIGKILL)
        self.at = self.at + self.scale * np.asarray(action, np.float64)
        far = float(np.linalg.norm(self.at - self.goal))
        done = self.steps == self.max_path_length
        return np.append(self.at, 0.0), -far, False, done, {"success": float(far < 0.3)}

    @property
    def unwrapped(self):
        return self

    def close(self):
        pass


class Push(Reach):
    scale = -0.5


class Pull(Reach):
    scale = 0.25


ALL_V3_ENVIRONMENTS = {"reach-v3": Reach, "push-v3": Push, "pull-v3": Pull}


def tasks(names, seed):
    rng = np.random.default_rng(seed)
    return [
        Task(name, pickle.dumps({"rand_vec": rng.uniform(-1, 1, 2), "partially_observable": True,
                                 "env_cls": ALL_V3_ENVIRONMENTS[name]}))
        for name in names for _ in range(4)
    ]  # fmt: skip


class ML1:
    ENV_NAMES = list(ALL_V3_ENVIRONMENTS)

    def __init__(self, name, seed=None):
        self.train_classes = self.test_classes = {name: ALL_V3_ENVIRONMENTS[name]}
        self.train_tasks, self.test_tasks = tasks([name], seed), tasks([name], seed + 1)


class ML10:
    def __init__(self, seed=None):
        self.train_tasks = tasks(["reach-v3", "push-v3"], seed)
        self.test_tasks = tasks(["pull-v3"], seed)

# type: ignore  # it must parse under Python 3.8, and has no types to check
"""Runs environments of another interpreter, and answers over its standard input and output.

This file is run by an interpreter of somebody else's: Python 3.8 or newer, with numpy, gymnasium
and the suite, and without metarl. It imports nothing of ours.

A message is ``b"MRL1"``, two big-endian uint32 (bytes of the header, bytes of the arrays), the
header in JSON, and the arrays one after the other, C-contiguous. In the header, ``{"@": i}`` stands
for array i, whose type and shape are ``header["arrays"][i]``; a tuple crosses as a list. A request
has ``op``, and the answer has ``error``, one line, if it failed. No pickle crosses.

    hello     protocol, suite        -> protocol, versions, names
    describe  name, seed             -> spaces, horizon, dt, and of a benchmark its tasks
    make      name, render_mode      -> env, a number
    task      env, task              -> sets the task of the next episodes
    reset     env, seed, options     -> obs, info
    step      env, action            -> obs, reward, terminated, truncated, info
    call      env, method, args      -> value;   set  env, values
    render    env                    -> value;   close  env
"""

import json
import os
import random
import signal
import struct
import sys

PROTOCOL = 1
MAGIC = b"MRL1"
HEAD = struct.Struct(">4sII")
MOST_SAID = 1 << 20
"""Bytes that environments may print before the file of what they print is emptied."""


def packed(message: dict) -> bytes:
    """Return a message as bytes."""
    arrays = []

    def plain(value):
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if hasattr(value, "dtype") and value.dtype.kind in "biufSU":
            if getattr(value, "ndim", 0) == 0:
                return value.item()
            arrays.append(value)
            return {"@": len(arrays) - 1}
        raise TypeError("a %s cannot cross to another interpreter" % type(value).__name__)

    header = plain(message)
    header["arrays"] = [[a.dtype.str, list(a.shape)] for a in arrays]
    text, body = json.dumps(header).encode(), b"".join(a.tobytes() for a in arrays)
    return HEAD.pack(MAGIC, len(text), len(body)) + text + body


def unpacked(text: bytes, body: bytes) -> dict:
    """Return the message of a header and its arrays."""
    import numpy as np

    header, arrays, at = json.loads(text.decode()), [], 0
    for kind, shape in header.pop("arrays"):
        dtype = np.dtype(kind)
        count = int(np.prod(shape, dtype=np.int64))
        part = np.frombuffer(body, dtype, count, at).reshape(shape)
        arrays.append(part.copy())
        at += part.nbytes

    def whole(value):
        if isinstance(value, dict):
            if set(value) == {"@"}:
                return arrays[value["@"]]
            return {k: whole(v) for k, v in value.items()}
        return [whole(v) for v in value] if isinstance(value, list) else value

    return whole(header)


def space_json(space) -> dict:
    """Return a gymnasium space as a message has it."""
    kind = type(space).__name__
    if kind == "Box":
        return {"kind": kind, "low": space.low, "high": space.high, "dtype": space.dtype.str}
    if kind == "Discrete":
        return {"kind": kind, "n": int(space.n), "start": int(getattr(space, "start", 0))}
    if kind == "MultiDiscrete":
        return {"kind": kind, "nvec": space.nvec}
    if kind == "MultiBinary":
        return {"kind": kind, "n": [int(n) for n in space.shape]}
    if kind == "Dict":
        return {"kind": kind, "spaces": {k: space_json(s) for k, s in space.spaces.items()}}
    if kind == "Tuple":
        return {"kind": kind, "spaces": [space_json(s) for s in space.spaces]}
    raise TypeError("spaces of type %s cannot cross to another interpreter" % kind)


def layout(env, horizon) -> dict:
    """Return what a family must know of an environment."""
    return dict(
        observation=space_json(env.observation_space), action=space_json(env.action_space),
        horizon=horizon, dt=float(getattr(env.unwrapped, "dt", 1.0)),
    )  # fmt: skip


def numbers(info):
    """Return what of an info is numbers, words or arrays of numbers."""
    plain = (bool, int, float, str)
    kinds = {key: getattr(getattr(value, "dtype", None), "kind", "") for key, value in info.items()}
    return {k: v for k, v in info.items() if isinstance(v, plain) or kinds[k] in tuple("biuf")}


NUMBERS = ("idx", "index", "task_idx", "task_index", "task_id")
"""Parameters that cross as a number, as in ``reset_task(7)``."""


def owner(env, name):
    """Return the outermost wrapper that has an attribute of its own, or the environment."""
    while env is not None:
        if name in vars(env) or hasattr(type(env), name):
            return env
        env = getattr(env, "env", None)
    return None


def found(env, name):
    """Return the same, which must be there."""
    inner = owner(env, name)
    if inner is None:
        raise AttributeError("the environment has no attribute '%s'" % name)
    return inner


class Gymnasium:
    """Whatever ``gymnasium.make`` makes."""

    package, needs = "gymnasium", "gymnasium"

    def __init__(self):
        import gymnasium

        self.gym = gymnasium

    def names(self):
        return []

    def describe(self, name, seed):
        env = self.make(name, None)
        found = layout(env, env.spec.max_episode_steps if env.spec is not None else None)
        env.close()
        return found

    def make(self, name, render_mode):
        return self.gym.make(name, render_mode=render_mode) if render_mode else self.gym.make(name)

    def task(self, env, task):
        carl = owner(env, "context_selector")
        if carl is not None:  # which would not look at another context of the same number
            carl.contexts = {0: dict(carl.get_default_context(), **task)}
            carl.context_selector.contexts = carl.contexts
            carl.context_id = 0
            return
        for name in ("set_task", "reset_task"):
            if owner(env, name) is not None:
                number = len(task) == 1 and next(iter(task)) in NUMBERS
                getattr(owner(env, name), name)(next(iter(task.values())) if number else task)
                return
        raise TypeError("it has no set_task(task) or reset_task(task), and is no CARL environment")


class MetaWorld:
    """The meta-learning benchmarks of Meta-World: ML1-NAME, ML10, ML25, ML45."""

    package, needs = "metaworld", "metaworld packaging"

    def __init__(self):
        import metaworld

        self.mw = metaworld
        found = sorted(
            n for n in dir(metaworld) if n.startswith("ALL_V") and n.endswith("_ENVIRONMENTS")
        )
        self.classes = dict(getattr(metaworld, found[-1])) if found else {}
        self.spare = {}

    def names(self):
        many = [n for n in ("ML10", "ML25", "ML45") if hasattr(self.mw, n)]
        return many + ["ML1-" + n for n in getattr(self.mw.ML1, "ENV_NAMES", sorted(self.classes))]

    def describe(self, name, seed):
        one = name.startswith("ML1-")
        bench = self.mw.ML1(name[4:], seed=seed) if one else getattr(self.mw, name)(seed=seed)
        sides = {"train": bench.train_tasks, "test": bench.test_tasks}
        tasks = {side: {} for side in sides}
        for side, every in sides.items():
            for task in every:
                tasks[side].setdefault(task.env_name, []).append(self._vector(task))
        name, vectors = next(iter(tasks["train"].items()))
        env = self._env(name)
        self._put(env, {"env": name, "vector": vectors[0]})
        found = dict(layout(env, int(env.max_path_length)), tasks=tasks)
        env.close()
        return found

    def make(self, name, render_mode):
        return Switching(self, render_mode)

    def task(self, env, task):
        env.switch(task)

    def _env(self, name, render_mode=None):
        return self.classes[name](render_mode=render_mode) if render_mode else self.classes[name]()

    @staticmethod
    def _vector(task):
        import pickle  # of this interpreter's own making

        data = pickle.loads(task.data)
        more = set(data) - {"rand_vec", "env_cls", "partially_observable"}
        if more or not data["partially_observable"]:
            raise TypeError("tasks of %s have %s, which is not known here" % (task.env_name, more))
        return [float(x) for x in data["rand_vec"]]

    def _put(self, env, task):
        import pickle

        import numpy as np

        data = dict(rand_vec=np.array(task["vector"]), partially_observable=True)
        data["env_cls"] = self.classes[task["env"]]
        env.set_task(self.mw.Task(env_name=task["env"], data=pickle.dumps(data)))


class Switching:
    """One world of a benchmark: an environment of the class that its task needs.

    Those that are not in use are kept for other worlds of this process.
    """

    def __init__(self, suite, render_mode):
        self.suite, self.mode, self.name, self.env = suite, render_mode, None, None

    def switch(self, task):
        name = task["env"]
        if name != self.name:
            self.close()
            spare = self.suite.spare.get((name, self.mode))
            self.env = spare.pop() if spare else self.suite._env(name, self.mode)
            self.name = name
        self.suite._put(self.env, task)

    def close(self):
        if self.env is not None:
            self.suite.spare.setdefault((self.name, self.mode), []).append(self.env)
        self.env = self.name = None

    def __getattr__(self, name):
        return getattr(self.__dict__["env"], name)


SUITES = {"gymnasium": Gymnasium, "metaworld": MetaWorld}


class Server:
    """Carries out requests, one after the other."""

    def __init__(self):
        self.suite, self.envs, self.next = None, {}, 0

    def hello(self, protocol, suite):
        if sys.version_info < (3, 8):
            raise TypeError("Python %d.%d is older than 3.8" % sys.version_info[:2])
        kind = SUITES[suite]
        try:
            self.suite = kind()
        except ImportError as error:
            raise ImportError(
                "%s cannot be imported there (%s): %s -m pip install %s"
                % (kind.package, error, sys.executable, kind.needs)
            )
        return {
            "protocol": PROTOCOL,
            "versions": versions(kind.package),
            "names": self.suite.names(),
        }

    def describe(self, name, seed):
        return self.suite.describe(name, seed)

    def make(self, name, render_mode):
        self.next += 1
        self.envs[self.next] = self.suite.make(name, render_mode)
        return {"env": self.next}

    def task(self, env, task):
        self.suite.task(self.envs[env], task)
        return {}

    def reset(self, env, seed, options):
        import numpy as np

        if seed is not None:  # older environments draw from these
            np.random.seed(seed % 2**32)
            random.seed(seed)
        more = {"options": options} if options is not None else {}
        obs, info = self.envs[env].reset(seed=seed, **more)
        return {"obs": obs, "info": numbers(info)}

    def step(self, env, action):
        obs, reward, terminated, truncated, info = self.envs[env].step(action)
        return {
            "obs": obs,
            "reward": float(reward),
            "terminated": bool(terminated),
            "truncated": bool(truncated),
            "info": numbers(info),
        }

    def call(self, env, method, args):
        return {"value": getattr(found(self.envs[env], method), method)(*args)}

    def set(self, env, values):
        for name, value in values.items():
            setattr(found(self.envs[env], name), name, value)
        return {}

    def render(self, env):
        return {"value": self.envs[env].render()}

    def close(self, env):
        gone = self.envs.pop(env, None)
        if gone is not None:
            gone.close()
        return {}


def versions(package):
    """Return name -> version of what results may depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": "%d.%d.%d" % sys.version_info[:3]}
    for name in dict.fromkeys((package, "gymnasium", "mujoco", "numpy")):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found


def read(file, size):
    """Return so many bytes; b'' at the end of the file."""
    parts = b""
    while len(parts) < size:
        part = file.read(size - len(parts))
        if not part:
            return b""
        parts += part
    return parts


def left_to_the_parent(number, frame):
    """Ignore a signal that the parent gets too; the end of the input ends this process."""


def main():
    """Answer until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, left_to_the_parent)
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what environments print is no answer
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != here]
    server = Server()
    while True:
        head = read(source, HEAD.size)
        if not head:
            break
        _, text, body = HEAD.unpack(head)
        try:
            request = unpacked(read(source, text), read(source, body))
            answer = packed(getattr(server, request.pop("op"))(**request))
        except BaseException as error:
            words = " ".join(str(error).split())
            known = isinstance(error, ImportError) and "pip install" in words
            line = words if known else ("%s: %s" % (type(error).__name__, words)).rstrip(": ")
            answer = packed({"error": line[:500]})
        sink.write(answer)
        sink.flush()
        if os.fstat(2).st_size > MOST_SAID:
            os.ftruncate(2, 0)
    os._exit(0)


if __name__ == "__main__":
    main()

"""Learner: the one interface of every meta-RL algorithm.

What adaptation changes is an explicit state that goes in and comes out. It is the whole
difference between the algorithms at test time, so one evaluation, one adapted-policy file and one
video renderer serve all of them.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from metarl.base.distributed import ALONE, Ranks
from metarl.base.errors import UserError, check_kinds
from metarl.base.plugins import check_methods
from metarl.base.threads import check_defaults
from metarl.worlds.policy import Policy
from metarl.worlds.vector import Spec

if TYPE_CHECKING:
    from metarl.base.keys import Key
    from metarl.learning.adapted_policy import AdaptedPolicy
    from metarl.tasks.distribution import Tasks
    from metarl.tasks.family import TaskFamily
    from metarl.tasks.variations.skills import Skills
    from metarl.worlds.rollout import Rollout
    from metarl.worlds.vector import VecWorlds


METHODS = ("begin", "act", "act_and_record", "adapt", "collect", "update", "meta_step")
"""What rollouts and runs call of a learner; nothing of what critics may see is handed to `act`."""


class Learner(Policy):
    """A meta-RL algorithm: prior, policy, adaptation rule and meta-update."""

    name: ClassVar[str]
    """The name it is registered under, kebab-case."""
    Config: ClassVar[type]
    """A frozen dataclass of its settings; the docstring under each field is its help text."""
    family: str = ""
    """The name of the family that it was trained on, where `metarl.load` has read it."""
    ranks: Ranks = ALONE
    """The processes that share the tasks of an iteration; a run sets it before training."""
    discrete_actions: ClassVar[bool] = False
    """Whether it can choose among discrete actions, which `Spec.actions` counts."""
    finds_skills: ClassVar[bool] = False
    """Whether it finds skills without a reward, and has `skill_set`: for ``metarl skills``."""

    def __init__(self, spec: Spec, config: Any, *, seed: int = 0, device: str = "cpu") -> None:
        """Initialise the weights.

        Args:
            spec: sizes of observation and action, and the horizon.
            config: an instance of `Config`.
            seed: of the initial weights.
            device: where the weights and the rollouts live.

        Raises:
            UserError: the actions are discrete, and the learner's are continuous; or an argument is
                of another kind.
        """
        check_kinds(spec=(spec, Spec), config=(config, type(self).Config), seed=(seed, int))
        if spec.actions and not self.discrete_actions:
            raise UserError(
                f"{self.name} takes continuous actions, and these are discrete, with "
                f"{' × '.join(map(str, spec.actions))} choices: use rl2"
            )
        check_defaults()
        check_methods(self, Learner, METHODS, f"algorithm '{self.name}'")
        for name, value in getattr(config, "__dict__", {}).items():
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(n, int) and abs(n) >= 2**31 for n in numbers):
                raise UserError(f"{name} must be less than 2^31, not {value}")
        self.spec = spec
        self.config = config
        self.seed = seed
        try:
            self.device = torch.device(device)
        except (RuntimeError, TypeError):
            raise UserError(f"device must be cpu or cuda, not {device!r:.80}") from None

    @property
    def num_train_tasks(self) -> int | None:
        """How many frozen training tasks `meta_train` draws from; None for new tasks each time.

        A learner that remembers each task's data has a pool: its tasks come back, with `ids`.
        """
        return None

    @abstractmethod
    def begin(self, tasks: int, worlds: int) -> Any:
        """Return the state before any data, for `tasks` tasks of `worlds` worlds each."""

    @abstractmethod
    def adapt(self, state: Any, rollout: Rollout) -> Any:
        """Return the state adapted to a rollout in the same worlds; `state` stays as it is."""

    def skill_set(self) -> Skills:
        """Return the skills that it has found, as tasks. Raises UserError if it finds none."""
        raise UserError(f"{self.name} finds no skills")

    # --- the meta-update -----------------------------------------------------------------------

    def sum_tasks(self, rows: Tensor) -> Tensor:
        """Return the sum of one row a task, (m, …) to (…), over all tasks of the iteration.

        It holds the rows of other processes, too, so that many reach the same bits as one.
        """
        return self.ranks.sum_rows(rows)

    @property
    def privileged(self) -> bool:
        """Whether it shows critics or teachers, in training, what nothing that acts may see."""
        config = self.config
        own = getattr(config, "critic", "plain") == "privileged"
        return own or getattr(config, "privileged_critic", False)

    def plan(self, worlds: VecWorlds, iterations: int, env_steps: int | None) -> None:
        """Take in what the run is to be, before it begins or goes on; the default needs nothing.

        A run that goes on calls `load_state_dict` next. Raises UserError for what cannot be.

        Args:
            worlds: of one shard of an iteration.
            iterations: that the run is to have.
            env_steps: that it is to have instead, if not None.
        """

    def in_evaluation(self, tasks: Tasks) -> Policy:
        """Return what the evaluations of a training let play in some held-out tasks.

        The default is the learner. One that adapts to demonstrations returns a policy that is shown
        those of the tasks.
        """
        return self

    def collect(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> Any:
        """Return the data of one shard of an iteration, for `update`.

        A pure function of (weights, tasks, key), which sets the tasks, seeds and resets the
        worlds, and changes nothing of the learner. `tasks` may be a slice of the iteration's tasks:
        it knows its place among them (`Tasks.first`), so that the same task meets the same
        initial states and the same noise in whatever shard it is.
        """
        raise NotImplementedError(f"{type(self).__name__} must define collect() or meta_step()")

    def update(self, shards: Sequence[Any], key: Key) -> dict[str, float]:
        """Make one meta-update and return metrics.

        Args:
            shards: what `collect` returned for the shards that this process holds, in their order.
            key: of the iteration.

        Sums over tasks go through `sum_tasks`, so that those of other processes are in them.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update() or meta_step()")

    def meta_step(self, worlds: VecWorlds, tasks: Tasks, key: Key) -> dict[str, float]:
        """Collect data for M tasks and make one meta-update: a function of (weights, tasks, key).

        Args:
            worlds: a multiple of M / S worlds, of the S shards that the tasks are cut into.
            tasks: all tasks of the iteration, of which this process collects its own shards.
            key: of the iteration.

        Returns:
            Metrics, among them ``return_before`` and ``return_after`` (mean training return before
            and after adaptation, `Rollout.mean_return`) and ``diverged`` (transitions left out).
        """
        started = time.perf_counter()
        parts = self.ranks.slices(len(tasks))
        shards = [self.collect(worlds, tasks[part], key) for part in parts]
        collected = time.perf_counter()
        metrics = self.update(shards, key)
        return metrics | {
            "seconds_sampling": collected - started,
            "seconds_update": time.perf_counter() - collected,
        }

    def adapted(
        self, task: Tasks | Mapping[str, float], *, family: TaskFamily | None = None, **how: Any
    ) -> AdaptedPolicy:
        """Adapt to one task in simulation, and return what acts there; see `AdaptedPolicy`.

        Args:
            task: one task, or the values of some parameters, the others nominal.
            family: of the task; None is the one that it was trained on, of a learner that
                `metarl.load` returned.
            how: `episodes`, `num_envs`, `rollouts`, `seed`, `demonstrations`: see
                `adapted_policy.adapted`.
        """
        adapt = import_module("metarl.learning.adapted_policy").adapted  # it stands above learners
        return adapt(self, family or self.family, task, **how)

    # --- saving --------------------------------------------------------------------------------

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that a later `load_state_dict` needs to go on to the same bits."""

    @abstractmethod
    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned. Raises UserError if names or shapes differ."""

    def policy_state_dict(self) -> dict[str, Tensor]:
        """Return the part of `state_dict` that acting and adapting need, for ``metarl export``.

        The default is all of it. A learner with an optimiser, critics or a replay leaves those out.
        """
        return self.state_dict()

    def load_policy_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `policy_state_dict` returned; the rest stays as it is.

        Raises UserError if names or shapes differ.
        """
        needed = self.policy_state_dict().keys()
        if tensors.keys() != needed:
            differ = ", ".join(sorted(tensors.keys() ^ needed))
            raise UserError(f"the weights do not fit this {self.name} policy: {differ}")
        own = self.state_dict()
        refuse_misfit({name: own[name] for name in tensors}, tensors, self.name)
        # in full precision, whatever it was shipped in
        self.load_state_dict(own | {name: t.to(own[name].dtype) for name, t in tensors.items()})

    def adapted_state_dict(self, state: Any) -> dict[str, Tensor]:
        """Return the adapted policy in `state`, as ``metarl adapt --out`` saves it.

        That is `policy_state_dict`, and the state's parts by name, such as ``state.params``.
        """
        return self.policy_state_dict() | dict(state_parts(state))

    def upgrade_adapted(self, tensors: dict[str, Tensor], rounds: int) -> dict[str, Tensor]:
        """Return what `adapted_state_dict` would give now for tensors that an older version saved.

        Args:
            tensors: of an adapted policy.
            rounds: rounds of adaptation that it went through.
        """
        return tensors

    def load_adapted_state_dict(self, tensors: dict[str, Tensor]) -> Any:
        """Take over the weights that `adapted_state_dict` returned, and return the state.

        The state must be made of what `begin` returns is made of: tensors, numbers, tuples, named
        tuples, dicts and None. Raises UserError if names differ.
        """
        state = {name: t for name, t in tensors.items() if name.partition(".")[0] == "state"}
        self.load_policy_state_dict({n: t for n, t in tensors.items() if n not in state})
        template = self.begin(1, 1)
        needed = dict(state_parts(template)).keys()
        if state.keys() != needed:
            differ = ", ".join(sorted(state.keys() ^ needed))
            raise UserError(f"the state does not fit this {self.name}: {differ}")
        return rebuilt_state(template, state, "state", self.device)


def load_tensors(own: dict[str, Tensor], given: dict[str, Tensor], name: str) -> None:
    """Copy saved tensors into a learner's own, in place. Raises as `refuse_misfit` does."""
    refuse_misfit(own, given, name)
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(given[key])


def state_of(parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what `state_dict` of each part of a learner returns, as ``part.name``."""
    held = {part: holder.state_dict() for part, holder in parts.items()}
    return {f"{part}.{name}": t.detach() for part, own in held.items() for name, t in own.items()}


def load_parts(parts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Let each part of a learner take over its share of what `state_of` returned."""
    for part, holder in parts.items():
        prefix = f"{part}."
        holder.load_state_dict(
            {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        )


def split_state(
    tensors: dict[str, Tensor], groups: Sequence[str]
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Return the tensors whose names begin with no ``group.``, and those of each group."""
    rest, parts = {}, {group: {} for group in groups}
    for name, tensor in tensors.items():
        group, _, key = name.partition(".")
        parts.get(group, rest)[key if group in parts else name] = tensor
    return rest, list(parts.values())


def load_but_replay(
    own: dict[str, Tensor], parts: Mapping[str, Any], given: dict[str, Tensor], name: str
) -> dict[str, Tensor]:
    """Copy what a learner saved into its own tensors and its parts, in place.

    Args:
        own: the learner's tensors, by name.
        parts: what has a `state_dict` of its own, by name.
        given: the saved tensors, which may have those of a replay among them.
        name: of the learner, for what is wrong. Raises as `refuse_misfit` does.

    Returns:
        The tensors of the replay, still to be loaded; without a saved one there are none.
    """
    check_kinds(weights=(given, Mapping))
    weights, (replay,) = split_state(given, ("replay",))
    refuse_misfit(own | state_of(parts), weights, name)
    load_tensors(own, {key: weights[key] for key in own}, name)
    load_parts(parts, weights)
    return replay


def refuse_misfit(own: dict[str, Tensor], given: dict[str, Tensor], name: str) -> None:
    """Check saved tensors against a learner's own.

    Args:
        own: the learner's tensors, by name.
        given: the saved ones.
        name: of the learner, for the message.

    Raises:
        UserError: a name is missing or unknown, or a shape or the kind of number differs.
    """
    check_kinds(weights=(given, Mapping))
    mine, theirs = ({k: _layout(t) for k, t in d.items()} for d in (own, given))
    differ = [k for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k)]
    if differ:
        first = differ[0]
        raise UserError(
            f"the weights do not fit this {name}: {len(differ)} tensors differ, the first of them "
            f"'{first}': expected {mine.get(first)}, found {theirs.get(first)}"
        )


def _layout(tensor: Tensor) -> str:
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    return f"{tuple(tensor.shape)}" + " of whole numbers" * (not tensor.is_floating_point())


def nonfinite(tensors: Mapping[str, Tensor]) -> str:
    """Return which tensor is the first that holds NaN or infinity, and how many, or ''."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not (finite := torch.isfinite(tensor)).all():
            return f"{int((~finite).sum())} of {tensor.numel()} numbers of '{name}' are not finite"
    return ""


def state_parts(state: Any, name: str = "state") -> Iterator[tuple[str, Tensor]]:
    """Name the tensors of a nested state; a number is a tensor without dimensions."""
    if isinstance(state, Tensor):
        yield name, state.detach().clone(memory_format=torch.contiguous_format)
    elif isinstance(state, int | float):
        yield name, torch.tensor(state, dtype=torch.float64 if isinstance(state, float) else None)
    elif state is not None:
        for key, part in _items(state):
            yield from state_parts(part, f"{name}.{key}")


def rebuilt_state(
    template: Any, tensors: dict[str, Tensor], name: str, device: torch.device
) -> Any:
    """Return a state like `template`, of the tensors that `state_parts` named."""
    if isinstance(template, Tensor):
        return tensors[name].to(device, template.dtype)
    if isinstance(template, int | float):
        return type(template)(tensors[name].item())
    if template is None:
        return None
    parts = {k: rebuilt_state(t, tensors, f"{name}.{k}", device) for k, t in _items(template)}
    if isinstance(template, dict):
        return parts
    named = hasattr(template, "_fields")
    return type(template)(*parts.values()) if named else type(template)(parts.values())


def _items(state: Any) -> list[tuple[Any, Any]]:
    if isinstance(state, dict):
        return list(state.items())
    if isinstance(state, tuple | list):
        return list(zip(getattr(state, "_fields", range(len(state))), state, strict=True))
    raise UserError(
        f"a learner's state is made of tensors, numbers, tuples and dicts, not "
        f"{type(state).__name__}: override adapted_state_dict and load_adapted_state_dict"
    )

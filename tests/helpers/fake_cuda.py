"""A GPU made of the CPU, for machines without one: its tensors compute on the CPU.

It keeps to what CUDA keeps to. Tensors of both devices do not mix; numpy sees none of its memory;
and a CUDA graph is a list of operations on fixed memory: Python does not run when it is replayed,
and nothing in it may wait for the device. So what runs here has its tensors in the right places,
and a step that can be captured here keeps to the rules of capture. It says nothing of speed, nor
of CUDA's kernels.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

aten = torch.ops.aten
NESTED = (tuple, list)


class _Module(_DummyBackendModule):
    """What torch asks of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("standin", _Module())  # for all of this process
GPU = torch.device("standin", 0)
TRANSFERS = {aten.copy_.default, aten._to_copy.default}
INDEXING = {
    aten.index.Tensor, aten.index_put_.default, aten.index_put.default,
    aten._index_put_impl_.default, aten._unsafe_index_put.default,
}  # fmt: skip
WAITS = {
    aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default,
    aten.masked_select.default, aten.item.default, aten._unique2.default,
    aten.repeat_interleave.Tensor,
}  # fmt: skip
"""Operations whose result the host must know before it can go on."""


class OnGpu(Tensor):
    """A tensor that says that it lies on the GPU; its numbers are in a CPU tensor."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> OnGpu:
        return Tensor._make_wrapper_subclass(
            cls, numbers.size(), strides=numbers.stride(), storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype, device=GPU, requires_grad=False,
        )  # fmt: skip

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def __repr__(self) -> str:
        return f"OnGpu({self.numbers!r})"

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["numbers"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], *_: Any) -> OnGpu:
        return OnGpu(parts["numbers"])

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError("can't convert a tensor on the GPU to numpy")

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def gru_cell(inputs: Tensor, hidden: Tensor, h: Tensor, *bias: Tensor) -> tuple[Tensor, Tensor]:
    """What aten::_thnn_fused_gru_cell does, which is only there for GPUs."""
    (ir, iz, i), (hr, hz, hn) = (inputs + bias[0]).chunk(3, 1), (hidden + bias[1]).chunk(3, 1)
    r, z = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
    n = torch.tanh(i + r * hn)
    return torch.lerp(n, h, z), torch.cat((r, z, n, hn, h), 1)


def gru_cell_backward(by_new: Tensor, saved: Tensor, has_bias: bool) -> tuple[Tensor, ...]:
    """Its backward."""
    r, z, n, hn, h = saved.chunk(5, 1)
    by_n = by_new * (1 - z) * (1 - n * n)
    by_r, by_z = by_n * hn * r * (1 - r), by_new * (h - n) * z * (1 - z)
    inputs, hidden = torch.cat((by_r, by_z, by_n), 1), torch.cat((by_r, by_z, by_n * r), 1)
    return inputs, hidden, by_new * z, inputs.sum(0), hidden.sum(0)


def lstm_cell(inputs: Tensor, hidden: Tensor, c: Tensor, *bias: Tensor) -> tuple[Tensor, ...]:
    """What aten::_thnn_fused_lstm_cell does, without what its backward needs."""
    i, f, g, o = (inputs + hidden + sum(bias)).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c, inputs


KERNELS = {
    aten._efficientzerotensor.default: aten.zeros.default,  # one with memory
    aten._thnn_fused_gru_cell.default: gru_cell,
    aten._thnn_fused_gru_cell_backward.default: gru_cell_backward,
    aten._thnn_fused_lstm_cell.default: lstm_cell,
}
"""Operations that a CPU lacks, or does in another way."""
CAPTURING: list[Graph] = []
"""The graph that operations are being recorded into, if there is one."""


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation of which an argument, or the result, lies on the GPU."""
    flat: list[Tensor] = []
    bare = without_gpu(args, flat), {name: without_gpu(x, flat) for name, x in kwargs.items()}
    target = kwargs.get("device")
    to_gpu = any(isinstance(t, OnGpu) for t in flat) if target is None else on_gpu(target)
    if func is not aten.copy_.default or not (len(args) > 2 and args[2]):
        check(func, flat, to_gpu)  # what is copied without blocking, nobody waits for
    if target is not None and to_gpu:
        bare[1]["device"] = torch.device("cpu")
    bare[1].pop("pin_memory", None)
    kernel = KERNELS.get(func, func)
    result = kernel(*bare[0], **bare[1])
    if not to_gpu or (type(result) in NESTED and not result):
        return result
    if CAPTURING:
        CAPTURING[-1].record(func, kernel, bare, result)
    wrapped = with_gpu(result)
    if func in TRANSFERS and not isinstance(args[0], OnGpu):
        return args[0] if func is aten.copy_.default else wrapped
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if aliases(func) else wrapped


def without_gpu(value: Any, seen: list[Tensor]) -> Any:
    """Return arguments with the CPU tensors of those on the GPU; append every tensor to `seen`."""
    if isinstance(value, Tensor):
        seen.append(value)
        return value.numbers if isinstance(value, OnGpu) else value
    return type(value)(without_gpu(x, seen) for x in value) if type(value) in NESTED else value


def with_gpu(value: Any) -> Any:
    """Return results with each tensor on the GPU."""
    if isinstance(value, Tensor):
        return OnGpu(value)
    return type(value)(map(with_gpu, value)) if type(value) in NESTED else value


@functools.cache
def aliases(func: Any) -> bool:
    """Whether a result of an operation may share the memory of an argument."""
    return any(argument.alias_info is not None for argument in func._schema.arguments)


def on_gpu(device: Any) -> bool:
    return torch.device(device).type == GPU.type


def check(func: Any, tensors: list[Tensor], to_gpu: bool) -> None:
    """Refuse what CUDA refuses."""
    here = [isinstance(t, OnGpu) for t in tensors]
    mixed = any(here) and any(t.ndim and not on for t, on in zip(tensors, here, strict=True))
    if mixed and func not in TRANSFERS and not (func in INDEXING and here[0]):
        raise RuntimeError(
            f"{func}: all tensors must be on the same device, found the GPU and the CPU"
        )
    masked = func in INDEXING and any(t.dtype == torch.bool for t in tensors[1:])
    crosses = func in TRANSFERS and (mixed or any(here) != to_gpu)
    if CAPTURING and (func in WAITS or masked or crosses or (mixed and func in INDEXING)):
        raise RuntimeError(f"{func}: operation not permitted when stream is capturing")


class Graph:
    """What torch.cuda.CUDAGraph does: operations, replayed on the same memory."""

    def __init__(self) -> None:
        self.operations: list[Callable[[], None]] = []
        self.generators: set[int] = set()

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.add(generator._cdata)

    def record(self, func: Any, kernel: Any, bare: Any, result: Any) -> None:
        generator = bare[1].get("generator")
        if generator is not None and generator._cdata not in self.generators:
            raise RuntimeError("the generator was not registered with the graph")
        in_place = func._schema.is_mutable
        if not in_place and any(r.alias_info is not None for r in func._schema.returns):
            return  # a view, of memory that stays where it is

        def again() -> None:
            fresh = tree_flatten(kernel(*bare[0], **bare[1]))[0]
            for out, value in zip(tree_flatten(result)[0], () if in_place else fresh, strict=False):
                out.copy_(value)

        self.operations.append(again)

    def replay(self) -> None:
        """Run the operations again; Python around them does not run."""
        with torch.no_grad():
            for operation in self.operations:
                operation()


@contextlib.contextmanager
def capture(graph: Graph) -> Iterator[None]:
    """What torch.cuda.graph does."""
    CAPTURING.append(graph)
    try:
        yield
    finally:
        CAPTURING.pop()


class _Everywhere(TorchDispatchMode):
    """Sees the operations that make tensors, whose arguments have no device."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and dynamo takes seconds to import

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(kind, OnGpu) for kind in types) or (
            kwargs.get("device") is not None and on_gpu(kwargs["device"])
        ):
            return compute(func, args, kwargs)
        kwargs.pop("pin_memory", None)
        return func(*args, **kwargs)


class _Indexed(TorchFunctionMode):
    """Says which GPU is meant, for torch without CUDA cannot find out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.to:
            args = tuple(GPU if is_gpu(x) else x for x in args)
        if is_gpu(kwargs.get("device")):
            kwargs["device"] = GPU
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == GPU:
            return func(*args, **kwargs | {"device": "cpu"}).to(GPU)
        return func(*args, **kwargs)


def is_gpu(device: Any) -> bool:
    return isinstance(device, str | torch.device) and on_gpu(device)


class _Generator(torch.Generator):
    """A generator on the CPU, whatever it is asked for."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls)


class _Inline(ThreadPoolExecutor):
    """Computes where it is asked: the stand-in is there in one thread only."""

    def map(self, fn: Callable[..., Any], *iterables: Any, **options: Any) -> Iterator[Any]:
        return map(fn, *iterables)


class _Stream:
    """A stream of operations; here they are done as they come."""

    def wait_stream(self, other: _Stream) -> None:
        """Wait for the operations of another stream."""


@contextlib.contextmanager
def stand_in_gpu(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Make the stand-in what `--device cuda` means, and yield its name."""
    patch.setattr(torch, "Generator", _Generator)
    patch.setattr(torch.cuda, "Stream", _Stream)
    patch.setattr(torch.cuda, "current_stream", _Stream)
    patch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    patch.setattr(torch.cuda, "CUDAGraph", Graph)
    patch.setattr(torch.cuda, "graph", capture)
    patch.setattr("metarl.run.resolve_device", lambda name: GPU.type if name == "cuda" else name)
    for module in ("metarl.algorithms.pearl", "metarl.modules.optim"):
        patch.setattr(f"{module}.can_capture", on_gpu)
    patch.setattr("metarl.modules.ppo.ThreadPoolExecutor", _Inline)
    with _Everywhere(), _Indexed():
        yield GPU.type

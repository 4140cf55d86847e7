"""A step on the GPU as one CUDA graph: its kernels are launched together, not one by one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def can_capture(device: torch.device) -> bool:
    """Tell whether a step on a device can be captured."""
    return device.type == "cuda"


class GraphedStep:
    """A captured function of what lies on the GPU, which changes it in place."""

    def __init__(
        self,
        step: Callable[[], Tensor],
        tensors: Sequence[Tensor],
        generators: Sequence[torch.Generator],
    ) -> None:
        """Warm up and capture; nothing has changed afterwards.

        Args:
            step: must not wait for the GPU, and must read and write only what lies there.
            tensors: all that it changes.
            generators: all that it draws from; they may be seeded anew between calls.
        """
        kept = [tensor.clone() for tensor in tensors]
        states = [generator.get_state() for generator in generators]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with warnings.catch_warnings():  # later releases of torch find the generators themselves
            warnings.simplefilter("ignore")
            for generator in generators:
                self._graph.register_generator_state(generator)
        with torch.cuda.graph(self._graph):
            self._result = step()
        with torch.no_grad():
            for tensor, value in zip(tensors, kept, strict=True):
                tensor.copy_(value)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

    def __call__(self) -> Tensor:
        """Make one step; the result is overwritten by the next."""
        self._graph.replay()
        return self._result

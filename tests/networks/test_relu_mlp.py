"""Networks as flat vectors: blocks of rows against one batched product, and against modules."""

import pytest
import torch
from torch import nn
from torch.autograd import grad

from metarl.networks import relu_mlp as mlp
from metarl.networks.relu_mlp import Mlp


def made(copies: int = 1, compute_dtype: torch.dtype = torch.float32) -> tuple[Mlp, torch.Tensor]:
    net = Mlp(4, 3, (8, 6), copies=copies, compute_dtype=compute_dtype)
    params = torch.randn(sum(net.pieces), generator=torch.Generator().manual_seed(0))
    return net, params.mul(0.5).requires_grad_()


def inputs(rows: int) -> torch.Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()


def weighted(out: torch.Tensor) -> torch.Tensor:
    """A loss to which every output matters differently."""
    return (out * torch.linspace(-1, 2, out.numel()).view(out.shape)).sum()


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("rows", [1, 5, 23])
def test_blocks_of_rows_are_one_product(
    copies: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlp, "BLOCK", 5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    (net, params), x = made(copies), inputs(rows)
    one, two = net(params, x).view(copies, rows, 3), net.batched(params, x)
    torch.testing.assert_close(one, two)
    for a, b in zip(*(grad(weighted(o), (params, x)) for o in (one, two)), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():  # keeps no activations
        torch.testing.assert_close(net(params, x).view(copies, rows, 3), two)


def test_a_network_is_the_modules() -> None:
    (net, params), x = made(copies=2), inputs(9)
    pieces = params.detach().split(net.pieces)
    for k in (0, 1):
        linears = []
        for weight, bias in zip(pieces[::2], pieces[1::2], strict=True):
            i = len(weight) * 2 // (2 * len(bias))
            linears.append(nn.Linear(i, len(bias) // 2))
            with torch.no_grad():
                linears[-1].weight.copy_(weight.view(2, i, -1)[k].T)
                linears[-1].bias.copy_(bias.view(2, -1)[k])
        first, second, third = linears
        modules = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
        torch.testing.assert_close(net(params, x)[k], modules(x))


def test_only_the_gradients_asked_for_are_computed() -> None:
    (net, params), x = made(), inputs(9)
    (by_x,) = grad(weighted(net(params.detach(), x)), x)
    (by_params,) = grad(weighted(net(params, x.detach())), params)
    both = grad(weighted(net(params, x)), (params, x))
    assert torch.equal(by_params, both[0])
    assert torch.equal(by_x, both[1])


def test_the_gradient_is_that_of_finite_differences() -> None:
    (net, params), x = made(), inputs(6)
    direction = torch.randn(len(params), generator=torch.Generator().manual_seed(2))
    (gradient,) = grad(weighted(net(params, x)), params)
    step = 1e-3
    with torch.no_grad():
        ends = [weighted(net(params + s * step * direction, x)) for s in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close(slope, gradient @ direction, rtol=1e-2, atol=1e-2)


def test_bfloat16_is_close_and_hands_out_float32() -> None:
    (exact, params), x = made(copies=2), inputs(64)
    low, _ = made(copies=2, compute_dtype=torch.bfloat16)
    outs = [net(params, x) for net in (exact, low)]
    assert outs[1].dtype == torch.float32
    assert 0 < (outs[0] - outs[1]).norm() / outs[0].norm() < 0.02
    grads = [grad(weighted(out), (params, x)) for out in outs]
    for a, b in zip(*grads, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).norm() / a.norm() < 0.05


def test_initial_weights_keep_the_scale_of_the_input() -> None:
    net = Mlp(100, 2, (400, 400), copies=2)
    params = net.initial(torch.Generator().manual_seed(0))
    assert len(params) == 2 * (100 * 400 + 400 + 400 * 400 + 400 + 400 * 2 + 2)
    first, bias, second, *_, last, _ = net.layers(params)
    assert first.abs().max() <= 0.1  # 1 / sqrt(100)
    assert second.abs().max() <= 0.05
    assert last.abs().max() <= 3e-3
    assert first.std() > 0.05
    assert (bias == 0).all()

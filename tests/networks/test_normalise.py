"""Running moments and PopArt: by hand, and outputs that keep what they say."""

import torch

from metarl.networks.normalise import PopArt, RunningMoments

CPU = torch.device("cpu")


def test_what_has_a_weight_is_scaled_by_it_and_back() -> None:
    moments = RunningMoments(2, CPU, weight=torch.tensor([1.0, 0.5]))
    rows = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    moments.update(rows)
    assert moments.normalise(rows).tolist() == [[-1.0, -0.5], [1.0, 0.5]]
    torch.testing.assert_close(moments.restore(moments.normalise(rows)), rows)


def test_popart_keeps_what_the_outputs_say() -> None:
    torch.manual_seed(0)
    scale, x = PopArt(3, CPU, 0.1), torch.randn(7, 4)
    weight, bias = torch.randn(4, 3), torch.randn(3)
    before = scale.restore(x @ weight + bias)
    for shift in (5.0, -40.0):
        target = shift + torch.randn(100, 3) * torch.tensor([1.0, 10.0, 100.0])
        scale.update(target.mean(0), target.square().mean(0), (weight, bias))
        torch.testing.assert_close(scale.restore(x @ weight + bias), before, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scale.normalise(scale.restore(x @ weight)), x @ weight)


def test_popart_averages_the_first_batches_and_then_moves_by_its_rate() -> None:
    scale = PopArt(1, CPU, 0.4)
    means = []
    for mean in (2.0, 4.0, 9.0, 0.0):
        scale.update(torch.tensor([mean]), torch.tensor([mean**2 + 1.0]))
        means.append(round(float(scale.mean), 6))
    assert means == [2.0, 3.0, 5.4, 3.24]  # shares 1, 1/2, and then 0.4 rather than 1/3
    # squares 5; (5 + 17) / 2 = 11; 0.6 · 11 + 0.4 · 82 = 39.4; 0.6 · 39.4 + 0.4 = 24.04
    assert torch.isclose(scale.std.square(), torch.tensor([24.04 - 3.24**2]).double())


def test_popart_of_targets_that_are_all_alike_divides_by_no_zero() -> None:
    scale = PopArt(1, CPU, 0.1)
    scale.update(torch.tensor([3.0]), torch.tensor([9.0]))
    assert scale.normalise(torch.tensor([[3.5]])).tolist() == [[50.0]]

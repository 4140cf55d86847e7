"""Beliefs: the objective against a plain loop, divergences by hand, and what is sampled of both."""

import math

import pytest
import torch
from torch import Tensor

from metarl.networks.belief import BeliefEncoder, Chosen, Decoder, Trials, TrialVae, chained_kl
from metarl.networks.memories.choice import make_memory
from metarl.networks.task_mlp import Gaussian

STEPS, TRIALS, OBS, ACTIONS, LATENT = 5, 4, 3, 2, 2


def vae(*, decode_state: bool = False) -> TrialVae:
    torch.manual_seed(0)
    encoder = BeliefEncoder(OBS + ACTIONS + 2, 6, make_memory("gru", 6, 8, context=STEPS), LATENT)
    return TrialVae(encoder, (OBS, ACTIONS, LATENT), (7, 6), decode_state=decode_state)


def trials(seed: int = 1) -> Trials:
    rng = torch.Generator().manual_seed(seed)

    def draw(size: int) -> Tensor:
        return torch.randn(STEPS, TRIALS, size, generator=rng)

    valid = torch.ones(STEPS, TRIALS)
    valid[2, 1] = valid[4, 3] = 0.0
    return Trials(draw(OBS + ACTIONS + 2), draw(OBS), draw(ACTIONS), draw(1), draw(OBS), valid)


def every(seed: int = 2) -> Chosen:
    """All terms, with some noise."""
    draws = torch.Generator().manual_seed(seed)
    return Chosen.sample(TRIALS, STEPS, STEPS, STEPS, LATENT, draws)


def predicted(decoder: Decoder, given: Tensor, z: Tensor) -> Tensor:
    """What a decoder says of one step and one z: an ordinary network on both, joined."""
    weight = torch.cat((decoder.of_step.weight, decoder.of_task.weight), 1)
    h = weight @ torch.cat((given, z)) + decoder.of_step.bias
    for layer in decoder.layers:
        h = layer(h.relu())
    return h


@pytest.mark.parametrize("decode_state", [False, True])
def test_the_objective_is_a_sum_over_beliefs_and_predicted_steps(decode_state: bool) -> None:
    net, data, chosen, kl_weight = vae(decode_state=decode_state), trials(), every(), 0.3
    belief = net.encoder(data.inputs)
    reward_errors, state_errors, divergences = [], [], []
    for b in range(TRIALS):
        before = Gaussian(torch.zeros(LATENT), torch.zeros(LATENT))
        for t in range(STEPS):
            now = Gaussian(belief.mean[t, b], belief.log_std[t, b])
            divergences.append(now.kl(before))
            before, z = now, now.mean + chosen.noise[t, b] * now.log_std.exp()
            for i in range(STEPS):
                if data.valid[i, b] == 0:
                    continue
                obs, action, after = data.obs[i, b], data.action[i, b], data.next_obs[i, b]
                found = predicted(net.reward, torch.cat((obs, action, after)), z)
                reward_errors.append((found - data.reward[i, b]).square().sum())
                if net.state is not None:
                    found = predicted(net.state, torch.cat((obs, action)), z)
                    state_errors.append((found - (after - obs)).square().sum())
    reward, kl = torch.stack(reward_errors).mean(), torch.stack(divergences).mean()
    state = torch.stack(state_errors).mean() if decode_state else torch.tensor(0.0)
    loss, metrics = net.loss(data, torch.arange(TRIALS), chosen, kl_weight)
    torch.testing.assert_close(loss, 0.5 * (reward + state) + kl_weight / STEPS * kl)
    torch.testing.assert_close(metrics, torch.stack((reward, state, kl)).detach())


def test_parts_of_the_trials_add_up_to_the_whole() -> None:
    net, data, chosen = vae(decode_state=True), trials(), every()
    whole = net.loss(data, torch.arange(TRIALS), chosen, 0.3)
    parts = [net.loss(data, torch.tensor(ids), chosen, 0.3) for ids in ([2, 0], [1], [3])]
    for one, *others in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(others), one)


def test_a_belief_is_held_to_the_one_before_it() -> None:
    """N(0, 1), N(1, 1), N(1, e^-2): 0, 1/2, and 1 + e^-2 / 2 - 1/2 nats; the prior is N(0, 1)."""
    mean, log_std = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, -1.0])
    found = chained_kl(Gaussian(mean.view(3, 1, 1), log_std.view(3, 1, 1)))
    torch.testing.assert_close(found[:, 0], torch.tensor([0.0, 0.5, 0.5 + math.exp(-2) / 2]))
    first = chained_kl(Gaussian(torch.full((1, 1, 2), 2.0), torch.zeros(1, 1, 2)))
    assert first.item() == 4.0  # 2² / 2 in each of two dimensions


@torch.no_grad()
def test_stepping_gives_the_beliefs_of_the_whole_trial() -> None:
    net, x = vae().encoder, trials().inputs
    state, beliefs = net.memory.begin(TRIALS), []
    for part in x:
        belief, state = net.step(part, state)
        beliefs.append(torch.cat(belief, -1))
    assert (torch.stack(beliefs) - torch.cat(net(x), -1)).abs().max() < 1e-6


def test_what_a_diverged_step_holds_is_not_to_be_predicted() -> None:
    net, data, chosen = vae(decode_state=True), trials(), every()
    wild = data._replace(
        **{
            name: torch.where(data.valid[..., None] > 0, getattr(data, name), 1e3)
            for name in ("action", "reward", "next_obs")
        }
    )
    results = []
    for one in (data, wild):
        loss, _ = net.loss(one, torch.arange(TRIALS), chosen, 0.3)
        results.append([loss, *torch.autograd.grad(loss, list(net.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_sample_has_one_step_of_each_equal_part() -> None:
    draws = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(50):
        chosen = Chosen.sample(3, 40, 8, 100, 2, draws)
        assert (chosen.encoded // 5).tolist() == list(range(8))
        assert chosen.decoded.tolist() == list(range(40))  # there are no more than 40
        assert chosen.noise.shape == (8, 3, 2)
        seen |= set(chosen.encoded.tolist())
    assert seen == set(range(40))

"""The mixture's belief: its objective against a plain loop, draws and charges by hand."""

import math

import torch

from metarl.networks.belief import make_decoders
from metarl.networks.memories.choice import make_memory
from metarl.networks.mixture import (
    MixtureEncoder,
    MixtureVae,
    gumbel_softmax,
    mixed,
    occupancy,
)
from metarl.networks.task_mlp import Gaussian
from tests.networks.test_belief import ACTIONS, LATENT, OBS, STEPS, TRIALS, predicted, trials

KINDS = 3


def vae() -> MixtureVae:
    torch.manual_seed(0)
    memory = make_memory("gru", 6, 8, context=STEPS)
    encoder = MixtureEncoder(OBS + ACTIONS + 2, 6, memory, LATENT, KINDS)
    decoders = make_decoders((OBS, ACTIONS, LATENT), (7, 6), decode_state=True)
    return MixtureVae(encoder, decoders, temperature=0.7, occupancy_weight=0.4)


def test_a_draw_is_a_softmax_of_noisy_logits() -> None:
    """Logits 0, log 3 and noise log 2, 0 at temperature 1: 2 to 3; at ½ their squares."""
    logits, gumbel = torch.tensor([0.0, math.log(3)]), torch.tensor([math.log(2), 0.0])
    torch.testing.assert_close(gumbel_softmax(logits, gumbel, 1.0), torch.tensor([0.4, 0.6]))
    squares = torch.tensor([4 / 13, 9 / 13])
    torch.testing.assert_close(gumbel_softmax(logits, gumbel, 0.5), squares)


def test_draws_come_as_often_as_the_category_is_likely() -> None:
    """The largest noisy logit is a draw of the categorical distribution (Gumbel's trick)."""
    chosen = vae().choose(4000, STEPS, (1, 1), torch.Generator().manual_seed(0))
    p = torch.tensor([0.2, 0.5, 0.3])
    y = gumbel_softmax(p.log(), chosen.gumbel[0], 0.01)
    share = torch.bincount(y.argmax(-1), minlength=3) / len(y)
    assert (share - p).abs().max() < 0.03  # four standard deviations


def test_later_categories_are_charged_more() -> None:
    """log 3 · (e^-2, e^-1, 1)."""
    found = torch.stack([occupancy(y) for y in torch.eye(3)])
    expected = math.log(3) * torch.tensor([math.exp(-2), math.exp(-1), 1.0])
    torch.testing.assert_close(found, expected)


def test_the_objective_is_a_sum_over_beliefs_and_predicted_steps() -> None:
    net, data, kl_weight = vae(), trials(), 0.3
    chosen = net.choose(TRIALS, STEPS, (3, STEPS), torch.Generator().manual_seed(2))
    remembered, errors, terms = net.encoder.remembered(data.inputs), ([], []), ([], [], [])
    for b in range(TRIALS):
        for n, t in enumerate(chosen.encoded.tolist()):
            h = remembered[t, b]
            logits = net.encoder.category(h)
            y = ((logits + chosen.gumbel[n, b]) / 0.7).softmax(0)
            hidden = net.encoder.within(torch.cat((h, y))).relu()
            mean, log_std = net.encoder.head(hidden).split(LATENT)
            prior = Gaussian(*(net.priors.weight @ y).split(LATENT))
            terms[0].append(Gaussian(mean, log_std).kl(prior))
            q = logits.softmax(0)
            terms[1].append(sum(q[k] * (q[k] * KINDS).log() for k in range(KINDS)))
            terms[2].append(
                sum(math.log(KINDS) * math.exp(k + 1 - KINDS) * y[k] for k in range(KINDS))
            )
            z = mean + chosen.noise[n, b] * log_std.exp()
            for i in range(STEPS):
                if data.valid[i, b] == 0:
                    continue
                obs, action, after = data.obs[i, b], data.action[i, b], data.next_obs[i, b]
                found = predicted(net.reward, torch.cat((obs, action, after)), z)
                errors[0].append((found - data.reward[i, b]).square().sum())
                found = predicted(net.state, torch.cat((obs, action)), z)
                errors[1].append((found - (after - obs)).square().sum())
    means = torch.stack([torch.stack(part).mean() for part in (*errors, *terms)])
    loss, metrics = net.loss(data, torch.arange(TRIALS), chosen, kl_weight)
    torch.testing.assert_close(metrics, means.detach())
    expected = 0.5 * means[:2].sum() + kl_weight / STEPS * (means[2] + means[3] + 0.4 * means[4])
    torch.testing.assert_close(loss, expected)


def test_parts_of_the_trials_add_up_to_the_whole() -> None:
    net, data = vae(), trials()
    chosen = net.choose(TRIALS, STEPS, (3, 4), torch.Generator().manual_seed(2))
    whole = net.loss(data, torch.arange(TRIALS), chosen, 0.3)
    parts = [net.loss(data, torch.tensor(ids), chosen, 0.3) for ids in ([2, 0], [1], [3])]
    for one, *others in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(others), one)


@torch.no_grad()
def test_acting_takes_the_probabilities_and_the_whole_trials_beliefs() -> None:
    net, x = vae().encoder, trials().inputs
    state, beliefs = net.memory.begin(TRIALS), []
    for part in x:
        belief, state = net.step(part, state)
        beliefs.append(torch.cat(belief, -1))
    whole = net(x)
    assert (torch.stack(beliefs) - torch.cat(whole, -1)).abs().max() < 1e-6
    torch.testing.assert_close(whole.category.sum(-1), torch.ones(STEPS, TRIALS))
    given = net.gaussian(net.remembered(x), whole.category)
    assert torch.equal(whole.mean, given.mean)


# --- imagined tasks -------------------------------------------------------------------------------


def test_a_mixture_is_a_dirichlet_draw_over_some_of_the_categories() -> None:
    """Two of four, each pair as often; a weight of two is uniform: mean 1/2, variance 1/12."""
    noise = torch.randn(6000, 8, generator=torch.Generator().manual_seed(0))
    y = mixed(noise, 2)
    torch.testing.assert_close(y.sum(1), torch.ones(6000))
    assert torch.equal((y > 0).sum(1), torch.full((6000,), 2))
    pairs = (y > 0).float().T @ (y > 0).float() / 6000
    assert (pairs - 1 / 6)[~torch.eye(4, dtype=torch.bool)].abs().max() < 0.02
    weight = y[y > 0]
    assert abs(float(weight.mean()) - 1 / 2) < 0.01
    assert abs(float(weight.var()) - 1 / 12) < 0.003
    assert torch.equal(mixed(noise, 1).max(1).values, torch.ones(6000))  # one alone is itself


def test_a_mixture_by_hand() -> None:
    """Of 3 categories those with the largest numbers; shares −log Φ(0) = log 2 and −log Φ(1)."""
    noise = torch.tensor([0.5, -1.0, 2.0, 0.0, 9.0, 1.0])
    parts = math.log(2), -math.log(0.5 * (1 + math.erf(1 / math.sqrt(2))))
    expected = torch.tensor([parts[0], 0.0, parts[1]]) / sum(parts)
    torch.testing.assert_close(mixed(noise, 2), expected)


def test_an_imagined_task_pays_what_the_decoder_says_of_a_point_of_its_prior() -> None:
    """The same point at every step: z = m_y + s_y ε, and only the categories drawn have a part."""
    net, data = vae(), trials()
    noise = torch.randn(TRIALS, net.imagined_from, generator=torch.Generator().manual_seed(3))
    reward = net.imagined(noise, 2)
    for t in (0, STEPS - 1):
        found = reward(data.obs[t], data.action[t], data.next_obs[t])
        for b in range(TRIALS):
            y = mixed(noise[b, : 2 * KINDS], 2)
            mean, log_std = (net.priors.weight @ y).split(LATENT)
            z = mean + noise[b, 2 * KINDS :] * log_std.exp()
            given = torch.cat((data.obs[t, b], data.action[t, b], data.next_obs[t, b]))
            torch.testing.assert_close(found[b], predicted(net.reward, given, z)[0])

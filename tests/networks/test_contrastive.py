"""Contrastive prediction: the objective against a plain loop, and which outcomes are asked for."""

import math

import torch

from metarl.networks.belief import Trials
from metarl.networks.contrastive import CodeEncoder, ContrastiveModel
from metarl.networks.memories.choice import make_memory
from tests.networks.test_belief import ACTIONS, LATENT, OBS, STEPS, TRIALS, trials

AHEAD, NEGATIVES = 3, 4


def model() -> ContrastiveModel:
    torch.manual_seed(0)
    encoder = CodeEncoder(OBS + ACTIONS + 2, 6, make_memory("gru", 6, 8, context=STEPS), LATENT)
    return ContrastiveModel(encoder, (OBS, ACTIONS), (7, 6), ahead=AHEAD, negatives=NEGATIVES)


def data() -> Trials:
    """Trials 0 and 2 are of the same task; the second episode begins with the fourth step."""
    found = trials()
    found.inputs[..., -1] = torch.tensor([1.0, 0, 0, 1, 0])[:, None]
    task = torch.tensor([0.1, 0.2, 0.1, 0.3]).view(1, TRIALS, 1).expand(STEPS, TRIALS, 1)
    return found._replace(task=task)


def chosen(net: ContrastiveModel, encoded: int = STEPS):
    return net.choose(TRIALS, STEPS, (encoded, 0), torch.Generator().manual_seed(3))


def score(net: ContrastiveModel, outcome, hidden, code) -> float:
    """What the classifier says: an ordinary network on outcome, recurrence and code."""
    h = net.of_outcome(outcome) + net.of_actions(hidden) + net.of_code(code)
    for layer in (*net.layers, net.last):
        h = layer(h.relu())
    return h.item()


@torch.no_grad()
def test_the_objective_is_a_sum_over_codes_and_steps_ahead() -> None:
    net, given = model(), data()
    terms, codes, losses, found = chosen(net), net.encoder(given.inputs).code, [], []
    outcomes = torch.cat((given.next_obs, given.reward), -1)
    for b in range(TRIALS):
        for n, t in enumerate(terms.encoded.tolist()):
            hidden = torch.nn.functional.elu(net.start(given.obs[t, b]))
            for k in range(AHEAD):
                row = t + k
                if row >= STEPS or (t < 3 <= row):  # in the next episode, or beyond the trial
                    break
                hidden = net.actions(given.action[row, b][None], hidden[None])[1][0]
                if given.valid[row, b] == 0:
                    continue
                right = score(net, outcomes[row, b], hidden, codes[t, b])
                wrong = [
                    score(net, outcomes[s, j], hidden, codes[t, b])
                    for s, j in zip(terms.step[n, b].tolist(), terms.trial[n, b].tolist(),
                                    strict=True)
                    if given.valid[s, j] > 0 and given.task[0, j] != given.task[0, b]
                ]  # fmt: skip
                if not wrong:  # nothing to tell it from
                    continue
                total = math.exp(right) + sum(map(math.exp, wrong))
                losses.append(-math.log(math.exp(right) / total))
                found.append(float(all(right > w for w in wrong)))
    loss, metrics = net.loss(given, torch.arange(TRIALS), terms, 0.0)
    expected = torch.tensor([sum(losses) / len(losses), sum(found) / len(found)])
    torch.testing.assert_close(metrics, expected)
    torch.testing.assert_close(loss, expected[0])
    assert 0 < expected[1] < 1
    assert (terms.trial != torch.arange(TRIALS)[:, None]).all()


def test_parts_of_the_trials_add_up_to_the_whole() -> None:
    net, given = model(), data()
    terms = chosen(net, 3)
    whole = net.loss(given, torch.arange(TRIALS), terms, 0.0)
    parts = [net.loss(given, torch.tensor(ids), terms, 0.0) for ids in ([2, 0], [1], [3])]
    for one, *others in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(others), one)


def test_where_all_trials_are_of_one_task_there_is_nothing_to_learn() -> None:
    net, given = model(), data()
    alike = given._replace(task=torch.zeros(STEPS, TRIALS, 1))
    loss, metrics = net.loss(alike, torch.arange(TRIALS), chosen(net), 0.0)
    assert loss.item() == 0
    assert metrics.tolist() == [0, 0]  # nothing was found, since nothing was asked
    grads = torch.autograd.grad(loss, list(net.parameters()))
    assert all(not g.any() for g in grads)


def test_what_a_diverged_step_holds_is_no_outcome() -> None:
    net, given = model(), data()
    wild = given._replace(
        **{
            name: torch.where(given.valid[..., None] > 0, getattr(given, name), 1e3)
            for name in ("reward", "next_obs")
        }
    )
    results = []
    for one in (given, wild):
        loss, _ = net.loss(one, torch.arange(TRIALS), chosen(net), 0.0)
        results.append([loss, *torch.autograd.grad(loss, list(net.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))

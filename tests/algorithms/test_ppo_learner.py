"""PPO over the task distribution, and fine-tuning: windows, batches, rows, and what they learn."""

import pytest
import torch

from metarl import Key, TaskDistribution, TaskWorlds, collect, evaluate, find_learner
from metarl.algorithms import Finetune, FinetuneConfig, Ppo, PpoConfig
from metarl.learning import checkpoint as checkpoints
from metarl.modules.batched_ppo import Adam, BatchedPpo, PpoSettings
from metarl.run import check_spec
from metarl.tasks.sampler import task_sampler
from metarl.worlds.vector import Spec, Step

SPEC = Spec(3, 2, 10)


def step(obs: float, action: float, first: bool, worlds: int = 2) -> Step:
    return Step(
        torch.full((worlds, 3), obs), torch.full((worlds, 2), action), torch.zeros(worlds),
        torch.full((worlds,), first),
    )  # fmt: skip


def trained(name: str, family: str, iterations: int, **settings: object):
    cls = find_learner(name)
    worlds = TaskWorlds(family, 60, 1)
    learner = cls(worlds.spec, cls.Config(**settings), seed=0)
    sampler = task_sampler(TaskDistribution(worlds.family), 20, None)
    for i in range(iterations):
        learner.meta_step(worlds, sampler.sample(i, Key(0)), Key(0, i))
    return learner, worlds


def test_a_window_holds_the_latest_steps_of_the_episode() -> None:
    ppo = BatchedPpo(SPEC, PpoSettings(history=3), torch.device("cpu"))
    params, window = ppo.initial(Key(0)), ppo.window(2)
    for t, (obs, action, first) in enumerate([(1, 9, True), (2, 0.1, False), (3, 0.2, False)]):
        _, window = ppo.act(params, step(obs, action, first), window, None)
        assert window.shape == (2, 2, 5)
        # the action before the first step of an episode is not seen
        assert window[0, 0].tolist() == pytest.approx([obs] * 3 + [0 if first else action] * 2)
        assert window[0, 1, 0] == (t if t else 0)
    _, window = ppo.act(params, step(7, 0.5, True), window, None)
    assert window[0, 0].tolist() == [7, 7, 7, 0, 0]
    assert not window[0, 1].any()


@pytest.mark.parametrize(
    ("family", "n"),
    [("walker2d-params", 21), ("half-cheetah-terrain+history", 13), ("half-cheetah-vel", 1)],
)
def test_what_it_is_told_weighs_as_one_number(family: str, n: int) -> None:
    """Each of n numbers that +told adds: 1 / √n of what any other weighs."""
    plain, told = TaskWorlds(family, 2, 1).spec, TaskWorlds(f"{family}+told", 2, 1).spec
    assert (plain.told_size, told.told_size) == (0, n)
    assert told.observation_size == plain.observation_size + n
    ppo = Ppo(told, PpoConfig()).ppo
    rows = 3 * torch.randn(999, told.observation_size, generator=Key(0).torch()) + 5
    ppo.obs_moments.update(rows)
    seen = ppo.obs_moments.normalise(rows)
    spread = seen.square().mean(0)
    torch.testing.assert_close(spread[:-n], torch.ones(len(spread) - n))
    torch.testing.assert_close(spread[-n:], torch.full((n,), 1 / n))


@pytest.mark.parametrize("history", [1, 3])
def test_the_more_it_is_told_the_less_of_it_counts_at_first(history: int) -> None:
    """The first weights of the 21 numbers are 1 / √21 of others, in each step that it sees."""
    spec = TaskWorlds("walker2d-params+told", 2, 1).spec
    settings = PpoSettings(history=history, told_weight=2.0)
    plain = BatchedPpo(spec._replace(told_size=0), settings, torch.device("cpu"))
    ppo = BatchedPpo(spec, settings, torch.device("cpu"))
    for net, part in ((ppo.actor, slice(None, ppo.actor.num_params)),
                      (ppo.critic, slice(ppo.actor.num_params, None))):  # fmt: skip
        ours, theirs = (net.split(one.initial(Key(0))[:, part]) for one in (ppo, plain))
        ratio = ours[0] / theirs[0]
        for k in range(history):
            frame = ratio[0, k * ppo.frame : (k + 1) * ppo.frame]
            torch.testing.assert_close(frame[17:38], torch.full((21, 64), 2 / 21**0.5))
            assert (frame[:17] == 1).all()
            assert (frame[38:] == 1).all()
        assert all(map(torch.equal, ours[1:], theirs[1:]))


@pytest.mark.parametrize("name", ["varibad", "prototypes", "diayn"])
def test_what_learners_add_to_the_observation_weighs_in_full(name: str) -> None:
    cls = find_learner(name)
    spec = TaskWorlds("walker2d-params+told", 2, 1).spec
    assert (cls(spec, cls.Config(), seed=0).ppo.obs_moments.weight == 1).all()


def test_an_agent_of_before_there_was_the_weight_sees_what_it_saw(tmp_path) -> None:
    """Its sizes do not name what it is told; it acts and goes on in worlds whose sizes do."""
    worlds = TaskWorlds("point-goal+told", 4, 1)
    old = worlds.spec._replace(told_size=0)
    saved = checkpoints.save(
        tmp_path, Ppo(old, PpoConfig()), family="point-goal+told", step=0, meta={}
    )
    learner = checkpoints.restore(checkpoints.load(saved))
    check_spec(learner, worlds)
    assert (learner.ppo.obs_moments.weight == 1).all()
    assert Ppo(worlds.spec, PpoConfig()).ppo.obs_moments.weight[-1] == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(("history", "state_std"), [(1, False), (3, False), (1, True)])
@pytest.mark.parametrize("cls", [Ppo, Finetune])
def test_the_update_sees_what_was_seen_in_acting(cls, history: int, state_std: bool) -> None:
    """Log-probabilities of the batch are those of the noise that chose the actions."""
    worlds = TaskWorlds("hopper-params", 4, 1)  # its episodes end early
    settings = {"history": history, "init_std": 0.7, "state_std": state_std}
    learner = cls(worlds.spec, cls.Config(**settings), seed=0)
    learner.ppo.actor.split(learner.params[:, : learner.ppo.actor.num_params])[-3].mul_(50.0)
    worlds.set_tasks(TaskDistribution(worlds.family).split("train", 2), 2)
    worlds.seed(Key(0))
    worlds.reset()
    rollout, _ = collect(worlds, learner, learner.begin(2, 2), 60, Key(1), explore=True)
    assert rollout.done.any()
    params = learner.params.repeat(2, 1)
    batch = learner.ppo.batch(rollout, params)
    policy = learner.ppo.policy(params, batch.inputs)
    assert (policy.log_std.shape == policy.mean.shape and policy.log_std.std() > 0.1) == state_std
    noise = Key(1).normal(2, 60, 2, 3)  # (T, B, A)
    expected = noise.unflatten(1, (2, 2)).permute(1, 2, 0, 3).flatten(1, 2)
    torch.testing.assert_close(
        (batch.action - policy.mean) / policy.log_std.exp(), expected, atol=1e-4, rtol=0
    )


def test_tasks_do_not_mix() -> None:
    """Each row is what it would be alone: parameters, moments and metrics' sums."""
    ppo = BatchedPpo(SPEC, PpoSettings(batch_size=20, hidden=(8,)), torch.device("cpu"))
    params = torch.cat([ppo.initial(Key(0)), ppo.initial(Key(1)), ppo.initial(Key(2))])
    generator = torch.Generator().manual_seed(0)
    from metarl.modules.batched_ppo import Batch

    inputs = torch.randn(3, 40, 3, generator=generator)
    action = torch.randn(3, 40, 2, generator=generator)
    rest = [torch.randn(3, 40, generator=generator) for _ in range(2)]
    with torch.no_grad():
        log_prob = ppo.policy(params, inputs).log_prob(action)
    batch = Batch(inputs, action, log_prob, *rest, torch.ones(3, 40))
    how = {"epochs": 3, "lr": 1e-2, "key": Key(5)}
    whole, adam, _ = ppo.improve(params, Adam.start(params), batch, **how)
    for m in range(3):
        mine = params[m : m + 1]
        part = Batch(*(x[m : m + 1] for x in batch if x is not None))
        alone, state, _ = ppo.improve(mine, Adam.start(mine), part, **how)
        torch.testing.assert_close(whole[m : m + 1], alone)
        torch.testing.assert_close(adam.first[m : m + 1], state.first)


def test_adam_is_torch_s() -> None:
    params = torch.randn(2, 7, generator=torch.Generator().manual_seed(1))
    theirs = [params[m].clone().requires_grad_() for m in range(2)]
    torch_adam = torch.optim.Adam(theirs, lr=0.05)
    state = Adam.start(params)
    for k in range(4):
        gradient = torch.randn(2, 7, generator=torch.Generator().manual_seed(k))
        params, state = state.step(params, gradient, 0.05, 1e9)
        for row, g in zip(theirs, gradient, strict=True):
            row.grad = g.clone()
        torch_adam.step()
    torch.testing.assert_close(params, torch.stack([row.detach() for row in theirs]))


@pytest.mark.slow
@pytest.mark.parametrize(("told", "low", "high"), [("", -40, 0), ("+told", -8.5, 0)])
def test_the_oracle_beats_the_blind_policy(told: str, low: float, high: float) -> None:
    """On point-goal a blind policy cannot know where to go: at best it waits in the middle."""
    learner, worlds = trained("ppo", f"point-goal{told}", 25, hidden=(32,), lr=3e-3)
    report = evaluate(
        learner, worlds, TaskDistribution(worlds.family).split("heldout", 20), episodes=0, seed=0
    )
    assert low < report.mean[0] < high
    if not told:
        assert report.mean[0] < -11


@pytest.mark.slow
def test_fine_tuning_improves_on_the_blind_policy() -> None:
    learner, worlds = trained("finetune", "point-goal", 15, hidden=(32,), lr=3e-3)
    learner.config.__dict__["adapt_lr"] = 3e-3
    tasks = TaskDistribution(worlds.family).split("heldout", 6)
    report = evaluate(learner, worlds, tasks, episodes=6, seed=0)
    assert report.experience == [0, 10, 20, 30, 40, 50, 60]
    assert report.mean[-1] > report.mean[0] + 1


def test_from_scratch_training_keeps_the_random_weights() -> None:
    learner, _ = trained("finetune", "point-goal", 2, scratch=True)
    fresh = Finetune(learner.spec, FinetuneConfig(scratch=True), seed=0)
    assert torch.equal(learner.params, fresh.params)
    assert learner.ppo.obs_moments.count > 0


def test_settings_are_checked() -> None:
    from metarl import UserError

    with pytest.raises(UserError, match="history must be in"):
        PpoConfig(history=0)
    with pytest.raises(UserError, match="init_std must be at least min_std"):
        PpoConfig(init_std=0.01)

"""Gradient steps a second of PEARL, beside a plain eager implementation of the same mathematics.

    python benchmarks/pearl_update.py --rounds 5 --steps 10 --threads 4 --json out.json

`EagerPearl` is the reference: modules, a distribution for each task, a Python loop over tasks.
`per_task` loops over tasks for everything; without it the actor-critic sees the flattened batch, as
the public implementations have it, and the loop is over replay and posteriors only. The tests hold
`metarl.algorithms.pearl` to it. Contenders take turns, so their ratio survives a noisy machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from common import environment, interleave, paired_ratio, write_json
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import mse_loss, softplus

from metarl.algorithms.pearl import Batch, Pearl, PearlConfig
from metarl.base.keys import Key
from metarl.base.threads import set_threads
from metarl.worlds.vector import Spec

CLOCK = time.perf_counter


def module(net: Any, params: Tensor, copy: int = 0) -> nn.Sequential:
    """One of the copies in a flat parameter vector, as a module with weights of its own."""
    layers: list[nn.Module] = []
    pieces = [p.view(s)[copy] for p, s in zip(params.split(net.pieces), net.shapes, strict=True)]
    for weight, bias in zip(pieces[::2], pieces[1::2], strict=True):
        linear = nn.Linear(*weight.shape, device=params.device)
        with torch.no_grad():
            linear.weight.copy_(weight.T)
            linear.bias.copy_(bias[0])
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def flat(*modules: nn.Sequential) -> Tensor:
    """The inverse of `module` for one or two copies."""
    linears = [[layer for layer in m if isinstance(layer, nn.Linear)] for m in modules]
    parts = []
    for copies in zip(*linears, strict=True):
        parts += [layer.weight.T.flatten() for layer in copies]
        parts += [layer.bias for layer in copies]
    return torch.cat([part.detach() for part in parts])


class EagerPearl:
    """The update of PEARL, written plainly."""

    def __init__(self, learner: Pearl, *, per_task: bool) -> None:
        self.config, self.spec, self.per_task = learner.config, learner.spec, per_task
        self.learner = learner
        sac = learner.sac
        self.encoder = module(learner.encoder.net, learner.encoder.weights.params)
        self.policy = module(sac.policy_net, sac.policy.params)
        self.critics = [module(sac.critic_net, sac.critic.params, k) for k in (0, 1)]
        self.targets = [module(sac.critic_net, sac.target, k) for k in (0, 1)]
        adam = torch.optim.Adam
        self.encoder_adam = adam(self.encoder.parameters(), lr=self.config.lr)
        self.policy_adam = adam(self.policy.parameters(), lr=self.config.lr)
        self.critic_adams = [adam(q.parameters(), lr=self.config.lr) for q in self.critics]

    def sample_batch(self, draws: torch.Generator, noise: torch.Generator) -> Batch:
        """Draw tasks, then transitions task by task."""
        config, spec, (replay, context) = self.config, self.spec, self.learner._replay()
        device = self.learner.device
        order = torch.randperm(config.train_tasks, device=device, generator=draws)
        ids = order[: config.meta_batch].tolist()
        rows, seen = [], []
        for task in ids:
            for part, n, out in (
                (replay, config.batch_size, rows), (context, config.context_size, seen),
            ):  # fmt: skip
                stored = int(part.size[task])
                slot = torch.randint(stored, (n,), device=device, generator=draws)
                out.append(part.data[task, slot])
        m, actions = config.meta_batch, (config.meta_batch * config.batch_size, spec.action_size)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, device=device, generator=noise)

        return Batch(
            torch.stack(seen), torch.stack(rows), normal(m, config.latent_size),
            normal(*actions), normal(*actions),
        )  # fmt: skip

    def update(self, batch: Batch) -> None:
        """Make one gradient step."""
        config, m, b = self.config, *batch.rows.shape[:2]
        sizes = (self.spec.observation_size, self.spec.action_size)
        sizes = (*sizes, 1, sizes[0], 1)
        posteriors = [self.posterior(batch.context[k]) for k in range(m)]
        zs = [p.mean + p.stddev * batch.z_noise[k] for k, p in enumerate(posteriors)]
        zero = torch.zeros(config.latent_size, device=batch.rows.device)
        prior = Normal(zero, zero + 1)
        kl = sum(kl_divergence(p, prior).sum() for p in posteriors)
        noises = batch.next_noise.view(m, b, -1), batch.noise.view(m, b, -1)
        z = torch.stack(zs)[:, None].expand(-1, b, -1)
        groups = [slice(k, k + 1) for k in range(m)] if self.per_task else [slice(None)]
        data = [
            [
                p.flatten(0, 1)
                for p in (*batch.rows[g].split(sizes, -1), z[g], *(n[g] for n in noises))
            ]
            for g in groups
        ]
        losses = [self.critic_loss(*part) for part in data]
        for adam in (self.encoder_adam, *self.critic_adams):
            adam.zero_grad()
        (sum(losses) / len(groups) + config.kl_weight * kl).backward()
        for adam in (*self.critic_adams, self.encoder_adam):
            adam.step()
        losses = [self.actor_loss(part[0], part[5], part[7]) for part in data]
        self.policy_adam.zero_grad()
        (sum(losses) / len(groups)).backward()
        self.policy_adam.step()
        with torch.no_grad():
            for target, critic in zip(self.targets, self.critics, strict=True):
                for old, new in zip(target.parameters(), critic.parameters(), strict=True):
                    old.copy_((1 - config.target_rate) * old + config.target_rate * new)

    def posterior(self, context: Tensor) -> Normal:
        """The product of one task's factors."""
        mean, raw = self.encoder(context).chunk(2, dim=-1)
        variance = softplus(raw).clamp(min=1e-7)
        product = 1 / (1 / variance).sum(0)
        return Normal(product * (mean / variance).sum(0), product.sqrt())

    def act(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Action, log density, and mean and log std before the tanh."""
        mean, log_std = self.policy(x).chunk(2, dim=-1)
        log_std = log_std.clamp(-20, 2)
        normal = Normal(mean, log_std.exp())
        raw = mean + log_std.exp() * noise
        squash = 2 * (torch.log(torch.tensor(2.0)) - raw - softplus(-2 * raw))
        return raw.tanh(), (normal.log_prob(raw) - squash).sum(-1), mean, log_std

    def critic_loss(self, obs, action, reward, next_obs, end, z, next_noise, _) -> Tensor:
        """The squared Bellman errors."""
        config = self.config
        with torch.no_grad():
            x = torch.cat([next_obs, z], 1)
            next_action, log_prob, *_ = self.act(x, next_noise)
            q = torch.min(*(target(torch.cat([x, next_action], 1)) for target in self.targets))
            soft = q[:, 0] - config.temperature * log_prob
            goal = config.reward_scale * reward[:, 0] + config.gamma * (1 - end[:, 0]) * soft
        inputs = torch.cat([obs, z, action], 1)
        return sum(mse_loss(critic(inputs)[:, 0], goal) for critic in self.critics)

    def actor_loss(self, obs: Tensor, z: Tensor, noise: Tensor) -> Tensor:
        """The policy's loss."""
        x = torch.cat([obs, z.detach()], 1)
        action, log_prob, mean, log_std = self.act(x, noise)
        q = torch.min(*(critic(torch.cat([x, action], 1)) for critic in self.critics))[:, 0]
        penalty = mean.square().mean() + log_std.square().mean()
        loss = (self.config.temperature * log_prob - q).mean()
        return loss + self.config.policy_penalty * penalty

    def weights(self) -> dict[str, Tensor]:
        """The weights, as the learner names them."""
        return {
            "encoder": flat(self.encoder), "policy": flat(self.policy),
            "critic": flat(*self.critics), "target": flat(*self.targets),
        }  # fmt: skip


def filled(config: PearlConfig, spec: Spec, device: str) -> Pearl:
    """A learner with noise in its replay."""
    learner = Pearl(spec, config, seed=0, device=device)
    for part in learner._replay():
        part.data.normal_(generator=torch.Generator(part.data.device).manual_seed(0))
        part.data[..., -1] = 0.0
        part.size.fill_(part.capacity)
    return learner


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure gradient steps a second, sampling included."""
    threads = set_threads(args.threads)
    config = PearlConfig(
        meta_batch=args.tasks, batch_size=args.batch, hidden=(args.hidden,) * 3,
        replay_capacity=2000, gradient_steps=args.steps,
    )  # fmt: skip
    spec = Spec(17, 6, 200)
    variants = {"fast": config, "fast_bfloat16": replace(config, bfloat16=True)}
    if args.device != "cpu":
        variants["fast_not_captured"] = replace(config, cuda_graph=False)
    contenders = {}
    for name, variant in variants.items():
        learner = filled(variant, spec, args.device)
        contenders[name] = lambda made=learner: timed(
            lambda: made._gradient_steps(Key(0)), args.steps
        )
    for name, per_task in (("eager", True), ("eager_flattened", False)):
        reference = EagerPearl(filled(config, spec, args.device), per_task=per_task)
        contenders[name] = lambda r=reference: timed(lambda: run(r, args.steps), args.steps)
    for contender in contenders.values():
        contender()
    figures = interleave(contenders, args.rounds)
    return {
        "tasks": args.tasks, "batch": args.batch, "hidden": args.hidden,
        "device": args.device, "clock": args.clock,
        "steps_per_second": {name: statistics.median(f) for name, f in figures.items()},
        "speedup": {n: paired_ratio(figures["fast"], f) for n, f in figures.items() if n != "fast"},
        "rounds": figures, **environment(threads),
    }  # fmt: skip


def run(reference: EagerPearl, steps: int) -> None:
    device = reference.learner.device
    draws, noise = (torch.Generator(device).manual_seed(k) for k in (0, 1))
    for _ in range(steps):
        reference.update(reference.sample_batch(draws, noise))
    reference.policy[-1].bias.sum().item()  # waits for a GPU


def timed(call: Any, steps: int) -> float:
    start = CLOCK()
    call()
    return steps / (CLOCK() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=300)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall",
        help="cpu: the process's own time, for one thread on a machine that others use",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    global CLOCK
    CLOCK = time.process_time if args.clock == "cpu" else time.perf_counter
    result = measure(args)
    for name, value in result["steps_per_second"].items():
        ratio = result["speedup"].get(name)
        tail = "" if ratio is None else f"   fast is {ratio:.2f}x"
        print(f"{name:<16}{value:8.2f} gradient steps/s{tail}")
    write_json(args.json, result)


if __name__ == "__main__":
    main()

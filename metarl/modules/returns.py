"""Returns, advantages and the linear-feature baseline, for all worlds and tasks at once.

A time limit is not a termination: `truncated` bootstraps from the value of the true successor,
`terminated` does not, and a diverged transition ends its episode without telling anything.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from metarl.base.errors import UserError
from metarl.base.versions import free_memory, gib
from metarl.worlds.rollout import Rollout

MOST_FEATURES = 1024
"""More than this and `LinearBaseline` fits otherwise, in memory that grows with F and not F²."""


def generalized_advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016), eq. 16, cut where an episode ends.

        δ_t = r_t + γ V(s'_t) [not terminated] − V(s_t)
        A_t = δ_t + γ λ A_{t+1} [not done]

    Args:
        reward: (T, B).
        value: (T, B) V(s_t).
        next_value: (T, B) V of the true successor.
        terminated: (T, B) bool, failures: their successor is worth nothing.
        done: (T, B) bool, every last transition of an episode; the advantage stops there.
        gamma: discount.
        gae_lambda: 1 is Monte Carlo, 0 is one step.

    Returns:
        (T, B) advantages.
    """
    delta = reward + gamma * next_value * ~terminated - value
    carry = gamma * gae_lambda * (~done).to(delta.dtype)
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        running = torch.addcmul(delta[t], carry[t], running)
        advantage[t] = running
    return advantage


class LinearBaseline:
    """A value function linear in fixed features, fitted anew to the data of each task.

    Features (Duan et al. 2016): [o, o², τ, τ², τ³, 1], o the observation clipped to ±10 and τ a
    hundredth of the steps since the episode began. The return of an episode that a time limit cut
    short continues with the value of its last state, which the same weights give: with n steps to
    the end, the least-squares fit of

        Σ_k γ^k r_{t+k}  ≈  w·(φ_t − γ^n φ_end)

    solves for both at once, where φ_end is left out after a termination.

    Observations of so many numbers that F is over `MOST_FEATURES` would take F² numbers a task,
    and would reproduce the returns of as many steps, so that no advantage would be left. Then the
    squares are left out. The weights of τ, τ², τ³ and 1 are fitted as above, and those of o to
    what remains, each element scaled to a root mean square of 1 and with ridge O, as if half of
    the variance that remains were noise; see `ridge_weights`.
    """

    def __init__(self, gamma: float, ridge: float = 1e-5) -> None:
        """Take the discount, and the ridge added to the normal equations."""
        self.gamma = gamma
        self.ridge = ridge
        self._claimed = 0

    def values(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Fit each task's weights to its rollouts and return V(s_t) and V(s'_t), (T, B) each."""
        wide = 2 * rollout.obs.shape[-1] + 4 > MOST_FEATURES
        self._claim(rollout, wide)
        if not wide:
            return self._fitted(rollout, rollout.obs, rollout.next_obs)[:2]
        none = rollout.obs[..., :0]
        value, next_value, (target, design, weights) = self._fitted(rollout, none, none)
        left = target - self._predict(rollout, design, weights)
        obs, ending = (part.clamp(-10.0, 10.0) for part in (rollout.obs, rollout.next_obs))
        design = self._targets(rollout, obs, ending)[1].mul_(rollout.valid[..., None])
        y = rollout.per_task(left * rollout.valid).flatten(1, 2).to(obs.dtype)
        weights = ridge_weights(rollout.per_task(design).flatten(1, 2), y)
        value += self._predict(rollout, obs, weights)
        next_value += self._predict(rollout, ending, weights)
        return value, next_value

    def _claim(self, rollout: Rollout, wide: bool) -> None:
        """Refuse a fit for which the memory is lacking; of a wide one say what it takes, once."""
        steps, size = rollout.reward.numel(), rollout.obs.shape[-1]
        features = 2 * size + 4
        need = (
            16 * steps * size if wide else 8 * (5 * steps + 4 * rollout.tasks * features) * features
        )
        if need <= self._claimed:
            return
        device = rollout.obs.device
        free = free_memory(device)
        if free is not None and need > free:
            raise UserError(
                f"the baseline of {rollout.tasks} tasks, {steps} steps and {size} observed numbers "
                f"needs {gib(need)}, but {device} has {gib(free)} free: lower rollouts_per_task or "
                "tasks_per_iteration, or observe fewer numbers"
            )
        self._claimed = need
        if wide:
            print(
                f"baseline: {rollout.tasks} tasks, {steps} steps x {size} observed numbers, "
                f"{gib(need)} on {device}", file=sys.stderr, flush=True,
            )  # fmt: skip

    def _fitted(
        self, rollout: Rollout, obs: Tensor, next_obs: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """V(s_t) and V(s'_t) of a direct fit, (T, B) each; its targets, design and weights."""
        time = rollout.episode_time()
        features = self._features(obs, time)
        ending = self._features(next_obs, time + 1)
        target, design = self._targets(rollout, features, ending)
        weights = self._solve(rollout, design, target)
        return (
            self._predict(rollout, features, weights),
            self._predict(rollout, ending, weights),
            (target, design, weights),
        )

    def _features(self, obs: Tensor, time: Tensor) -> Tensor:
        """(T, B, F) float64 features, F = 2 O + 4."""
        obs = obs.double().clamp(-10.0, 10.0)
        tau = time.double()[..., None] / 100.0
        return torch.cat((obs, obs**2, tau, tau**2, tau**3, torch.ones_like(tau)), dim=-1)

    def _targets(self, rollout: Rollout, features: Tensor, ending: Tensor) -> tuple[Tensor, Tensor]:
        """The discounted rewards to the end (T, B), and φ_t − γ^n φ_end (T, B, F)."""
        reward, done = rollout.reward.double(), rollout.done.clone()
        done[-1] = True
        known = rollout.truncated | ~rollout.done
        target = torch.empty_like(reward)
        design = torch.empty_like(features)
        gain, tail = torch.zeros_like(reward[0]), torch.zeros_like(features[0])
        for t in range(len(reward) - 1, -1, -1):
            ended = done[t]
            gain = reward[t] + self.gamma * torch.where(ended, 0.0, gain)
            if ended.any():
                tail = torch.where(ended[:, None], ending[t] * known[t][:, None], tail)
            tail = self.gamma * tail
            target[t], design[t] = gain, features[t] - tail
        return target, design

    def _solve(self, rollout: Rollout, design: Tensor, target: Tensor) -> Tensor:
        """(M, F) ridge regression; the ridge is raised tenfold for a task whose fit is singular."""
        mask = rollout.valid.double()
        x = rollout.per_task(design * mask[..., None]).flatten(1, 2)
        y = rollout.per_task(target * mask).flatten(1, 2)
        gram, moment = x.mT @ x, x.mT @ y[..., None]
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        ridge = torch.full((len(gram), 1, 1), self.ridge, dtype=gram.dtype, device=gram.device)
        factor, info = torch.linalg.cholesky_ex(gram + ridge * eye)
        for _ in range(60):  # from any ridge past any gram matrix of finite numbers
            if not info.any():
                break
            ridge = torch.where(info[:, None, None] > 0, ridge * 10.0, ridge)
            factor, info = torch.linalg.cholesky_ex(gram + ridge * eye)
        return torch.cholesky_solve(moment, factor)[..., 0]

    def _predict(self, rollout: Rollout, features: Tensor, weights: Tensor) -> Tensor:
        tasks, size = weights.shape
        grouped = features.reshape(len(features), tasks, -1, size)
        value = torch.einsum("tmef,mf->tme", grouped, weights)
        return value.reshape(features.shape[:2])


def ridge_weights(x: Tensor, y: Tensor, iterations: int = 200, tolerance: float = 1e-5) -> Tensor:
    """Ridge regression of each task on scaled columns, in memory linear in O.

    With S the scales that give each column of x a root mean square of 1, w = S u minimises
    ‖x S u − y‖² + O ‖u‖², by conjugate gradients on the normal equations, whose matrix is never
    formed. Its condition number is at most N + 1. Each task stops by itself, so its weights do not
    depend on the others.

    Args:
        x: (M, N, O).
        y: (M, N).
        iterations: at most.
        tolerance: of the residual, relative to xᵀy.

    Returns:
        (M, O) weights w.
    """
    size = x.shape[-1]
    rms = torch.linalg.vector_norm(x, dim=1) / x.shape[1] ** 0.5
    scale = torch.where(rms > 0, 1.0 / rms, 0.0)

    def times(u: Tensor) -> Tensor:
        ahead = x @ (scale * u)[..., None]
        return scale * (x.mT @ ahead)[..., 0] + size * u

    residual = scale * (x.mT @ y[..., None])[..., 0]
    solution, direction = torch.zeros_like(residual), residual.clone()
    square = residual.square().sum(1, keepdim=True)
    enough = tolerance**2 * square
    for _ in range(iterations):
        going = square > enough
        if not going.any():
            break
        moved = times(direction)
        step = torch.where(going, square / (direction * moved).sum(1, keepdim=True), 0.0)
        solution += step * direction
        residual = residual - step * moved
        after = torch.where(going, residual.square().sum(1, keepdim=True), square)
        direction = residual + torch.where(going, after / square, 0.0) * direction
        square = after
    return scale * solution

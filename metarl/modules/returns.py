"""Returns, advantages and the linear-feature baseline, for all worlds and tasks at once.

A time limit is not a termination: `truncated` bootstraps from the value of the true successor,
`terminated` does not, and a diverged transition ends its episode without telling anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.rollout import Rollout


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
    """

    def __init__(self, gamma: float, ridge: float = 1e-5) -> None:
        """Take the discount, and the ridge added to the normal equations."""
        self.gamma = gamma
        self.ridge = ridge

    def values(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Fit each task's weights to its rollouts and return V(s_t) and V(s'_t), (T, B) each."""
        time = rollout.episode_time()
        features = self._features(rollout.obs, time)
        ending = self._features(rollout.next_obs, time + 1)
        target, design = self._targets(rollout, features, ending)
        weights = self._solve(rollout, design, target)
        return (
            self._predict(rollout, features, weights),
            self._predict(rollout, ending, weights),
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

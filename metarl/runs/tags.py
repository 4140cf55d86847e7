"""What a metric is called in TensorBoard and in trackers: stable-baselines3's names and namespaces.

In metrics.csv, in reports and to callbacks a metric has its own, short name.
"""

from __future__ import annotations

from collections.abc import Mapping

TAGS = {
    "iteration": "time/iterations", "env_steps": "time/total_timesteps",
    "seconds": "time/time_elapsed", "env_steps_per_second": "time/fps",
    "seconds_sampling": "time/seconds_sampling", "seconds_update": "time/seconds_update",
    "megabytes_sent": "time/megabytes_sent", "return_before": "rollout/return_before",
    "return_after": "rollout/return_after", "diverged": "rollout/diverged",
}  # fmt: skip
MEAN_RETURN = "rollout/ep_rew_mean"
"""SB3's name of the mean return in training: here that after adaptation, ``return_after``."""
OF_ROLLOUTS = ("reward/", "curriculum/")
"""Groups of metrics that are about what was collected."""


def tag(name: str) -> str:
    """Return the tag of a metric: ``kl`` is ``train/kl``; a name that has a namespace keeps it."""
    if name in TAGS:
        return TAGS[name]
    if name.startswith(OF_ROLLOUTS):
        return f"rollout/{name}"
    return name if "/" in name else f"train/{name}"


def tagged(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return metrics by their tags, the mean return by SB3's name, too."""
    found = {tag(name): value for name, value in metrics.items()}
    if "return_after" in metrics:
        found[MEAN_RETURN] = metrics["return_after"]
    return found

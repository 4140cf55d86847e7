"""What stable-baselines3, CleanRL, rl_zoo3 and others call the settings that metarl has."""

from __future__ import annotations

from collections.abc import Collection

ELSEWHERE: dict[str, tuple[str, ...]] = {
    "total-timesteps timesteps n-timesteps num-timesteps total-steps max-steps steps":
        ("env-steps",),
    "n-iterations num-iterations n-iter iters n-updates updates": ("iterations",),
    "lr learning-rate": ("lr", "inner-lr", "max-kl"),
    "n-envs num-envs num-worlds envs n-steps num-steps rollout-length":
        ("tasks-per-iteration", "rollouts-per-task"),
    "n-tasks num-tasks meta-batch-size": ("tasks", "meta-batch", "tasks-per-iteration"),
    "batch-size minibatch-size": ("batch-size", "minibatches", "tasks-per-iteration"),
    "n-epochs num-epochs": ("epochs",),
    "buffer-size": ("replay-capacity",),
    "ent-coef entropy-coef": ("entropy-weight",),
    "vf-coef value-coef": ("value-weight",),
    "clip-range clip-coef": ("clip",),
    "target-kl": ("desired-kl", "max-kl"),
    "discount": ("gamma",),
    "lambda lam": ("gae-lambda",),
    "tau": ("target-rate",),
    "net-arch hidden-size hidden-sizes layers": ("hidden",),
    "eval-freq eval-every": ("evaluate-every",),
    "n-eval-episodes eval-episodes n-episodes num-episodes": ("episodes", "evaluate-episodes"),
    "n-eval-tasks": ("evaluate-tasks",),
    "save-freq save-every": ("checkpoint-every",),
    "wandb use-wandb wandb-project-name logger": ("track",),
    "log-dir logdir log-folder save-path save-dir output output-dir tensorboard-log":
        ("out",),
    "n-jobs num-threads num-workers workers": ("threads",),
    "gpu cuda": ("device",),
    "verbose quiet": ("progress",),
    "checkpoint load ckpt": ("resume",),
}  # fmt: skip
"""What other libraries call a setting -> ours for it, of which a command has some or none."""


def called_here(name: str, known: Collection[str]) -> list[str]:
    """Return what a setting of another library is called here; nothing if it is not known.

    Args:
        name: with hyphens, as are all of these.
        known: the settings that there are.
    """
    for theirs, ours in ELSEWHERE.items():
        if name in theirs.split() and (here := [one for one in ours if one in known]):
            return here
    return []

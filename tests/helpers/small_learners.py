"""Settings with which a learner's iteration takes a moment; their own are for hours."""

from typing import Any

SMALL: dict[str, dict[str, Any]] = {
    "amago": {
        "units": 8, "embedding": 8, "hidden": (8,), "gradient_steps": 2, "batch_trials": 6,
        "loss_steps": 5, "replay_trials": 20,
    },
    "cavia": {"hidden": (8,), "epochs": 2},
    "contextual-bc": {"hidden": (8,), "encoder_hidden": (8,), "updates": 2},
    "diayn": {"hidden": (8,), "epochs": 2, "skills": 3, "discriminator_hidden": (8,)},
    "distil": {"units": 8, "hidden": 8, "bptt": 15},
    "es-maml": {"hidden": (8,)},
    "finetune": {"hidden": (8,), "batch_size": 50},
    "ftml": {"hidden": (8,), "updates": 2, "update_tasks": 4, "buffer": 4, "samples": 6},
    "grbal": {
        "past": 3, "future": 2, "hidden": (8,), "candidates": 8, "plan_steps": 2, "updates": 2,
        "batch_size": 8, "replay_episodes": 40, "random_iterations": 0,
    },
    "learned-optimizer": {"hidden": (8,), "units": 5, "inner_steps": 2},
    "maml-trpo": {"hidden": (8,), "inner_steps": 2, "cg_iterations": 4},
    "mil": {"hidden": (8,), "updates": 2},
    "mole": {
        "past": 3, "future": 2, "hidden": (8,), "candidates": 8, "plan_steps": 2, "updates": 2,
        "batch_size": 8, "replay_episodes": 40, "random_iterations": 0, "components": 2,
    },
    "pearl": {
        "hidden": (8,), "encoder_hidden": (8,), "gradient_steps": 2, "meta_batch": 2,
        "batch_size": 8, "context_size": 4, "initial_episodes": 2, "replay_capacity": 300,
    },
    "ppo": {"hidden": (8,), "batch_size": 50},
    "promp": {"hidden": (8,), "inner_steps": 2, "epochs": 2, "exploration_credit": 0.1},
    "prototypes": {
        "units": 8, "embedding": 8, "hidden": (8,), "prototypes": 5, "encoder_steps": 5,
        "encoder_trials": 8, "encoder_updates": 2, "epochs": 1, "replay_trials": 40,
    },
    "rebal": {
        "units": 8, "hidden": (8,), "candidates": 8, "plan_steps": 2, "updates": 2, "batch_size": 8,
        "bptt": 5, "replay_episodes": 40, "random_iterations": 0,
    },
    "reptile": {"hidden": (8,), "inner_steps": 2},
    "rl2": {"units": 16, "hidden": 16, "epochs": 2},
    "rma": {"hidden": (8,), "history": 10, "teacher_iterations": 1, "epochs": 2},
    "varibad": {
        "units": 8, "embedding": 8, "hidden": (8,), "decoder_hidden": (8,), "beliefs": 3,
        "decoded_steps": 5, "vae_trials": 8, "vae_updates": 2, "epochs": 1, "replay_trials": 40,
    },
}  # fmt: skip
"""Learner -> settings; one that is not here is small by itself."""


def small(name: str, tasks: int, **more: Any) -> dict[str, Any]:
    """Return settings of a learner.

    Args:
        name: of the learner.
        tasks: that it trains on, for one that keeps them.
        more: settings of the test, which have their way.
    """
    pool = {"train_tasks": tasks} if name == "pearl" else {}
    return SMALL.get(name, {}) | pool | more

"""HalfCheetah, told the direction 5 m from the start, with and without a bonus for exploring.

    python experiments/half_cheetah_dir_sparse.py varibad --seed 1 --threads 1
    python experiments/half_cheetah_dir_sparse.py varibad-plain --seed 1 --threads 1

With ``--results experiments/results/exploration``, where the results of both are.

The settings are not tuned, so they are no presets.
"""

from metarl.commands.training.experiment import main
from metarl.runs.presets import Preset

PLAIN = {
    "env_steps": 800_000, "tasks_per_iteration": 25, "rollouts_per_task": 1, "evaluate_every": 10,
    "evaluate_tasks": 20,
}  # fmt: skip
BONUS = {
    "bonus_novelty": 3.0, "bonus_error": 1.0, "bonus_inputs": (0,), "bonus_steps": 800_000,
}  # fmt: skip

if __name__ == "__main__":
    settings = {"varibad": PLAIN | BONUS, "varibad-plain": PLAIN}
    presets = {name: Preset(name, "varibad", one) for name, one in settings.items()}
    raise SystemExit(main("half-cheetah-dir-sparse", presets))

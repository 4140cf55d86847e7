"""HalfCheetah at a velocity that only the reward reveals: ``half_cheetah_vel.py rl2``."""

from metarl.commands.training.experiment import main

if __name__ == "__main__":
    raise SystemExit(main("half-cheetah-vel"))

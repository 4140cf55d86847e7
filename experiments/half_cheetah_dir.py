"""HalfCheetah forward or backward, as the reward reveals: ``half_cheetah_dir.py rl2``."""

from metarl.commands.training.experiment import main

if __name__ == "__main__":
    raise SystemExit(main("half-cheetah-dir"))

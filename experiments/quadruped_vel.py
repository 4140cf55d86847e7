"""A quadruped that follows velocity commands on flat ground: ``… ppo``."""

from metarl.commands.training.experiment import main

if __name__ == "__main__":
    raise SystemExit(main("quadruped-vel"))

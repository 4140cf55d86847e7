"""HalfCheetah with unknown mass, friction, damping and strength: ``… rl2``."""

from metarl.commands.training.experiment import main

if __name__ == "__main__":
    raise SystemExit(main("half-cheetah-dynamics"))

"""HalfCheetah over unknown ground: slopes, roughness, steps and gaps: ``… rl2``."""

from metarl.commands.training.experiment import main

if __name__ == "__main__":
    raise SystemExit(main("half-cheetah-terrain"))

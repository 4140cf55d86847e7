"""Walker2d with links, joints and contacts of unknown sizes: ``walker2d_params.py rl2``."""

from metarl.commands.training.experiment import main

if __name__ == "__main__":
    raise SystemExit(main("walker2d-params"))

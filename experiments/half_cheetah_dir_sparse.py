"""HalfCheetah, told the direction 5 m from the start: ``half_cheetah_dir_sparse.py varibad``."""

from metarl.commands.training.experiment import main

if __name__ == "__main__":
    raise SystemExit(main("half-cheetah-dir-sparse"))

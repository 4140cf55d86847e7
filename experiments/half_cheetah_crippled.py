"""HalfCheetah with a dead motor: ``… grbal``; what adapting is worth: grbal_adaptation.py."""

from metarl.commands.training.experiment import main

if __name__ == "__main__":
    raise SystemExit(main("half-cheetah-crippled"))

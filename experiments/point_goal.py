"""A point robot and a goal that only the reward reveals: ``point_goal.py pearl``."""

from metarl.commands.training.experiment import main

if __name__ == "__main__":
    raise SystemExit(main("point-goal"))

"""A training run: settings in; checkpoints, metrics and evaluations in a folder out.

config: how long and how often.  runner: the loop.  callback: what the loop calls on the way.
run_folder: the files.  signals: Ctrl-C and its kin.  progress: what is printed meanwhile.
"""

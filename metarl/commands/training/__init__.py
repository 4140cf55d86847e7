"""`metarl train`: a run, or several.

train: one run, begun or gone on with.  sweep: seeds and settings side by side.  experiment: a
script of tuned settings as a command.
"""

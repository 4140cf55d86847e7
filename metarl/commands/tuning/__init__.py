"""`metarl tune`: Optuna searches settings; each trial is a `metarl train` of its own.

space: what is searched.  trial: what a trial's process does.  tune: the command.
"""

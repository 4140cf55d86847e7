"""Commands that let a trained run act: evaluate, adapt, probe and stream.

on_run: what they have in common, the flags above all.  against, simulators: what `evaluate` prints
where several runs, or two simulators, are compared.
"""

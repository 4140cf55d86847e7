"""What a run has to say: pages, plots, tables, model cards and agents to share.

run_summary: what a folder holds.   page, tasks, svg: `metarl report`.   plots: PNGs.
live: while a run trains.           export, model_card: `metarl export`.
"""

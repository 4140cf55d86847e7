"""From the files of runs to pages, charts, tables, model cards and agents to share.

run_summary: what a folder holds.  page, tasks, charts: `metarl report`.  model_card, agent:
`metarl export`.  callbacks: the page and the figures of a run that trains.  text: sentences.
"""

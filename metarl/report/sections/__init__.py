"""Parts of the page of a report, each made from files of its own in a run folder.

adapting: scores and probes.  streaming: tasks that change without notice.  overfitting: by number
of training tasks.  terms: the reward's terms, and a curriculum.  seeds: over seeds.
"""

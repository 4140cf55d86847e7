"""What a learner is, how it adapts to a task, and how it is judged and stored.

learner: the interface of every algorithm.  adaptation: rounds of acting and adapting to a task.
evaluation, statistics, report_fields: from tasks to a Report with intervals.  divergence: failed
physics in it.  adapted_policy: a policy to ask for actions.  checkpoint: the files.  registry,
agents: learners and trained agents by name.
"""

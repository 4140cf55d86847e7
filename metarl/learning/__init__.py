"""What a learner is, how it adapts to a task, and how it is stored.

learner: the interface of every algorithm.  adaptation: rounds of acting and adapting to a task.
adapted_policy: a policy to ask for actions.  checkpoint: the files.  registry, agents: learners and
trained agents by name.  demonstrations: episodes of an agent in a file.  demonstrator: records
them.  imitation: what learns from them.
"""

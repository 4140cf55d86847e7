"""From observations to actions: networks, their memories and their distributions.

task_mlp: M Gaussian policies as one tensor (M, D).  relu_mlp: flat ReLU networks.
memories: what carries a policy over a trial.  actor_critic: the heads on a memory.
belief: what is known of the task, as a distribution.  history: the last steps as an observation.
categorical: discrete actions.  normalise: running statistics.
"""

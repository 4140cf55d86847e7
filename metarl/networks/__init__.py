"""From observations to actions: networks, their memories and their distributions.

task_mlp: M Gaussian policies as one tensor (M, D).  relu_mlp: flat ReLU networks.
memory, actor_critic: recurrent and attention memories, and the heads on them.
categorical: discrete actions.  normalise: running statistics.
"""

"""From observations to actions: networks, their memories and their distributions.

task_mlp: M Gaussian policies as one tensor (M, D).  relu_mlp: flat ReLU networks.
backbone, recurrent, scan, attention, memory: what a memory is, the memories, and their names.
actor_critic: the heads on a memory.
categorical: discrete actions.  normalise: running statistics.
"""

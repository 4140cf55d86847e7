"""What learners are made of, each part usable without the others.

networks, mlp, memory, actor_critic: task-batched policies, flat ReLU networks, recurrent and
attention memories, and the network that puts heads on them.   normalise: running statistics.
returns, trust_region, ppo, sac: advantages and the updates.
replay, context: what PEARL stores, and what it infers.   cuda_graph: a step as one launch.
"""

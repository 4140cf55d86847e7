"""Adapting by gradients of the policy, for all tasks at once.

inner_loop: the steps on each task's rollouts.  trust_region, proximal: the updates through them.
"""

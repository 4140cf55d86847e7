"""From rollouts to updates, each part usable without the others.

returns: advantages and baselines.  inner_loop: adaptation by gradients, for all tasks at once.
trust_region, ppo, sac: the updates.  optim: Adam on flat parameters.  replay: stored transitions.
context: a posterior over latents.  settings: checked settings of a learner.  cuda_graph: a step as
one launch.
"""

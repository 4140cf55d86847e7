"""From rollouts to updates, each part usable without the others.

returns: advantages and baselines.  gradients: adaptation by gradients, and the update through it.
model_based: a model that adapts, and planning with it.
ppo, batched_ppo, sac: the updates.  optim: Adam on flat parameters.  replay, trials: stored
transitions.  context: a posterior over latents.  novelty: bonuses for exploring.  settings: checked
settings of a learner.  cuda_graph: a step as one launch.
"""

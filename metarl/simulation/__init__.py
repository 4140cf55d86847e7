"""One MuJoCo model in B copies: states in, states after a step out, all of it torch tensors.

backend: what worlds need of a simulator.  simulator: native MuJoCo's batch engine.
edits: what a task parameter does to the fields of a model.  controls: from actions to controls.
names: objects by name or pattern.  furnish: what a model file may lack.  home: how episodes begin.
root, ground, sensing: what a robot senses of its base, the ground and what it touches.
model_faults: what is wrong with a model, in words.
"""

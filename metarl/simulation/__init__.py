"""One MuJoCo model in B copies: states in, states after a step out, all of it torch tensors.

backend: what worlds need of a simulator.  simulator: native MuJoCo's batch engine.
edits: what a task parameter does to the fields of a model.  controls: from actions to controls.
model_faults: what is wrong with a model, in words.
"""

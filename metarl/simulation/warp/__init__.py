"""MuJoCo Warp: the same verbs as `Simulator`, with thousands of worlds on a GPU, in float32.

simulator: B worlds of one model on a device.  model: model fields that differ between worlds.
watch: what goes wrong in a step, found on the device.  buffers: how many contacts there is room
for.  install: the optional packages, and what they cannot do.

Nothing here is imported, and neither is Warp, until somebody asks for this simulator.
"""

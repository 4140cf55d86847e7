"""What learners that plan with a model share: transitions to learn from, the model, planning.

They differ in how the model adapts to the last transitions of a world.
"""

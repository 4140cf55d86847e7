"""What any robot can vary: parameters read off its model, for families that declare none.

dynamics: masses, friction, joints and motors (``+dynamics``).  fields: banks of height fields.
terrain: robots on them (``+terrain``).
"""

"""Worlds that decide on the simulator's device which of them begin anew.

worlds: `DeviceWorlds`, and when a family can have them.  schedule: when events are due.  noise:
that of actions.  In a step of theirs nothing waits for the device, and nothing is copied to it.
"""

"""Environments of another interpreter, whose packages cannot be installed beside ours.

worker: the file that the other interpreter runs.  client: its process, and the frames.
remote_env: one of its environments as a gymnasium.Env.  known: which interpreter.
families: Meta-World's benchmarks, and any gymnasium environment, as families.
"""

"""Agents, here and on the Hugging Face hub.

agents: lists those that go by a name.  push, pull: to and from the hub.  card: the model card in
the hub's format.  client: the hub's library, its errors, and which files an agent may have.
"""

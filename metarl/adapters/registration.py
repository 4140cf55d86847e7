"""gymnasium ids of the registered families: ``import metarl``, then `gymnasium.make`.

``half-cheetah-vel`` is ``metarl/HalfCheetahVel-v0``. Any other family, a product or one in a file,
is ``gymnasium.make("metarl/TaskFamily-v0", family="half-cheetah-vel+dynamics")``. gymnasium finds
no plug-ins by itself; ``gymnasium.make("metarl:metarl/HalfCheetahVel-v0")`` imports us first.
"""

from __future__ import annotations

import gymnasium

from metarl.base.plugins import plugins

ANY = "metarl/TaskFamily-v0"
"""The id that takes the family as an argument."""


def env_id(family: str) -> str:
    """Return the gymnasium id of a registered family."""
    return f"metarl/{''.join(word[:1].upper() + word[1:] for word in family.split('-'))}-v0"


def register() -> None:
    """Register every family, with its vector form."""
    ids = {env_id(name): {"family": name} for name in plugins("metarl.families")}
    for name, kwargs in {**ids, ANY: {}}.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                id=name,
                entry_point="metarl.adapters.gymnasium_env:GymEnv",
                vector_entry_point="metarl.adapters.gymnasium_vec:GymVectorEnv",
                kwargs=kwargs,
            )

# MuJoCo's bindings carry no types, so a checker sees none of their names; these are opaque.
from typing import Any

def __getattr__(name: str) -> Any: ...

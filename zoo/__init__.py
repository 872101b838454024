"""A model zoo for discrete media tokens: audio codecs, image tokenizers and token decoders under one API.

What a user calls stands here; each name is imported on first use, so that `import zoo` costs nothing.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.generation import generate
    from zoo.pipeline import reconstruct, tokenize
    from zoo.registry import Manifest, create, info, list_models, load

__version__ = version("media-token-zoo")
__all__ = ["Manifest", "create", "generate", "info", "list_models", "load", "reconstruct", "tokenize"]

_HOMES = {"generate": "zoo.generation", "reconstruct": "zoo.pipeline", "tokenize": "zoo.pipeline"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "zoo.registry")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

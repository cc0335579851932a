"""
Platforms: kinds of servables, by the name that a model config gives them.

Those of this package are in a table of platform.py; any other is an entry point of the
group `servable.platforms`.
"""

from servable.platforms.platform import (
    Platform,
    PlatformSourceAdapter,
    platform_factory,
    platform_names,
)

__all__ = [
    "Platform",
    "PlatformSourceAdapter",
    "platform_factory",
    "platform_names",
]

"""
Platforms: kinds of servables, by the name that a model config gives them.

They are plug-ins of the group `servable.platforms`; see servable.plugins.
"""

from servable.platforms.platform import (
    Platform,
    PlatformOptions,
    PlatformSourceAdapter,
    platform_factory,
    platform_names,
)

__all__ = [
    "Platform",
    "PlatformOptions",
    "PlatformSourceAdapter",
    "platform_factory",
    "platform_names",
]

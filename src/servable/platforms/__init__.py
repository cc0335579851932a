"""
Platforms: kinds of servables, by the name that a model config gives them.

A platform is an entry point of the group `servable.platforms`; those of this
package are registered in the same way as any other.
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

"""Fakes for those who write Loaders, Sources and Targets, and for our own tests."""

from servable.testing.fakes import (
    FakeClock,
    FakeLoader,
    FakeSource,
    FakeTarget,
    ManualPool,
)

__all__ = ["FakeClock", "FakeLoader", "FakeSource", "FakeTarget", "ManualPool"]

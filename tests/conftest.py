"""
What all tests share: how long hypothesis may take, which a busy machine decides, and
where servers keep what they decide.
"""

import atexit
import os
import tempfile

from hypothesis import HealthCheck, settings

settings.register_profile(
    "servable", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("servable")

_state = tempfile.TemporaryDirectory(prefix="servable-tests-")
atexit.register(_state.cleanup)
os.environ["XDG_STATE_HOME"] = _state.name

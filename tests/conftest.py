"""What all tests share: how long hypothesis may take, which a busy machine decides."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "servable", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("servable")

"""Where TensorFlow Serving's metrics page is shown: the MonitoringConfig message."""

from typing import Final

from servable.apis import monitoring_config_pb2
from servable.config.text_format import read_text_proto

DEFAULT_PROMETHEUS_PATH: Final = "/monitoring/prometheus/metrics"


def read_prometheus_path(path: str) -> str:
    """
    Return where the page is shown according to the text file at *path*; "": nowhere.

    Raises:
        ServingError: The file cannot be read, or is no MonitoringConfig message.
    """
    config = read_text_proto(path, monitoring_config_pb2.MonitoringConfig)
    if not config.prometheus_config.enable:
        return ""
    return config.prometheus_config.path or DEFAULT_PROMETHEUS_PATH

"""Metrics, traces and logs: the implementation of `ports.instrumentation`. Importing it loads neither the OpenTelemetry
SDK nor the Prometheus client; they come when they are used."""

from __future__ import annotations

from .instrumentation import Telemetry
from .settings import TelemetrySettings, read_settings

__all__ = ["Telemetry", "TelemetrySettings", "read_settings"]

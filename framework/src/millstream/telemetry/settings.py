"""What the environment says about telemetry: OpenTelemetry's own variables, and two of ours for logs.

| variable | meaning |
|---|---|
| `MILLSTREAM_LOG_LEVEL` | `debug`, `info` (default), `warning`, `error` |
| `MILLSTREAM_LOG_FORMAT` | `json`, `text`, or `auto` (default): text on a terminal, else JSON |
| `NO_COLOR` | set: text without colours |
| `OTEL_SDK_DISABLED` | `true`: no tracing; a caller's trace context is still passed on |
| `OTEL_TRACES_SAMPLER`, `…_ARG` | which traces are recorded; default `parentbased_always_on` |
| `OTEL_TRACES_EXPORTER` | `otlp` or `none`; default: `otlp` where an endpoint is set, else `none` |
| `OTEL_EXPORTER_OTLP_ENDPOINT` | the collector's base address; `/v1/traces` is added |
| `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` | the whole address for traces |
| `OTEL_EXPORTER_OTLP_HEADERS`, `…_TIMEOUT`, `…_COMPRESSION`, `…_PROTOCOL` | as specified, each also as `…_OTLP_TRACES_…` |
| `OTEL_SERVICE_NAME` | one name for all spans of this process; default: each service's own |
| `OTEL_RESOURCE_ATTRIBUTES` | `name=value,…`, percent-encoded, on every span |

Certificates (`OTEL_EXPORTER_OTLP_CERTIFICATE`, …) and the queue (`OTEL_BSP_…`) are read by the SDK itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, cast
from urllib.parse import unquote, urlsplit

import msgspec

from ..errors import Misconfigured
from .sampling import Sampler, sampler_from

__all__ = ["Compression", "ExportSettings", "LogFormat", "TelemetrySettings", "read_settings"]

LogFormat = Literal["json", "text", "auto"]
Compression = Literal["none", "gzip", "deflate"]
_DEFAULT_ENDPOINT = "http://localhost:4318"
_LEVELS = ("debug", "info", "warning", "error")


class ExportSettings(msgspec.Struct, frozen=True):
    """Where spans go and how. `timeout`: seconds for one request."""

    endpoint: str
    headers: Mapping[str, str]
    timeout: float
    compression: Compression
    resource: Mapping[str, str]
    service_name: str | None


class TelemetrySettings(msgspec.Struct, frozen=True):
    """All of it. `export` None: spans are not recorded."""

    log_level: str
    log_format: LogFormat
    colour: bool
    tracing: bool
    sampler: Sampler
    export: ExportSettings | None


def read_settings(env: Mapping[str, str]) -> TelemetrySettings:
    """The settings of an environment. An empty variable counts as unset, as OpenTelemetry specifies.

    Raises:
        Misconfigured: with every problem found.
    """
    reader = _Reader(env)
    settings = TelemetrySettings(
        log_level=reader.choice("MILLSTREAM_LOG_LEVEL", _LEVELS, "info"),
        log_format=cast(LogFormat, reader.choice("MILLSTREAM_LOG_FORMAT", ("auto", "json", "text"), "auto")),
        colour=not env.get("NO_COLOR"),
        tracing=env.get("OTEL_SDK_DISABLED", "").strip().lower() != "true",
        sampler=reader.sampler(),
        export=reader.export(),
    )
    if reader.problems:
        raise Misconfigured(reader.problems)
    return settings


class _Reader:
    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.problems: list[str] = []

    def choice(self, name: str, known: tuple[str, ...], default: str) -> str:
        value = self._env.get(name, "").strip().lower() or default
        if value not in known:
            self.problems.append(f"{name}={value!r}: use {', '.join(known)}")
        return value

    def sampler(self) -> Sampler:
        try:
            return sampler_from(self._env.get("OTEL_TRACES_SAMPLER"), self._env.get("OTEL_TRACES_SAMPLER_ARG"))
        except Misconfigured as error:
            self.problems += error.problems
            return Sampler()

    def export(self) -> ExportSettings | None:
        endpoint = self._endpoint()
        if endpoint is None:
            return None
        protocol = self._otlp("PROTOCOL") or "http/protobuf"
        if protocol != "http/protobuf":
            self.problems.append(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: only http/protobuf is spoken, port 4318")
        compression = (self._otlp("COMPRESSION") or "none").lower()
        if compression not in ("none", "gzip", "deflate"):
            self.problems.append(f"OTEL_EXPORTER_OTLP_COMPRESSION={compression!r}: use none, gzip or deflate")
        resource = self._pairs("OTEL_RESOURCE_ATTRIBUTES", self._env.get("OTEL_RESOURCE_ATTRIBUTES", ""))
        return ExportSettings(
            endpoint=endpoint,
            headers=self._pairs("OTEL_EXPORTER_OTLP_HEADERS", self._otlp("HEADERS") or ""),
            timeout=self._timeout(),
            compression=cast(Compression, compression),
            resource=resource,
            service_name=self._env.get("OTEL_SERVICE_NAME") or resource.get("service.name"),
        )

    def _endpoint(self) -> str | None:
        whole = self._env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        base = self._env.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        default = "otlp" if whole or base else "none"
        if self.choice("OTEL_TRACES_EXPORTER", ("otlp", "none"), default) != "otlp":
            return None
        endpoint = whole or f"{(base or _DEFAULT_ENDPOINT).removesuffix('/')}/v1/traces"
        try:
            parts = urlsplit(endpoint)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            valid = False
        if not valid:
            # The address is not repeated: it may carry credentials.
            self.problems.append("OTEL_EXPORTER_OTLP_ENDPOINT: write it as http://host:port or https://host:port")
        return endpoint

    def _timeout(self) -> float:
        text = self._otlp("TIMEOUT") or "10"
        try:
            timeout = float(text)
        except ValueError:
            timeout = 0.0
        if not (timeout > 0 and math.isfinite(timeout)):
            self.problems.append(f"OTEL_EXPORTER_OTLP_TIMEOUT={text!r}: write a number of seconds")
        return timeout

    def _otlp(self, name: str) -> str | None:
        return self._env.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or self._env.get(f"OTEL_EXPORTER_OTLP_{name}")

    def _pairs(self, name: str, text: str) -> dict[str, str]:
        pairs: dict[str, str] = {}
        for part in text.split(","):
            if not part.strip():
                continue
            key, equals, value = part.partition("=")
            if not equals or not key.strip():
                self.problems.append(f"{name}: write it as name=value,name=value, percent-encoded")
                break
            pairs[unquote(key.strip())] = unquote(value.strip())
        return pairs

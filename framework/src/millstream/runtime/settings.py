"""Settings: one frozen tree, read once from `millstream.toml`, the environment and the command line, in that order.

```toml
app = "shop.services:all"

[http]
port = 8080

[services.payments]          # what a service's own resources read; the framework does not look inside
provider = "simulated"
```

Every key can be given as `MILLSTREAM_` + its path in capitals, joined by two underscores: `MILLSTREAM_HTTP__PORT=9000`.
Durations read `"15s"`, `"7d"` or are numbers of seconds. A text `file:/run/secrets/x` stands for the content of that
file, without its last newline, in every URL, key and service setting; what came from a file is never printed.

Reading reports every problem it finds at once and changes nothing outside: no environment is read but the mapping that
is passed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ..errors import Misconfigured
from .settings_reader import DURATION, SECRET, Reader, Secret, redact

__all__ = [
    "Auth",
    "Consumption",
    "Http",
    "Secret",
    "Settings",
    "StoreSettings",
    "Telemetry",
    "TransportSettings",
    "load_settings",
    "read_settings",
]

Seconds = Annotated[float, msgspec.Meta(extra={DURATION: True})]
"""Seconds in code; in a file also `"15s"` or `"7d"`."""
SecretText = Annotated[str, msgspec.Meta(extra={SECRET: True})]
"""Text that may be a `file:` reference and that `redacted()` hides where it is a secret."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Section(msgspec.Struct, frozen=True):
    """A part of the tree. Its repr is safe to log."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({redact(self)})"


class Http(_Section, frozen=True):
    """The HTTP edge."""

    host: str = "127.0.0.1"
    port: int = 8080
    """0 takes a free one; `up` prints it and writes it to `admin.json` in the data folder."""
    drain_delay: Seconds = 0.5
    """After SIGTERM: how long requests are still accepted while readiness says 503, so that balancers notice. Set it
    above the balancer's probe interval."""
    grace: Seconds = 30.0
    """After SIGTERM: the time until the process is gone, whatever happens. Below what the supervisor grants."""
    body_limit_bytes: int = 1_048_576
    admin_beyond_loopback: bool = False
    """Whether the admin API answers callers from other machines (they need the operator role either way)."""

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in LOOPBACK


class StoreSettings(_Section, frozen=True):
    """Where each service keeps its data."""

    url: SecretText = "sqlite"
    """The adapter, with its address: `sqlite` keeps one file per service in the data folder."""


class TransportSettings(_Section, frozen=True):
    """The log between services (`[transport]`)."""

    url: SecretText = "log"
    """The adapter, with its address: `log` is the embedded log in the data folder, `memory` keeps nothing."""
    partitions: int = 8
    """Of a topic that does not exist yet. More of them let more workers share a topic; changing the count later is
    drain and switch."""
    retention: Seconds = 3 * 86_400.0
    """How long records stay that every subscription has read; unread ones stay regardless (rule L4)."""


class Consumption(_Section, frozen=True):
    """How subscriptions read (`[consumption]`)."""

    batch_size: int = 500
    batch_time: Seconds = 0.05
    """A batch is cut after this time, so that one slow message does not hold the commit of the others."""
    lease: Seconds = 15.0
    """How long a claim outlives a worker that stopped renewing it: the delay of a takeover."""
    inbox_retention: Seconds = 7 * 86_400.0
    """How long a copy of a message is recognised. Above the log's retention plus the longest retry (`millstream check`)."""
    max_parked: int = 1_000_000
    """Parked messages per partition; beyond it the partition stops reading and raises an alarm (rule C11)."""


class Auth(_Section, frozen=True):
    """Who signs bearer tokens. Without `jwks` and `public_key`: a development key in the data folder."""

    jwks: SecretText = ""
    """URL of the issuer's JSON Web Key Set, or path of a file with one; a relative path counts from the data folder."""
    public_key: SecretText = ""
    """A public key in PEM, usually `file:/etc/millstream/issuer.pem`."""
    issuer: str = ""
    audience: str = ""
    roles_claim: str = "roles"
    tenant_claim: str = "tenant"

    @property
    def development(self) -> bool:
        """Whether tokens of `millstream token` are accepted."""
        return not self.jwks and not self.public_key


class Telemetry(_Section, frozen=True):
    """Logs, metrics and traces. OTLP export follows the usual `OTEL_*` variables."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"
    sample: float = 0.01
    """Share of new traces that are recorded; a caller's own decision in `traceparent` wins. A recorded span costs
    30 µs, an unsampled one nothing."""


class Settings(_Section, frozen=True):
    """Everything that is configuration and not code."""

    app: str = "millstream_services.payments_path:all"
    """Import path of the services: `module:name` of a `Service` or a sequence of them."""
    data: Path = Path("var")
    """Folder of everything that is kept on this machine."""
    only: tuple[str, ...] = ()
    """Names of the services of `app` that this process runs; none named: all of them."""
    start: Literal["earliest", "now"] | None = None
    """Where subscriptions begin that a used store does not know; without it such a name refuses to start."""
    http: Http = Http()
    store: StoreSettings = StoreSettings()
    transport: TransportSettings = TransportSettings()
    consumption: Consumption = Consumption()
    auth: Auth = Auth()
    telemetry: Telemetry = Telemetry()
    services: dict[str, dict[str, Any]] = {}

    def service(self, name: str) -> dict[str, Any]:
        """The free settings of a service. From the environment they are texts: convert with `strict=False`."""
        return {**self.services.get(name.replace("-", "_"), {}), **self.services.get(name, {})}

    @property
    def development_key(self) -> Path:
        """Where the key lies that `millstream token` signs with."""
        return self.data / "development.key"

    @property
    def admin_file(self) -> Path:
        """Where `up` tells the CLI its address and admin token; readable by the owner only."""
        return self.data / "admin.json"

    def redacted(self) -> dict[str, Any]:
        """The tree as plain values for printing, secrets hidden."""
        return redact(self)


def load_settings(
    path: Path | None = None, env: Mapping[str, str] | None = None, overrides: Mapping[str, object] | None = None
) -> Settings:
    """Read a file (None: no file), then `MILLSTREAM_*` of `env`, then `overrides` by dotted key (None values: not set).

    Raises:
        Misconfigured: every problem found: unreadable files, unknown keys with the nearest known one, wrong types,
            values out of range, settings that contradict each other.
    """
    settings, problems = read_settings(path, env, overrides)
    if problems:
        raise Misconfigured(problems)
    return settings


def read_settings(
    path: Path | None = None, env: Mapping[str, str] | None = None, overrides: Mapping[str, object] | None = None
) -> tuple[Settings, list[str]]:
    """The same for those who go on looking for problems: what cannot be read keeps its default."""
    reader = Reader(Settings)
    reader.add_file(path)
    reader.add_environment(env or {})
    reader.add_overrides(overrides or {})
    settings = reader.build(Settings)
    return settings, [*reader.problems, *_contradictions(settings)]


def _contradictions(settings: Settings) -> list[str]:
    http, transport, consumption, auth = settings.http, settings.transport, settings.consumption, settings.auth
    module, _, name = settings.app.partition(":")
    rules = [
        (bool(module and name), f'app = "{settings.app}": write it as "package.module:name"'),
        (0 <= http.port <= 65_535, f"http.port = {http.port}: a port is 0 to 65535"),
        (http.drain_delay >= 0, f"http.drain_delay = {http.drain_delay}: not below 0"),
        (
            http.grace >= http.drain_delay + 3,
            f"http.grace = {http.grace}: at least 3 s above http.drain_delay ({http.drain_delay} s), to leave time to drain",
        ),
        (http.body_limit_bytes > 0, f"http.body_limit_bytes = {http.body_limit_bytes}: at least 1"),
        (transport.partitions >= 1, f"transport.partitions = {transport.partitions}: at least 1"),
        (transport.retention >= 0, f"transport.retention = {transport.retention}: not below 0"),
        (consumption.batch_size >= 1, f"consumption.batch_size = {consumption.batch_size}: at least 1"),
        (consumption.lease >= 1, f"consumption.lease = {consumption.lease}: at least 1 s"),
        (
            0 < consumption.batch_time <= consumption.lease / 3,
            f"consumption.batch_time = {consumption.batch_time}: above 0 and at most a third of consumption.lease",
        ),
        (consumption.inbox_retention > 0, f"consumption.inbox_retention = {consumption.inbox_retention}: above 0"),
        (consumption.max_parked >= 1, f"consumption.max_parked = {consumption.max_parked}: at least 1"),
        (not (auth.jwks and auth.public_key), "auth: give either jwks or public_key, not both"),
        (0 <= settings.telemetry.sample <= 1, f"telemetry.sample = {settings.telemetry.sample}: a share from 0 to 1"),
    ]
    return [problem for holds, problem in rules if not holds]

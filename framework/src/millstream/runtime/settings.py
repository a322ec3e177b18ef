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
    "Grpc",
    "Http",
    "Secret",
    "Settings",
    "Split",
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
    admin_token: SecretText = ""
    """What the CLI shows to the admin API; without it each start makes a new one. Several processes on one port need a
    common one, which `up --split` sees to."""
    public_url: str = ""
    """Where clients reach the system, when that is not this process: another process's edge, or a proxy."""
    edge: bool = False
    """Whether this process of several answers for the whole system: probes, metrics, documents, admin API and routes of
    the other services are forwarded to their processes."""

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in LOOPBACK


class Grpc(_Section, frozen=True):
    """Contracts between processes (`[grpc]`)."""

    listen: str = ""
    """`host:port` to serve this process's contracts on; port 0 takes a free one. Without it nobody can call them from
    outside. Beyond loopback it needs the certificates."""
    services: dict[str, str] = {}
    """Where the other services serve theirs: `orders = "10.0.0.5:9001,10.0.0.6:9001"`, one address for each worker."""
    cert: SecretText = ""
    """Mutual TLS: this process's certificate, its `key`, and the `ca` that signs those of all services. Paths of PEM
    files; a `file:` reference works, too. Without them: a key file in the data folder, on loopback only."""
    key: SecretText = ""
    ca: SecretText = ""
    peers: tuple[str, ...] = ()
    """Names of certificates that may speak for other callers; none named: all that the `ca` signed."""
    client_roles: tuple[str, ...] = ("service",)
    """A client with a bearer token of its own needs one of these roles; none named: no such clients."""
    reflection: bool = True


class Split(_Section, frozen=True):
    """`millstream up --split`: each service as its own process."""

    workers: int = 1
    """Processes of each service. More than one needs a store that several processes can share."""
    workers_of: dict[str, int] = {}
    """The same for single services: `orders = 3`."""
    edge: str = ""
    """The service whose processes answer on the port; without it the first that declares routes."""


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
    grpc: Grpc = Grpc()
    split: Split = Split()
    store: StoreSettings = StoreSettings()
    transport: TransportSettings = TransportSettings()
    consumption: Consumption = Consumption()
    auth: Auth = Auth()
    telemetry: Telemetry = Telemetry()
    services: dict[str, dict[str, Any]] = {}
    intakes: dict[str, SecretText] = {}
    """The queue of each intake by its name, for instance `legacy = "rabbitmq://…?queue=legacy"`; `none` leaves it out."""
    process: str = ""
    """Name of this process among several on one data folder, such as `orders-0`."""
    supervised: bool = False
    """Whether to stop when standard input closes: set by `up --split`, whose processes must not outlive it."""

    def service(self, name: str) -> dict[str, Any]:
        """The free settings of a service. From the environment they are texts: convert with `strict=False`."""
        return {**self.services.get(name.replace("-", "_"), {}), **self.services.get(name, {})}

    def intake(self, name: str) -> str | None:
        """The queue of an intake; None where there is none. In the environment `_` stands for `-`, and what is said there
        is the later word."""
        return self.intakes.get(name.replace("-", "_"), self.intakes.get(name))

    @property
    def development_key(self) -> Path:
        """Where the key lies that `millstream token` signs with."""
        return self.data / "development.key"

    @property
    def grpc_key(self) -> Path:
        """What processes on this machine prove themselves to each other with, where there are no certificates."""
        return self.data / "grpc.key"

    @property
    def admin_file(self) -> Path:
        """Where `up` tells the CLI its address and admin token; readable by the owner only."""
        return self.data / "admin.json"

    @property
    def processes(self) -> Path:
        """Folder in which each of several processes tells the others and the CLI the same."""
        return self.data / "processes"

    @property
    def process_file(self) -> Path:
        """This process's own file among them."""
        return self.processes / f"{self.process}.json" if self.process else self.admin_file

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
        (settings.split.workers >= 1, f"split.workers = {settings.split.workers}: at least 1"),
        *(
            (count >= 1, f"split.workers_of.{name} = {count}: at least 1")
            for name, count in settings.split.workers_of.items()
        ),
        *(
            (_is_address(address), f"{name} = {address!r}: write it as host:port")
            for name, address in _addresses(settings)
        ),
        (0 <= settings.telemetry.sample <= 1, f"telemetry.sample = {settings.telemetry.sample}: a share from 0 to 1"),
    ]
    return [problem for holds, problem in rules if not holds]


def _addresses(settings: Settings) -> list[tuple[str, str]]:
    found = [("grpc.listen", settings.grpc.listen)] if settings.grpc.listen else []
    for name, workers in settings.grpc.services.items():
        found += [(f"grpc.services.{name}", worker.strip()) for worker in workers.split(",")]
    return found


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and int(port) <= 65_535

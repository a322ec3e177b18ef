"""`millstream check`: everything that is wrong, at once, before it matters."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

from cyclopts import Parameter

from ..errors import MillstreamError, Misconfigured
from ..http.admin_file import read_admin_file
from ..runtime.settings import Settings, read_settings
from ..service.service import Service
from .checks.declarations import check_declarations, check_retention
from .checks.engines import check_engines
from .checks.findings import Finding, Findings
from .exits import Exit, NotReachable
from .options import Configured, Json, Remote, config_file
from .output import print_json, table, write
from .remote import connect
from .services import load_services

__all__ = ["check", "examine"]


def check(
    app: Annotated[str | None, Parameter(help="Import path of the services [default: from the settings].")] = None,
    /,
    *,
    settings: Annotated[
        bool, Parameter(negative=(), help="Also print the settings that apply, secrets hidden.")
    ] = False,
    json: Json = False,
    where: Configured = Configured(),  # noqa: B008 - immutable
) -> int:
    """List everything that is wrong: settings, declarations, engines, retention. Exits with 1 when there is a problem."""
    overrides = {"data": where.data, "app": app}
    found, problems = read_settings(config_file(where.config), os.environ, overrides)
    findings = Findings()
    findings.problem("settings", *problems)
    asyncio.run(examine(found, findings))
    failed = bool(findings.of("problem"))
    if json:
        report: dict[str, object] = {"ok": not failed, "findings": findings.found}
        print_json({**report, "settings": found.redacted()} if settings else report)
    else:
        _print(findings.found, found if settings else None)
    return Exit.PROBLEMS if failed else Exit.OK


async def examine(settings: Settings, findings: Findings) -> None:
    """Look at everything that the settings lead to."""
    services: list[Service] = []
    try:
        services = load_services(settings)
    except Misconfigured as error:
        findings.problem("app", *error.problems)
    except Exception as error:  # noqa: BLE001 - whatever the user's module raises while it is imported is what is wrong
        findings.problem("app", f'app = "{settings.app}": importing it raises {type(error).__name__}: {error}')
    check_declarations(services, findings)
    check_retention(services, settings, findings)
    _check_security(settings, findings)
    try:
        running = _running(settings)
    except Misconfigured as error:
        findings.problem("data", *error.problems)
        running = None
    if running is None:
        await check_engines(services, settings, findings)
    else:
        findings.ok("engines", f"in use by the process at {running}, which checked them when it started")


def _check_security(settings: Settings, findings: Findings) -> None:
    http, auth = settings.http, settings.auth
    if auth.development and not http.on_loopback:
        findings.problem(
            "security",
            f"http.host = {http.host} is open to other machines while tokens of the development key are accepted: set "
            "auth.jwks or auth.public_key",
        )
    if http.admin_beyond_loopback and not http.on_loopback:
        findings.warn("security", "http.admin_beyond_loopback: operators may use the admin API from other machines")
    key = settings.development_key
    if auth.development and key.exists() and key.stat().st_mode & 0o077:
        findings.problem("security", f"{key}: others than its owner may read this key; run chmod 600 {key}")


def _running(settings: Settings) -> str | None:
    """The address of a process that runs on this data folder and answers."""
    known = read_admin_file(settings.admin_file)
    if known is None:
        return None
    try:
        connect(Remote(url=known.url, token=known.token)).get("/admin/topics")
    except NotReachable:
        return None
    except MillstreamError:
        return known.url  # it answers, if only to refuse
    return known.url


def _print(found: list[Finding], settings: Settings | None) -> None:
    if settings is not None:
        table("Settings", ("key", "value"), sorted(_flat("", settings.redacted())))
        write("")
    marks = {"ok": "ok", "warning": "warning", "problem": "PROBLEM"}
    table("Check", ("", "area", ""), ((marks[f.level], f.area, f.what) for f in found))
    problems = sum(f.level == "problem" for f in found)
    warnings = sum(f.level == "warning" for f in found)
    write(f"{problems} problem(s), {warnings} warning(s)")


def _flat(prefix: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        rows: list[tuple[str, str]] = []
        for key, inner in value.items():  # pyright: ignore[reportUnknownVariableType] - the redacted tree is plain JSON
            rows += _flat(f"{prefix}.{key}" if prefix else str(key), inner)  # pyright: ignore[reportUnknownArgumentType] - as above
        return rows
    return [(prefix, "" if value is None else str(value))]

"""`millstream token`: one bearer token on one line, signed with the development key of the data folder."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from ..errors import Misconfigured
from .options import Configured, Json
from .output import print_json, write

__all__ = ["token"]


def token(
    *,
    subject: Annotated[str, Parameter(help="Who the token stands for.")],
    role: Annotated[tuple[str, ...], Parameter(help="A role, such as operator; may be given several times.")] = (),
    lifetime: Annotated[str, Parameter(help="How long it is valid.")] = "24h",
    tenant: Annotated[str | None, Parameter(help="Tenant of the subject.")] = None,
    json: Json = False,
    where: Configured = Configured(),  # noqa: B008 - immutable
) -> None:
    """Print a bearer token for development: `curl -H "Authorization: Bearer $(millstream token --subject ann)"`."""
    from ..clock import SystemClock
    from ..http.development import development_key, issue_token

    settings = where.settings()
    if not settings.auth.development:
        raise Misconfigured("tokens are verified with the issuer's keys here ([auth]): get one from the issuer")
    key = development_key(settings.development_key)
    signed = issue_token(key, subject, role, lifetime, tenant, clock=SystemClock())
    if json:
        print_json({"token": signed})
    else:
        write(signed)

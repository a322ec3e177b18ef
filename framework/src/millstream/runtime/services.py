"""From an import path to declared services: `shop.services:all` names a `Service` or a sequence of them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import cast

from ..errors import Misconfigured
from ..service.service import Service

__all__ = ["load_services"]


def load_services(app: str) -> list[Service]:
    """Import the services that `app` names.

    Raises:
        Misconfigured: no such module or name, or something there is no service. An error inside the module is raised
            as it is, so that its traceback shows where.
    """
    module_name, _, name = app.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        # What is missing may also be something that the module itself imports: that is the author's traceback.
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise Misconfigured(f'app = "{app}": there is no module {error.name!r} on the import path') from error
    found = getattr(module, name, None)
    if isinstance(found, Service):
        return [found]
    members = list(cast(Iterable[object], found)) if isinstance(found, Iterable) else []
    services = [member for member in members if isinstance(member, Service)]
    if not services or len(services) != len(members):
        raise Misconfigured(
            f'app = "{app}": {name or "(no name)"} is no service and no sequence of services{_there_are(module)}'
        )
    return services


def _there_are(module: ModuleType) -> str:
    known = sorted(name for name, value in vars(module).items() if isinstance(value, Service))
    return f"; services in {module.__name__} are {', '.join(known)}" if known else f"; {module.__name__} declares none"

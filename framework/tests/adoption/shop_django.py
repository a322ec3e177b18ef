"""Django, set up in the process of the tests, with connections made for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.db import connections, transaction
from millstream.adoption import Outbox

settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}, USE_TZ=True)
django.setup()

databases: dict[str, dict[str, Any]] = cast(Any, connections).settings
_number = itertools.count(1)


@contextmanager
def django_connection(url: str) -> Iterator[Any]:
    """Django's connection to a database, of this thread."""
    alias = f"shop{next(_number)}"
    parts = urlsplit(url)
    found: dict[str, Any] = {**databases["default"]}
    if parts.scheme == "sqlite":
        found |= {"ENGINE": "django.db.backends.sqlite3", "NAME": parts.path}
    else:
        found |= {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": parts.path[1:],
            "USER": parts.username,
            "HOST": parts.hostname,
            "PORT": parts.port,
        }
    databases[alias] = found
    try:
        yield connections[alias]
    finally:
        connections[alias].close()
        del connections[alias]
        del databases[alias]


def atomic(connection: Any) -> AbstractContextManager[None]:
    """Django's block, with a type: Django has none."""
    return cast(Any, transaction).atomic(using=connection.alias)


def django_publishes(outbox: Outbox, connection: Any, events: Sequence[object]) -> None:
    """Publish in one transaction."""
    with atomic(connection):
        for event in events:
            outbox.publish(event, connection=connection)

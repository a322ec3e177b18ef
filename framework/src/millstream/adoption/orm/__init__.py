"""A store over the application's own SQLAlchemy engine: handlers work with its session, in Millstream's transaction.

Start with `store.py`; `session.py` is one transaction, `drivers.py` what differs between asyncpg and psycopg.
"""

from .store import SqlalchemyStore

__all__ = ["SqlalchemyStore"]

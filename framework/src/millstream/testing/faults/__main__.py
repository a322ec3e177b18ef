"""The proxy's process: `python -m millstream.testing.faults PORT HOST UPSTREAM_PORT SEED`, as `FaultProxy` starts it."""

import asyncio
import sys

from .wire import serve

asyncio.run(serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))

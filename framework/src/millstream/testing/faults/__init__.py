"""A bad network between a client and a server, made to order: a TCP proxy that delays, cuts, tears and keeps silent.

```python
with FaultProxy(server_port) as proxy:
    ...  # clients connect to proxy.port
    for episode in episodes(seed=7, count=20):
        proxy.play(episode)  # the fault comes, lasts, and is healed
```

`episodes` draws a plan from a seed: the same seed, the same faults in the same order and length. When a byte passes is
still up to the machine, so a plan can be repeated, and a run cannot.
"""

from .plan import KINDS, Episode, episodes
from .proxy import FaultProxy, Passed

__all__ = ["KINDS", "Episode", "FaultProxy", "Passed", "episodes"]

"""Real engines for tests: each starts on free loopback ports with its data in a folder, and can be killed and restarted.

```python
with NatsServer(tmp_path) as nats:
    ...  # nats.url
    nats.kill()  # SIGKILL, as a crash does
    nats.start()  # the same ports, the same data
```
"""

"""One conformance suite per port. An adapter keeps the port's promises when it passes the suite.

Derive from `TransportConformance` or `StoreConformance` in a test file, override the fixture `make`, and pytest runs
every promise against the adapter:

```python
# conftest.py
def pytest_configure(config):
    config.pluginmanager.register(ConformancePlugin(results=None), "millstream-conformance")


# test_my_transport.py
class TestMyTransport(TransportConformance):
    @pytest.fixture
    def make(self, tmp_path):
        return lambda: MyTransport(tmp_path / "log")
```

It needs pytest with pytest-asyncio in auto mode. A promise that the engine cannot keep is skipped only by what the
adapter declares in its capabilities; any other skip is a failure.
"""

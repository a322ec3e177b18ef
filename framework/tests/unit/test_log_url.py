"""Where the embedded log's URL says that its file lies."""

from __future__ import annotations

from pathlib import Path

import pytest
from millstream.clock import SystemClock
from millstream.errors import Misconfigured
from millstream.ports.instrumentation import Silent
from millstream.runtime.adapters import AdapterContext, open_transport


@pytest.mark.parametrize("url", ["log", "log:"])
async def test_without_a_path_the_log_lies_in_the_data_folder(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    async with open_transport(url, AdapterContext(data, SystemClock(), Silent())):
        assert (data / "log.db").exists()
    assert list(elsewhere.iterdir()) == []


async def test_a_path_of_its_own(tmp_path: Path) -> None:
    chosen = tmp_path / "chosen.db"
    async with open_transport(f"log://{chosen}?keep=2d", AdapterContext(tmp_path, SystemClock(), Silent())):
        assert chosen.exists()


def test_an_unknown_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="'kepe'"):
        open_transport("log:?kepe=2d", AdapterContext(tmp_path, SystemClock(), Silent()))


def test_an_unknown_adapter_names_the_installed_ones(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="installed are kafka, log, memory, nats"):
        open_transport("kafak://x", AdapterContext(tmp_path, SystemClock(), Silent()))

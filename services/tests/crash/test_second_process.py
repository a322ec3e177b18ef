"""One data folder, one process; the command line reaches the running system through its admin address."""

from __future__ import annotations

from millstream.cli.load.connection import Address
from running import Up, free_port


def test_a_second_process_on_the_same_folder_is_refused_and_the_command_line_works(up: Up) -> None:
    up.start()
    assert up.process is not None
    first, up.address = up.process, Address("127.0.0.1", free_port())
    second = up.spawn()
    try:
        assert second.wait(30) == 2
    finally:
        second.kill()
        assert second.stdout is not None
        second.stdout.close()
    assert f"in use by process {first.pid}" in up.said()
    assert "--data" in up.said()
    assert first.poll() is None
    assert up.cli_json("lanes") is not None
    assert up.cli_json("dlq", "list")[0]["dead_letters"] == []
    assert up.cli_json("outbox") is not None
    assert up.stop() == 0


def test_the_same_port_is_refused_as_well(up: Up) -> None:
    up.start()
    other = Up(up.folder / "other")
    other.folder.mkdir()
    other.address = up.address
    other.begin()
    assert other.wait(30) == 2
    assert f"cannot listen on 127.0.0.1:{up.address.port}" in other.said()

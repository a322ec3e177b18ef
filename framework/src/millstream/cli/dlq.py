"""`millstream dlq`: dead letters: what died, why, and letting it go again."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter

from ..errors import Misconfigured
from .exits import Exit
from .options import Json, Remote
from .output import age, hint, moment, print_json, progress, table, write
from .remote import AdminClient, connect, segment

__all__ = ["app"]

PAGE = 500

app = App(name="dlq")

Ids = Annotated[tuple[str, ...], Parameter(help="Ids of dead letters, such as orders:17.")]
All = Annotated[bool, Parameter(name="--all", negative=(), help="Every dead letter that the conditions mean.")]
DryRun = Annotated[bool, Parameter(negative=(), help="Say what would be done, and do nothing.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Which:
    """Conditions; all that are given must hold."""

    service: Annotated[str | None, Parameter(help="Of this service.")] = None
    subscription: Annotated[str | None, Parameter(help="Of this subscription.")] = None
    topic: Annotated[str | None, Parameter(help="From this topic.")] = None
    key: Annotated[str | None, Parameter(help="With this key.")] = None
    tenant: Annotated[str | None, Parameter(help="Of this tenant.")] = None
    type: Annotated[str | None, Parameter(help="Of this event type.")] = None
    reason: Annotated[str | None, Parameter(help="Whose reason contains this text.")] = None
    older: Annotated[str | None, Parameter(help="Dead for longer than this: 1h.")] = None
    newer: Annotated[str | None, Parameter(help="Dead for less than this: 15m.")] = None


@app.command(name="list")
def list_(
    *,
    which: Which = Which(),
    limit: Annotated[int, Parameter(help="How many at most; 0 for all.")] = 100,
    json: Json = False,
    where: Remote = Remote(),  # noqa: B008 - immutable
) -> None:
    """List dead letters, oldest first."""
    client, found, after = connect(where), list[dict[str, Any]](), None
    while limit == 0 or len(found) < limit:
        size = PAGE if limit == 0 else min(PAGE, limit - len(found))
        page = client.get("/admin/dlq", **asdict(which), after=after, limit=size)
        found += page["dead_letters"]
        after = page["next"]
        if after is None:
            break
    if json:
        print_json({"dead_letters": found, "next": after})
        return
    if not found:
        write("No dead letters.")
        return
    columns = ("id", "subscription", "topic", "key", "type", "attempts#", "dead since", "holds", "why")
    table("Dead letters", columns, (_row(letter) for letter in found))
    if after is not None:
        hint(f"There are more: --limit 0 shows all, or continue behind {after}.")


@app.command
def show(id: str, /, *, json: Json = False, where: Remote = Remote()) -> None:  # noqa: A002, B008 - the word users know; immutable
    """Show one dead letter with its message and its last error.

    Parameters
    ----------
    id: str
        Such as orders:17.
    """
    letter = connect(where).get(f"/admin/dlq/{segment(id)}")
    if json:
        print_json(letter)
        return
    write(f"{letter['id']}  {letter['type']} {letter['message_id']} from {letter['source']}")
    write(f"  in         {letter['topic']}/{letter['partition']} at {letter['position']}, key {letter['key']!r}")
    write(f"  read by    {letter['service']}/{letter['subscription']}, {letter['attempts']} attempts")
    write(f"  dead since {moment(letter['dead_since_us'])} ({age(letter['dead_since_us'])} ago)")
    write(f"  lane       {'held' if letter['holds_lane'] else 'goes on'}, {letter['behind']} messages wait behind it")
    write(f"  error      {letter['error'].rstrip()}")
    write(_pretty(letter["message"]))


@app.command
def redrive(
    *ids: Annotated[str, Parameter(help="Ids of dead letters, such as orders:17.")],
    which: Which = Which(),
    every: All = False,
    dry_run: DryRun = False,
    edit: Annotated[Path | None, Parameter(help="File with new data (JSON) for the one letter; - for stdin.")] = None,
    rate: Annotated[
        float | None, Parameter(help="Letters per second, so that a recovering system is not flooded.")
    ] = None,
    json: Json = False,
    where: Remote = Remote(),  # noqa: B008 - immutable
) -> int:
    """Put dead letters back to their places in their lanes, to be tried again."""
    data = None if edit is None else _data(edit)
    return _move(connect(where), "redrive", ids, which, every, dry_run, json, rate, data)


@app.command
def drop(
    *ids: Annotated[str, Parameter(help="Ids of dead letters, such as orders:17.")],
    which: Which = Which(),
    every: All = False,
    dry_run: DryRun = False,
    yes: Annotated[bool, Parameter(negative=(), help="Do not ask.")] = False,
    json: Json = False,
    where: Remote = Remote(),  # noqa: B008 - immutable
) -> int:
    """Discard dead letters for good; the lanes that they held go on."""
    client = connect(where)
    if not (dry_run or yes):
        _confirm(client, ids, which, every)
    return _move(client, "drop", ids, which, every, dry_run, json, None, None)


def _move(
    client: AdminClient, action: str, ids: tuple[str, ...], which: Which, every: bool, dry_run: bool, json: bool,
    rate: float | None, edit: msgspec.Raw | None,
) -> int:  # fmt: skip
    if rate is not None and rate <= 0:
        raise Misconfigured("--rate is letters per second, above 0")
    # With a rate, one request moves about a second's worth: an interrupted redrive leaves the rest dead, not scheduled.
    size = PAGE if rate is None else max(1, min(PAGE, int(rate)))
    body = {**asdict(which), "ids": list(ids) or None, "all": every, "rate": rate, "edit": edit}
    first = client.post(f"/admin/dlq/{action}", {**body, "edit": None, "rate": None, "dry_run": True, "limit": PAGE})
    total, moved = first["matched"], list[str]()
    if dry_run:
        moved = first["ids"]
    else:
        with progress(f"{action} dead letters", total) as bar:
            # What is redriven may die again meanwhile; it is not ours to move a second time, so the first count bounds.
            while len(moved) < total:
                asked = {**body, "limit": min(size, total - len(moved))}
                done = client.post(f"/admin/dlq/{action}", asked)
                moved += done["ids"]
                bar.advance(done["moved"])
                if done["moved"] == 0:
                    break
                if rate is not None and len(moved) < total:
                    time.sleep(done["moved"] / rate)
    return _say_moved(action, ids, total, moved, dry_run, json)


def _say_moved(action: str, ids: tuple[str, ...], total: int, moved: list[str], dry_run: bool, json: bool) -> int:
    count = 0 if dry_run else len(moved)
    if json:
        print_json({"action": action, "dry_run": dry_run, "matched": total, "moved": count, "ids": moved})
    elif dry_run:
        write(f"Would {action} {total} dead letter(s)" + (f": {', '.join(moved[:20])}" if moved else ""))
    else:
        write(f"{'Redriven' if action == 'redrive' else 'Dropped'}: {count} of {total} dead letter(s)")
    missing = [text for text in ids if text not in moved]
    if missing:
        hint(f"Not found: {', '.join(missing)}")
    return Exit.PROBLEMS if missing or (not dry_run and count < total) else Exit.OK


def _confirm(client: AdminClient, ids: tuple[str, ...], which: Which, every: bool) -> None:
    body = {**asdict(which), "ids": list(ids) or None, "all": every, "dry_run": True}
    matched = client.post("/admin/dlq/drop", body)["matched"]
    if matched == 0:
        return
    if not sys.stdin.isatty():
        raise Misconfigured(f"dropping {matched} dead letter(s) is for good: say --yes, or look with --dry-run")
    sys.stderr.write(f"Drop {matched} dead letter(s) for good? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Misconfigured("nothing was dropped")


def _data(file: Path) -> msgspec.Raw:
    """JSON of a file, kept byte for byte."""
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        msgspec.json.decode(content)
    except (OSError, msgspec.DecodeError) as error:
        raise Misconfigured(f"--edit {file}: {error}") from error
    return msgspec.Raw(content.strip())


def _row(letter: dict[str, Any]) -> tuple[object, ...]:
    topic = f"{letter['topic']}/{letter['partition']}"
    holds = "held" if letter["holds_lane"] else ""
    return (
        letter["id"], letter["subscription"], topic, letter["key"], letter["type"], letter["attempts"],
        f"{age(letter['dead_since_us'])} ago", holds, letter["reason"],
    )  # fmt: skip


def _pretty(message: str) -> str:
    try:
        return msgspec.json.format(message.encode(), indent=2).decode()
    except msgspec.DecodeError:
        return message

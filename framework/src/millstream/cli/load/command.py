"""`millstream load`: post, wait, read everything back, judge."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import uvloop
from cyclopts import Parameter

from ...clock import Clock, SystemClock, seconds
from ...errors import Misconfigured
from ...http.development import development_key, issue_token
from ...runtime.settings import load_settings
from ..exits import Exit
from ..options import Json, Remote
from ..output import hint, print_json, progress, write
from .baskets import Basket, Mix, parse_mix, read_baskets, repeat
from .books import read_books
from .connection import Address
from .posting import build_requests, post_all
from .settling import Reader, settle
from .system import OwnSystem, own_system
from .verdict import SHOWN, Verdict, judge

__all__ = ["Tokens", "load", "run_load"]


class Tokens(msgspec.Struct, frozen=True):
    """`client` posts and reads its own orders, `operator` reads the books."""

    client: str
    operator: str


class Plan(msgspec.Struct, frozen=True):
    """What is to be done."""

    baskets: list[Basket]
    mix: Mix
    rate: float | None
    connections: int
    patience_seconds: float


def load(
    *,
    baskets: Annotated[Path, Parameter(help="File of baskets, one JSON object a line.")],
    rate: Annotated[str, Parameter(help="Orders per second, or max.")] = "max",
    connections: Annotated[int, Parameter(help="Connections, each with one request under way.")] = 32,
    count: Annotated[
        int | None, Parameter(help="How many orders; the file begins anew at its end [default: the file].")
    ] = None,
    methods: Annotated[str, Parameter(help="Payment methods and their weights: sim_ok=9,sim_declined=1.")] = "sim_ok",
    patience: Annotated[str, Parameter(help="How long to wait while nothing moves.")] = "60s",
    app: Annotated[str | None, Parameter(help="Import path of the services to start, without --url.")] = None,
    json: Json = False,
    where: Remote = Remote(),  # noqa: B008 - immutable
) -> int:
    """Post real baskets as orders through the gateway and verify that nothing is lost or doubled.

    Without --url it starts a system of its own on a temporary folder. Exits with 1 when anything was lost, doubled or
    does not balance.
    """
    plan = _plan(baskets, rate, connections, count, methods, patience)
    started = own_system(app) if where.url is None else nullcontext(None)
    with started as own:
        url = own.url if own is not None else where.url or ""
        tokens = _tokens(where, own)
        if own is not None:
            hint(f"started {own.url} on {own.data}, ready after {own.ready_seconds:.2f} s")
        verdict = uvloop.run(run_load(url, tokens, plan))
        if own is not None:
            own.keep = not verdict.passed
    _show(verdict, json)
    return Exit.OK if verdict.passed else Exit.PROBLEMS


async def run_load(url: str, tokens: Tokens, plan: Plan) -> Verdict:
    """Post everything, wait until it is settled, read the books, judge."""
    address = Address.of(url)
    run = f"load-{SystemClock().now_us():x}"
    requests = build_requests(address, tokens.client, plan.baskets, plan.mix, run)
    with progress("post orders", len(requests)) as bar:
        posting = await post_all(address, requests, plan.connections, plan.rate, plan.patience_seconds, bar)
    ids = list(posting.accepted)
    client, operator = Reader(address, tokens.client), Reader(address, tokens.operator)
    with progress("settle and read back", len(ids)) as bar:
        orders = await settle(client, address, ids, min(16, plan.connections), plan.patience_seconds, bar)
    # An operator's token sees everybody's orders, not only those of this run.
    books = await read_books(address, client, operator, len(ids), shared=tokens.client == tokens.operator)
    return judge(plan.baskets, posting, orders, books)


def _plan(baskets: Path, rate: str, connections: int, count: int | None, methods: str, patience: str) -> Plan:
    problems: list[str] = []
    try:
        pace = None if rate == "max" else float(rate)
    except ValueError:
        pace = 0.0
    if pace is not None and pace <= 0:
        problems.append(f"--rate {rate}: a number of orders per second above 0, or max")
    if connections < 1:
        problems.append(f"--connections {connections}: at least 1")
    if count is not None and count < 1:
        problems.append(f"--count {count}: at least 1")
    found: list[Basket] = []
    mix: Mix = ()
    span = 0.0
    try:
        span = seconds(patience)
        mix = parse_mix(methods)
        found = read_baskets(baskets, count)
    except Misconfigured as error:
        problems.extend(error.problems)
    if problems:
        raise Misconfigured(problems)
    return Plan(found if count is None else repeat(found, count), mix, pace, connections, span)


def _tokens(where: Remote, own: OwnSystem | None) -> Tokens:
    """A client of this run alone, and an operator: signed with the development key of the system's data folder, or the
    given operator's token for both."""
    given = where.token or os.environ.get("MILLSTREAM_TOKEN")
    if own is None and given:
        return Tokens(given, given)
    settings = load_settings(None, {}, {"data": own.data}) if own is not None else where.settings()
    if own is None and not (settings.auth.development and settings.development_key.exists()):
        raise Misconfigured(
            f"{where.url}: needs an operator's token (--token or MILLSTREAM_TOKEN), or --data with the development key of "
            "that system"
        )
    key = development_key(settings.development_key)
    clock: Clock = SystemClock()
    host = urlsplit(own.url if own is not None else where.url or "").netloc
    subject = f"load-{clock.now_us():x}@{host}"
    return Tokens(
        issue_token(key, subject, (), "12h", clock=clock), issue_token(key, subject, ("operator",), "12h", clock=clock)
    )


def _show(verdict: Verdict, json: bool) -> None:
    for complaint in verdict.complaints[:SHOWN]:
        hint(complaint)
    if len(verdict.complaints) > SHOWN:
        hint(f"… and {len(verdict.complaints) - SHOWN} more")
    if json:
        print_json({"whole_path_per_s": verdict.whole_path_per_s, "repeats": verdict.repeats, "passed": verdict.passed})
        print_json(verdict.line())
        return
    write(f"{verdict.posted} posted: {verdict.accepted} accepted, {verdict.refused} refused")
    write(f"{verdict.confirmed} confirmed, {verdict.failed} failed, {verdict.notified} customers told")
    write(f"total {verdict.total_minor} minor units; lost {verdict.lost}, doubled {verdict.doubled}")
    latency = verdict.latency_ms
    write(f"{verdict.orders_per_s:.0f} orders/s accepted, p50 {latency.p50} ms, p99 {latency.p99} ms")
    write(f"{verdict.whole_path_per_s:.0f} orders/s from the first request to the last notification")
    write("passed" if verdict.passed else f"FAILED: {len(verdict.complaints)} complaint(s)")

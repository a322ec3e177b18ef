"""What `from millstream import …` gives. A name that comes or goes is a change for users, and belongs in the changelog."""

from __future__ import annotations

import millstream
import millstream.contracts
import millstream.http

PUBLIC = {
    millstream: (
        "Call Caller Drop Event Message MillstreamError Misconfigured Permanent Query Refused Retry Sequence Service "
        "ServiceContext StateMachine Transient Tx event"
    ),
    millstream.http: "Accepted Address Caller Created Headers Place Problem Reply",
    millstream.contracts: "Contract RpcError Status rpc",
}


def test_the_public_names_are_these() -> None:
    for module, names in PUBLIC.items():
        assert sorted(module.__all__) == names.split(), module.__name__
        for name in module.__all__:
            assert hasattr(module, name), f"{module.__name__}.{name}"

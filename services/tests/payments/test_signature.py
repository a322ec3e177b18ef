"""Signatures of webhooks: only the very bytes, only recent, only with a known secret; no input makes an error of ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_services.payments.provider import BadSignature
from millstream_services.payments.signature import TOLERANCE_SECONDS, check, sign

NOW = 1_700_000_000_000_000


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=40), st.integers(-TOLERANCE_SECONDS, TOLERANCE_SECONDS))
def test_what_was_signed_is_accepted_within_the_tolerance(body: bytes, secret: bytes, late: int) -> None:
    check(body, sign(body, [secret], NOW), [b"other", secret], NOW + late * 1_000_000)


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_other_bytes_are_refused(body: bytes, other: bytes) -> None:
    if body != other:
        with pytest.raises(BadSignature):
            check(other, sign(body, [b"s"], NOW), [b"s"], NOW)


@given(st.text(max_size=300))
def test_no_header_makes_another_error_than_a_refusal(header: str) -> None:
    with pytest.raises(BadSignature):
        check(b"body", header, [b"s"], NOW)


def test_the_scheme_is_the_documented_one() -> None:
    # From openssl: printf '1700000000.{}' | openssl dgst -sha256 -hmac secret
    digest = "b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163"
    assert sign(b"{}", [b"secret"], NOW) == f"t=1700000000,v1={digest}"

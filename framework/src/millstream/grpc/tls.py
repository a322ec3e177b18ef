"""What proves one service to another: certificates for connections between machines, a key file on one machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from ..errors import Misconfigured
from ..ids import Entropy
from .driver import grpc

__all__ = ["Certificates", "read_certificates", "shared_key"]

KEY_BYTES = 32


class Certificates(msgspec.Struct, frozen=True):
    """A process's certificate and private key, and the authority that signs those of its peers; all in PEM."""

    cert: bytes
    key: bytes
    ca: bytes

    def for_server(self) -> Any:
        """Credentials of a port: clients without a certificate of the authority do not get through."""
        return grpc.ssl_server_credentials([(self.key, self.cert)], root_certificates=self.ca, require_client_auth=True)

    def for_client(self) -> Any:
        """Credentials of a channel."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca, private_key=self.key, certificate_chain=self.cert
        )

    def __repr__(self) -> str:
        return "Certificates(***)"


def read_certificates(cert: str, key: str, ca: str) -> Certificates | None:
    """The certificates that the settings name; None where none is named. Each is a path, or the PEM text itself (what a
    `file:` reference was replaced by).

    Raises:
        Misconfigured: some are named and some are not, or they cannot be read; lists every problem.
    """
    given = {"grpc.cert": cert, "grpc.key": key, "grpc.ca": ca}
    if not any(given.values()):
        return None
    problems: list[str] = []
    read: dict[str, bytes] = {}
    for name, value in given.items():
        if not value:
            problems.append(f"{name} is missing: mutual TLS takes grpc.cert, grpc.key and grpc.ca")
        elif value.lstrip().startswith("-----BEGIN"):
            read[name] = value.encode()
        else:
            try:
                read[name] = Path(value).read_bytes()
            except OSError as error:
                problems.append(f"{name} = {value}: {error.strerror}")
                continue
            if b"-----BEGIN" not in read[name]:
                problems.append(f"{name} = {value}: holds no PEM")
    if problems:
        raise Misconfigured(problems)
    return Certificates(read["grpc.cert"], read["grpc.key"], read["grpc.ca"])


def shared_key(path: Path, entropy: Entropy) -> bytes:
    """The key in this file, which is made, with mode 0600, when it does not exist. Several processes may ask at once:
    all get the same key.

    Raises:
        Misconfigured: the file is no such key, cannot be read or written, or others may read it.
    """
    try:
        if not path.exists():
            _create(path, entropy)
        if path.stat().st_mode & 0o077:
            raise Misconfigured(f"{path}: others than its owner may read this key; run chmod 600 {path}")
        key = path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}") from error
    if len(key) != KEY_BYTES:
        raise Misconfigured(f"{path}: not a key of {KEY_BYTES} bytes; remove it, and a new one is made")
    return key


def _create(path: Path, entropy: Entropy) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{entropy.token(6).hex()}.new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(entropy.token(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        # A link fails when the name is taken: of several processes one wins, with a complete file.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()

"""A certificate authority for tests of mutual TLS."""

from __future__ import annotations

import datetime as dt
from ipaddress import IPv4Address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from millstream.grpc.tls import Certificates

__all__ = ["Authority"]


class Authority:
    """It lasts a test; its certificates are for 127.0.0.1 and hold for an hour."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._cert = self._signed("authority", self._key.public_key(), None)
        self.pem = self._cert.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str) -> Certificates:
        key = ec.generate_private_key(ec.SECP256R1())
        cert = self._signed(name, key.public_key(), self._cert.subject)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Certificates(cert.public_bytes(serialization.Encoding.PEM), private, self.pem)

    def _signed(self, name: str, public: Any, issuer: x509.Name | None) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(IPv4Address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .sign(self._key, hashes.SHA256())
        )

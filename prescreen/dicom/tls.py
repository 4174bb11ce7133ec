"""TLS after PS3.15 B.12 (BCP 195: RFC 8996 and 9325): 1.2 or newer, both sides with a certificate.

Of TLS 1.2 only suites with an ephemeral key exchange and AES-GCM are offered, which B.13 allows
too. The files are looked at before each connection: new ones count from then on, without a restart.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prescreen.errors import SettingsError
from prescreen.settings import Certified, DestinationTLS

logger = logging.getLogger(__name__)

_CIPHERS = "ECDHE+AESGCM:DHE+AESGCM"
_NAMES = frozenset({"commonName", "DNS", "IP Address"})


class Renewed:
    """Gives the context for the next connection, made anew when one of its files has changed.

    SettingsError where the files cannot be used at first; new ones that cannot be are logged, and
    the old ones stay in use.
    """

    def __init__(self, files: Certified, make: Callable[[Certified], ssl.SSLContext]) -> None:
        self._files = files
        self._make = make
        self._lock = threading.Lock()
        self._seen = _looks(files)
        self._context = make(files)

    def __call__(self) -> ssl.SSLContext:
        with self._lock:
            seen = _looks(self._files)
            if seen != self._seen:
                self._seen = seen
                try:
                    self._context = self._make(self._files)
                    logger.info("TLS: %s is in use now", self._files.certificate)
                except SettingsError as error:
                    logger.error("TLS: the certificate in use stays: %s", error)
            return self._context


def for_listening(files: Certified) -> ssl.SSLContext:
    """A context of a server that asks for its peers' certificates. SettingsError."""
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)


def for_calling(files: Certified, name: str) -> ssl.SSLContext:
    """A context of a client whose peer's certificate must carry `name`. SettingsError."""
    context = _Calling(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # that looks at no common name, which is all that many have
    context.name = name.casefold()
    return _loaded(context, files)


def calling(files: DestinationTLS, host: str) -> Renewed:
    """The contexts for calling a destination at `host`. SettingsError."""
    return Renewed(files, lambda renewed: for_calling(renewed, files.name or host))


class _Calling(ssl.SSLContext):
    name: str


class _Named(ssl.SSLSocket):
    """Ends the handshake unless the peer's certificate carries the name the context asks for."""

    def connect(self, addr: Any) -> None:
        """Connect and shake hands; closed where that fails, which the library leaves open."""
        try:
            super().connect(addr)
        except OSError:
            self.close()
            raise

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        wanted = self.context.name if isinstance(self.context, _Calling) else ""
        if wanted not in (certificate_names(self) or ()):
            raise ssl.SSLCertVerificationError(1, f"it does not carry {wanted!r}")


_Calling.sslsocket_class = _Named


def certificate_names(connection: socket.socket | None) -> frozenset[str] | None:
    """Common name, DNS names and addresses of the peer's certificate; None without TLS."""
    if not isinstance(connection, ssl.SSLSocket):
        return None
    told: dict[str, Any] = connection.getpeercert() or {}
    subject = [part for parts in told.get("subject", ()) for part in parts]
    named = (*subject, *told.get("subjectAltName", ()))
    return frozenset(str(value).casefold() for kind, value in named if kind in _NAMES)


def _loaded(context: ssl.SSLContext, files: Certified) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    for key in ("certificate", "key", "authorities"):
        _readable(key, getattr(files, key))
    try:
        context.load_cert_chain(files.certificate, files.key, password=_refuse)
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"tls.key = {files.key}: does not belong to {files.certificate}, is encrypted, or one "
            f"of the two is no PEM file ({_reason(error)})"
        ) from None
    try:
        context.load_verify_locations(files.authorities)
    except ssl.SSLError as error:
        raise SettingsError(
            f"tls.authorities = {files.authorities}: holds no certificate in PEM ({_reason(error)})"
        ) from None
    return context


def _readable(key: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise SettingsError(f"tls.{key} = {path}: cannot be read: {error.strerror}") from None


def _refuse() -> str:
    """The pass phrase of a key that has one: a node that starts by itself knows none."""
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)


def _looks(files: Certified) -> list[tuple[int, int, int] | None]:
    found: list[tuple[int, int, int] | None] = []
    for path in (files.certificate, files.key, files.authorities):
        try:
            said = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((said.st_ino, said.st_size, said.st_mtime_ns))
    return found

"""Signed checkpoints of the audit chain, to be kept where the node's owner cannot write.

A line of JSON a checkpoint: instant, newest event, its hash, public key and Ed25519 signature. The
signature says that this node wrote the line; that it lies elsewhere says that nobody on the node
could take it back. Against both, a log that was cut off or written anew cannot be passed off.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from prescreen.errors import StoreError
from prescreen.store import lines
from prescreen.store.audit import Checkpoint
from prescreen.store.owner import hand_over

#: Under the data directory: the private key, readable by the node's user alone, and the public one.
KEY, PUBLIC = "checkpoint.key", "checkpoint.pub"


def append(data_dir: Path, file: Path, point: Checkpoint, at: datetime.datetime) -> str:
    """Sign a checkpoint and append it to a file, durably; returns the public key (base64).

    The key is made on first use. Raises StoreError where key or file cannot be used.
    """
    key = _key(data_dir)
    told = {"at": at.isoformat(), "event_id": point.event_id, "hash": point.hash}
    public = _text(_raw(key.public_key()))
    line = {**told, "public_key": public, "signature": _text(key.sign(_signed(told)))}
    try:
        lines.append(file, line)
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror}; choose a file this user may write") from error
    return public


def read(file: Path, public: str) -> list[Checkpoint]:
    """The checkpoints of a file, each with its signature verified by one public key (base64).

    What a full disk or a loss of power cut off is left out. Raises StoreError for a line that is no
    checkpoint, is signed by another key, or was altered, and where there is none.
    """
    try:
        told = list(lines.whole(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{file}: cannot be read ({type(error).__name__})") from error
    if not told:
        raise StoreError(f"{file}: has no checkpoint; write one with `prescreen audit checkpoint`")
    return [_verified(line, f"{file}: line {number}", public) for number, line in told]


def public_key(data_dir: Path) -> str:
    """The node's own public key (base64); StoreError where it never signed anything."""
    try:
        return (data_dir / PUBLIC).read_text(encoding="ascii").strip()
    except OSError as error:
        text = f"{data_dir / PUBLIC}: {error.strerror}; name the key with --key"
        raise StoreError(text) from error


def _verified(line: str, where: str, public: str) -> Checkpoint:
    try:
        told = json.loads(line)
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public))
        if told["public_key"] != public:
            raise StoreError(f"{where}: was signed by another key ({told['public_key']})")
        key.verify(base64.b64decode(told["signature"]), _signed(told))
        return Checkpoint(int(told["event_id"]), str(told["hash"]))
    except InvalidSignature:
        raise StoreError(f"{where}: is not what was signed: it was altered") from None
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{where}: is no signed checkpoint, or {public!r} is no key") from None


def _signed(told: dict[str, Any]) -> bytes:
    content = {name: told[name] for name in ("at", "event_id", "hash")}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _key(data_dir: Path) -> Ed25519PrivateKey:
    path = data_dir / KEY
    try:
        if not path.exists():
            _make(path)
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as error:
        text = f"{path}: the key cannot be used ({type(error).__name__})"
        raise StoreError(f"{text}; move it away and a new one is made") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise StoreError(f"{path}: is no Ed25519 key; move it away and a new one is made")
    return key


def _make(path: Path) -> None:
    """A new key, which appears whole or not at all; the first of two that make one wins."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(part, path)
        public = _text(_raw(key.public_key()))
        path.with_name(PUBLIC).write_text(public + "\n", encoding="ascii")
        hand_over(path.parent)
    except FileExistsError:
        return
    finally:
        part.unlink()


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()

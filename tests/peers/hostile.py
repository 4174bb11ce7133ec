"""Hostile peers: what each kind sends at the door (rows W1 to W6), and crowds of them.

A crowd is a thread of its own with an event loop: hundreds of hostile connections, and none of
them slows the honest peer that the test or the bench asks meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType

from tests.peers import wire

_READ = 65_536


@dataclass(frozen=True)
class Target:
    """Where hostile peers go, and the AE titles they use."""

    port: int
    calling: bytes = b"ATTACKER"
    called: bytes = b"NODE"
    tls: bool = False

    def request(self, **changes: object) -> bytes:
        """Their A-ASSOCIATE-RQ."""
        return wire.request(self.calling, self.called, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Line:
    """One hostile connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    target: Target
    number: int

    async def say(self, content: bytes) -> None:
        """Send, however long the peer takes to read it."""
        self.writer.write(content)
        await self.writer.drain()

    async def associate(self) -> None:
        """Become an association; ConnectionError where the peer will not have one."""
        await self.say(self.target.request())
        kind, length = struct.unpack(">BxI", await self.reader.readexactly(6))
        await self.reader.readexactly(length)
        if kind != wire.ASSOCIATE_AC:
            raise ConnectionError(f"PDU type {kind}")


Act = Callable[[Line], Awaitable[None]]


async def silent(line: Line) -> None:
    """W1: connect, and say nothing. Under TLS (W5): before the handshake."""


async def stalled_in_request(line: Line) -> None:
    """W2: stop in the middle of the A-ASSOCIATE-RQ."""
    await line.say(line.target.request()[:50])


async def byte_by_byte(line: Line) -> None:
    """W2: a byte of the A-ASSOCIATE-RQ each second."""
    for byte in line.target.request():
        await line.say(bytes([byte]))
        await asyncio.sleep(1)


async def stalled_in_object(line: Line) -> None:
    """W2: associate, and stop in the middle of an object."""
    await line.associate()
    await line.say(wire.pdu(wire.P_DATA, wire.pdv(wire.store_request(), 3)))
    await line.say(wire.pdu(wire.P_DATA, wire.pdv(bytes(9_000), 0))[:5_000])


def announced(length: int, content: int = 256 * 1024) -> Act:
    """W3: an A-ASSOCIATE-RQ of an impossible length, and the beginning of it."""

    async def act(line: Line) -> None:
        await line.say(struct.pack(">BxI", 1, length) + bytes(content))

    return act


def announced_inside(length: int, content: int = 256 * 1024) -> Act:
    """W3: the same with a P-DATA-TF PDU, in an association."""

    async def act(line: Line) -> None:
        await line.associate()
        await line.say(struct.pack(">BxI", wire.P_DATA, length) + bytes(content))

    return act


async def noise(line: Line) -> None:
    """W4: random bytes, a request of random bytes, HTTP, a TLS hello, DICOM where TLS is spoken."""
    dice = random.Random(line.number)
    kinds = [
        dice.randbytes(65_536),
        b"\x01\x00" + struct.pack(">I", 5_000) + dice.randbytes(5_000),
        b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
        bytes.fromhex("1603010200010001fc0303") + dice.randbytes(500),
        line.target.request(),
    ]
    # in clear a true request is no noise
    await line.say(kinds[line.number % (5 if line.target.tls else 4)])


async def half_a_handshake(line: Line) -> None:
    """W5: a TLS hello, and nothing after it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    half = context.wrap_bio(ssl.MemoryBIO(), outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        half.do_handshake()
    await line.say(outgoing.read())


async def idle(line: Line) -> None:
    """W6: associate, and say no more."""
    await line.associate()


async def every_context(line: Line) -> None:
    """W6: 128 presentation contexts, as many as there can be."""
    await line.say(line.target.request(classes=[wire.CR] * 128))


async def much_user_information(line: Line) -> None:
    """W6: 64 KB of user information."""
    user = wire.item(0x55, b"X" * 16) + wire.item(0x58, bytes(65_400))
    await line.say(line.target.request(user=user))


class Crowd:
    """So many hostile connections, for as long as the block lasts.

    With `again`, whoever is sent away comes back after so many seconds; without, it stays away.
    They are numbered from `first` on.
    """

    def __init__(
        self, act: Act, target: Target, size: int, again: float | None = None, first: int = 0
    ) -> None:
        self._act = act
        self._target = target
        self._size = size
        self._again = again
        self._first = first
        self._acted: set[int] = set()
        #: How many were sent away, or refused, so far.
        self.sent_away = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Crowd:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    def wait(self, seconds: float) -> bool:
        """Whether all of them have done what they came for once, within that time."""
        deadline = time.monotonic() + seconds
        while len(self._acted) < self._size and time.monotonic() < deadline:
            time.sleep(0.02)
        return len(self._acted) == self._size

    def _run(self) -> None:
        self._end = asyncio.Event()
        self._loop.run_until_complete(self._gather())

    async def _gather(self) -> None:
        numbers = range(self._first, self._first + self._size)
        members = [asyncio.ensure_future(self._member(number)) for number in numbers]
        await self._end.wait()
        for member in members:
            member.cancel()
        await asyncio.gather(*members, return_exceptions=True)

    async def _member(self, number: int) -> None:
        while True:
            try:
                await self._once(number)
            except (OSError, EOFError):
                self._acted.add(number)
            self.sent_away += 1
            if self._again is None:
                return
            await asyncio.sleep(self._again)

    async def _once(self, number: int) -> None:
        """Connect, act, and stay until the peer ends it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target.port)
        try:
            await self._acting(Line(reader, writer, self._target, number))
            while await reader.read(_READ):
                pass
        finally:
            writer.transport.abort()

    async def _acting(self, line: Line) -> None:
        # who takes its time (a byte a second) counts as having begun
        self._loop.call_later(1.5, self._acted.add, line.number)
        await self._act(line)
        self._acted.add(line.number)

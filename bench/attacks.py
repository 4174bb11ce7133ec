"""`python -m bench.attacks --json FILE`: one attack, four servers, and an honest peer meanwhile.

Each kind of hostile connection of rows W1 to W6 against the node's receiver, DCMTK's storescp (one
process, and one forked for each association) and Orthanc, all as they come, each started anew for
each attack. Whoever is sent away comes back after a second. Meanwhile an honest peer asks by C-ECHO
again and again and stores an object; its patience is three seconds. Memory, threads and descriptors
are those of the server and its children before, at most during, and after the attack.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.processes import Held, end_in_order, held
from bench.standing import machine, role, standing
from tests.peers import hostile, orthanc, wire
from tests.peers.certificates import Authority, Files
from tests.peers.dcmtk import free_port, run, storescp, write_radiograph
from tests.peers.hostile import Act, Crowd, Target

MANY = 200
#: Seconds that the honest peer waits for an answer, and that a server is given after the attack
#: before it is looked at.
PATIENCE, AFTER = 3.0, 3.0


@dataclass(frozen=True)
class Kind:
    """One way to attack: row and words, what is done, whether under TLS, and how many do it."""

    name: str
    act: Act
    tls: bool = False
    sizes: Sequence[int] = (MANY,)


KINDS = (
    Kind("W1 silent", hostile.silent, sizes=(1, MANY)),
    Kind("W2 stalled in a request", hostile.stalled_in_request, sizes=(1, MANY)),
    Kind("W2 a byte a second", hostile.byte_by_byte),
    Kind("W2 stalled in an object", hostile.stalled_in_object, sizes=(1, MANY)),
    Kind("W3 4 GiB announced", hostile.announced(0xFFFFFFFF)),
    Kind("W3 4 GiB announced, associated", hostile.announced_inside(0xFFFFFFFF)),
    Kind("W4 noise", hostile.noise),
    Kind("W5 silent, TLS", hostile.silent, tls=True, sizes=(1, MANY)),
    Kind("W5 half a handshake", hostile.half_a_handshake, tls=True),
    Kind("W6 associated and idle", hostile.idle, sizes=(1, MANY)),
    Kind("W6 128 contexts", hostile.every_context),
    Kind("W6 64 KB of user information", hostile.much_user_information),
)


@dataclass(frozen=True)
class Keys:
    """Certificates of a server and of the honest peer, and the authority for both."""

    authority: Path
    server: Files
    peer: Files


@dataclass(frozen=True)
class Server:
    """One that runs: the process, where it listens, and its AE title."""

    pid: int
    port: int
    called: str


@dataclass(frozen=True)
class Result:
    """What an attack did to a server.

    `echo_before` and `worst_echo` are the longest seconds of five echoes before the attack and of
    those that were answered during it, None where none was.
    """

    server: str
    attack: str
    connections: int
    echoes: int
    answered: int
    echo_before: float | None
    worst_echo: float | None
    stored: bool
    echo_after: bool
    before: Held
    during: Held
    after: Held


class Honest:
    """A peer that means well, in clear or by TLS."""

    def __init__(self, server: Server, keys: Keys | None, sent: Path) -> None:
        self._server = server
        self._keys = keys
        self._sent = sent

    def echo(self) -> float | None:
        """Seconds that an association with one C-ECHO took; None if it was not answered."""
        begun = time.perf_counter()
        try:
            with self._connected() as connection:
                answered = wire.echoed(connection, b"MODALITY", self._server.called.encode())
        except OSError:
            return None
        took = time.perf_counter() - begun
        return took if answered and took < PATIENCE else None

    def store(self) -> bool:
        """Whether DCMTK's storescu can store an object."""
        keys = self._keys
        tls = keys and ("+tls", keys.peer.key, keys.peer.certificate, "+cf", keys.authority)
        patience = [word for key in ("-to", "-ta", "-td") for word in (key, f"{PATIENCE:.0f}")]
        titles = ("-aet", "MODALITY", "-aec", self._server.called)
        there = ("127.0.0.1", str(self._server.port), self._sent)
        return run("storescu", *(tls or ()), *patience, *titles, *there).returncode == 0

    def _connected(self) -> Any:
        connection = wire.connected(self._server.port, PATIENCE)
        if self._keys is None:
            return connection
        context = ssl.create_default_context(cafile=self._keys.authority)
        context.load_cert_chain(self._keys.peer.certificate, self._keys.peer.key)
        try:
            return context.wrap_socket(connection, server_hostname="127.0.0.1")
        except OSError:
            connection.close()
            raise


# --- the servers, as they come ------------------------------------------------------------------

Start = Callable[[Path, Keys | None], AbstractContextManager[Server]]

_PEER = '[[receive.peers]]\nae_title = "{title}"\n{certificate}\n'
_TLS = """\
[receive.tls]
port = {port}
certificate = "{certificate}"
key = "{key}"
authorities = "{authorities}"
"""


@contextmanager
def _node(folder: Path, keys: Keys | None) -> Iterator[Server]:
    """The receiver of a node with its standard limits; the hostile are a known peer too."""
    more = _PEER.format(title="ATTACKER", certificate="")
    tls_port = free_port()
    if keys is not None:
        more += _PEER.format(title="MODALITY", certificate='certificate = "peer"')
        files = {"certificate": keys.server.certificate, "key": keys.server.key}
        more += _TLS.format(port=tls_port, authorities=keys.authority, **files)
    with standing(folder, {"receive": role("receive")}, more=more) as stands:
        port = stands.port if keys is None else tls_port
        yield Server(stands.running["receive"].pid, port, "PRESCREEN")


def _storescp(*options: str) -> Start:
    @contextmanager
    def start(folder: Path, keys: Keys | None) -> Iterator[Server]:
        tls: tuple[str, ...] = ()
        if keys is not None:
            own = str(keys.server.key), str(keys.server.certificate)
            tls = ("+tls", *own, "+cf", str(keys.authority))
        with storescp(folder, *options, *tls) as peer:
            yield Server(peer.process.pid, peer.port, "STORESCP")

    return start


@contextmanager
def _orthanc(folder: Path, keys: Keys | None) -> Iterator[Server]:
    tls: dict[str, Any] = {}
    if keys is not None:
        tls = {
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(keys.server.certificate),
            "DicomTlsPrivateKey": str(keys.server.key),
            "DicomTlsTrustedCertificates": str(keys.authority),
        }
    with orthanc.running(folder, **tls) as server:
        yield Server(server.pid, server.dicom_port, server.ae_title)


SERVERS: Mapping[str, Start] = {
    "prescreen": _node,
    "storescp": _storescp(),
    "storescp --fork": _storescp("--fork"),
    "Orthanc": _orthanc,
}


# --- one attack after the other -----------------------------------------------------------------


def measured(
    folder: Path,
    servers: Sequence[str],
    kinds: Sequence[Kind],
    seconds: float,
    say: Callable[[str], None],
) -> Iterator[Result]:
    """A result for each server, kind and size; `say` is told what comes next."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder)
    keys = Keys(authority.certificate, authority.issue("server"), authority.issue("peer"))
    sent = write_radiograph(folder / "sent.dcm", size=256)
    for number, (kind, size) in enumerate((one, size) for one in kinds for size in one.sizes):
        for name in servers:
            say(f"{kind.name}, {size}: {name}")
            where = folder / f"{number}-{name.replace(' ', '')}"
            with SERVERS[name](where, keys if kind.tls else None) as server:
                honest = Honest(server, keys if kind.tls else None, sent)
                yield _attacked(name, server, honest, Attack(kind, size, seconds))


@dataclass(frozen=True)
class Attack:
    """One attack: its kind, how many do it, and how long."""

    kind: Kind
    size: int
    seconds: float

    def crowd(self, server: Server) -> Crowd:
        """Those who do it."""
        target = Target(server.port, called=server.called.encode(), tls=self.kind.tls)
        return Crowd(self.kind.act, target, self.size, again=1.0)


def _attacked(name: str, server: Server, honest: Honest, attack: Attack) -> Result:
    honest.store()  # what is loaded when first needed is no fault of the attack
    quiet = [honest.echo() for _ in range(6)][1:]
    time.sleep(0.5)
    before = during = held(server.pid)
    with attack.crowd(server) as crowd:
        crowd.wait(PATIENCE)
        echoes = []
        until = time.monotonic() + attack.seconds
        while time.monotonic() < until:
            echoes.append(honest.echo())
            during = _most(during, held(server.pid))
            time.sleep(0.1)
        stored = honest.store()
    time.sleep(AFTER)
    after = held(server.pid)
    answered = [took for took in echoes if took is not None]
    return Result(
        server=name,
        attack=attack.kind.name,
        connections=attack.size,
        echoes=len(echoes),
        answered=len(answered),
        echo_before=max((took for took in quiet if took is not None), default=None),
        worst_echo=max(answered, default=None),
        stored=stored,
        echo_after=honest.echo() is not None,
        before=before,
        during=during,
        after=after,
    )


def _most(one: Held, other: Held) -> Held:
    return Held(
        max(one.threads, other.threads),
        max(one.descriptors, other.descriptors),
        max(one.mib, other.mib),
    )


def printed(results: Sequence[Result], console: Console) -> None:
    """Two tables as Markdown has them: what the honest peer met with, and what the servers held."""
    met = partial(_by_server, results)
    console.print(met(_met))
    console.print(met(_held))


def _by_server(results: Sequence[Result], cell: Callable[[Result], str]) -> Table:
    """A row for each attack and size, a column for each server."""
    servers = list(dict.fromkeys(r.server for r in results))
    cells = {(r.attack, r.connections, r.server): cell(r) for r in results}
    table = Table("attack", "by", *servers, box=box.MARKDOWN)
    for attack, size in dict.fromkeys((r.attack, r.connections) for r in results):
        found = (cells.get((attack, size, server), "") for server in servers)
        table.add_row(attack, str(size), *found)
    return table


def _met(r: Result) -> str:
    """C-ECHO answered of asked, the longest, whether C-STORE got through."""
    return f"{_echoes(r)}, {'stored' if r.stored else 'not stored'}"


def _echoes(r: Result) -> str:
    if r.worst_echo is None:
        return f"0/{r.echoes}"
    return f"{r.answered}/{r.echoes}, {r.worst_echo:.2f} s"


def _held(r: Result) -> str:
    """MiB, threads and descriptors: before → at most during → after."""
    trio = (r.before, r.during, r.after)
    return ", ".join(
        "→".join(f"{getattr(one, key):.0f}" for one in trio)
        for key in ("mib", "threads", "descriptors")
    )


def main() -> None:
    """Attack, print the table, write the JSON. The exit status says nothing of who stood."""
    parser = argparse.ArgumentParser(prog="python -m bench.attacks", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="where the figures are written")
    parser.add_argument("--server", choices=SERVERS, action="append", help="one alone")
    parser.add_argument("--row", help="the attacks of one row alone, as W3")
    parser.add_argument("--size", type=int, help="so many connections, in place of 200 and of 1")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack (default 5)")
    options = parser.parse_args()
    end_in_order()
    kinds = [kind for kind in KINDS if kind.name.startswith(options.row or "W")]
    if options.size is not None:
        kinds = [dataclasses.replace(kind, sizes=(options.size,)) for kind in kinds]
    console, errors = Console(width=160), Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="prescreen-attacks-") as folder:
        servers = options.server or list(SERVERS)
        found = measured(Path(folder), servers, kinds, options.seconds, errors.print)
        results = []
        for result in found:
            errors.print(f"  C-ECHO {_echoes(result)}, C-STORE {'yes' if result.stored else 'no'}")
            results.append(result)
    printed(results, console)
    told = {"machine": machine(), "results": [asdict(result) for result in results]}
    options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()

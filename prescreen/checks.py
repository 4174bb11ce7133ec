"""`prescreen check`: is everything there that a node needs, and who may come in?"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prescreen import frontal, housekeeping, node
from prescreen.audience import attention_in_words
from prescreen.dicom.language import face
from prescreen.dicom.send import echo
from prescreen.dicom.tls import for_listening
from prescreen.errors import PrescreenError, SettingsError
from prescreen.nets import runtimes
from prescreen.nets.weights import describe
from prescreen.settings import Destination, ReceiveTLS, Settings
from prescreen.store import audit
from prescreen.store.database import integrity, writing


@dataclass(frozen=True)
class Check:
    """One thing looked at: what, whether it is as it should be, and what was found."""

    what: str
    ok: bool
    said: str


def run(settings: Settings, config: Path | None) -> list[Check]:
    """Look at settings, door, weights, store, room, certificates and destinations."""
    source = str(config) if config is not None else "defaults and environment"
    checks = [Check("settings", True, source), *door(settings)]
    checks.append(Check("metrics", True, _metrics(settings)))
    checks.append(_tried("weights", lambda: _weights(settings)))
    checks.append(_tried("attention", lambda: _attention(settings)))
    checks.append(_tried("language", lambda: _language(settings)))
    checks.append(_tried("engine", lambda: _engine(settings)))
    checks.append(_tried("device", lambda: _device(settings)))
    checks.append(_tried("store", lambda: _store(settings)))
    checks.append(_tried("privacy", lambda: others_may_not_read(settings)))
    checks.append(_tried("room", lambda: _room(settings)))
    watched = settings.housekeeping.model_copy(update={"certificates": settings.certificates})
    warnings = housekeeping.expiring(watched, time.time())
    checks += [Check("certificate", False, warning) for warning in warnings]
    for destination in settings.destinations:
        checks.append(_tried(f"destination {destination.name}", _asks(destination, settings)))
    return checks


def _tried(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what, True, look())
    except PrescreenError as error:
        return Check(what, False, str(error))


def door(settings: Settings) -> Iterator[Check]:
    """What is open, and to whom."""
    receive = settings.receive
    ways = {False: f"{receive.ae_title} at {receive.host}:{receive.port}"} if receive.clear else {}
    if receive.tls is not None:
        ways[True] = f"{receive.ae_title} at {receive.host}:{receive.tls.port} by TLS"
        yield _tried("TLS", lambda: _certified(receive.tls))
    if not receive.peers:
        said = f"{' and '.join(ways.values())}: nobody may send; name senders in [[receive.peers]]"
        yield Check("door", True, said)
    for peer in receive.peers:
        where = ways.get(peer.certificate is not None)
        if where is None:
            said = f"{peer.ae_title}: has no certificate and may not come in clear"
            yield Check("door", False, said)
        else:
            yield Check("door", True, f"{where}: {peer.ae_title} from {', '.join(peer.networks)}")


def _metrics(settings: Settings) -> str:
    where = settings.metrics
    if not where.port:
        return "off"
    return f"http://{where.host}:{where.port}/metrics, to whoever reaches it"


def _certified(files: ReceiveTLS | None) -> str:
    assert files is not None
    for_listening(files)
    return f"certificate {files.certificate}"


def _weights(settings: Settings) -> str:
    folder = node.weights_dir(settings)
    frontal.shipped()
    model = describe(folder)
    found, drawn = model.findings, model.lungs_heart
    return (
        f"{folder}: findings {found.version} {found.sha256[:12]}, "
        f"lungs and heart {drawn.version} {drawn.sha256[:12]}"
    )


def _attention(settings: Settings) -> str:
    """SettingsError where it is asked for and the weights prove it of no finding."""
    model = describe(node.weights_dir(settings))
    said = attention_in_words(model, settings.report)
    if settings.report.attention != "off" and not model.pointing_proven:
        raise SettingsError(said)
    return said


def _language(settings: Settings) -> str:
    report = settings.report
    found = face(report.language, report.font)
    return f"{report.language}, written with {found.path or 'the font that Pillow carries'}"


def _engine(settings: Settings) -> str:
    """What the networks ran on last, and why on nothing faster."""
    wanted = settings.screen.engine
    if wanted != "auto" and (reason := runtimes.absent(wanted)) is not None:
        raise SettingsError(f"screen.engine = {wanted!r} cannot be had ({reason})")
    loaded = list(audit.events(node.open_store(settings).engine, kind="weights.loaded"))
    if not loaded:
        return f"not run yet; the first of these that answers as torch: {_order(wanted)}"
    last = loaded[-1]
    reasons = "; ".join(str(reason) for reason in last.detail.get("passed_over", []))
    said = f"{last.detail['engine']} since {last.at:%Y-%m-%d %H:%M} UTC"
    return f"{said} ({reasons})" if reasons else said


def _device(settings: Settings) -> str:
    wanted = settings.screen.device
    if wanted == "auto":
        return "a GPU where one can be used, else the processor"
    if wanted == "cuda":
        from prescreen.nets.screener import has_gpu  # torch takes seconds to load

        if not has_gpu():
            raise SettingsError(
                "screen.device = 'cuda': no GPU can be used here; until its driver is mended the "
                "networks run on the processor, as with screen.device = 'cpu'"
            )
        return "the GPU"
    return "the processor"


def _order(wanted: str) -> str:
    return ", ".join(name for name in runtimes.installed() if wanted in ("auto", name))


def _store(settings: Settings) -> str:
    store = node.open_store(settings)
    problem = integrity(store.engine)
    if problem is not None:
        raise PrescreenError(f"{settings.data_dir}: the database is damaged: {problem}")
    with writing(store.engine) as connection:  # nothing, but a node has to be able to
        connection.exec_driver_sql("UPDATE meta SET key = key WHERE 0")
    points = housekeeping.read_checkpoints(settings.data_dir / housekeeping.CHECKPOINTS)
    verdict = audit.verify(store.engine, points)
    if not verdict.whole:
        raise PrescreenError(f"audit event {verdict.first_altered}: {verdict.problem}")
    return f"{settings.data_dir}: whole, {verdict.events} audit events"


def others_may_not_read(settings: Settings) -> str:
    """PrescreenError where whoever has a login here may read what the node keeps."""
    folder = settings.data_dir
    database = folder / "prescreen.db"
    try:
        modes = folder.stat().st_mode, database.stat().st_mode
    except OSError:
        raise PrescreenError(f"{folder}: cannot be looked into; see store") from None
    if modes[0] & stat.S_IXOTH and modes[1] & stat.S_IROTH:
        raise PrescreenError(
            f"{folder}: every user of this machine may read who is in it: chmod -R o= {folder}"
        )
    return "other users of this machine may not read what is kept"


def _room(settings: Settings) -> str:
    free = node.open_store(settings).spool.free() // 1_000_000
    needed = settings.housekeeping.minimum_free_mb
    if free < needed:
        raise PrescreenError(f"{free} MB free, less than the {needed} MB of minimum_free_mb")
    return f"{free} MB free (refuses below {needed})"


def _asks(destination: Destination, settings: Settings) -> Callable[[], str]:
    def ask() -> str:
        seconds = echo(destination, settings.receive.ae_title)
        return f"answered C-ECHO within {seconds * 1000:.0f} ms"

    return ask

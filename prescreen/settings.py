"""One TOML file and the environment become frozen settings.

Every setting is documented in deploy/prescreen.toml. The environment overrides the file:
`PRESCREEN__RECEIVE__PORT=11113` sets `port` in `[receive]`. An unknown key, a wrong type or an
impossible value is a SettingsError that names the key, the value and the rule, and the variable
of the environment that it came from.
"""

from __future__ import annotations

import difflib
import ipaddress
import itertools
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as EnvironmentValueError

from prescreen.errors import SettingsError
from prescreen.study import LABELS, RELEASE_AUROC, RELEASE_POSITIVES, Audience


def _ae_title(value: str) -> str:
    """An application entity title: 1 to 16 characters, no backslash or control (PS3.5 6.2)."""
    title = value.strip(" ")
    if not 1 <= len(title) <= 16:
        raise ValueError("an AE title has 1 to 16 characters")
    if not (title.isascii() and title.isprintable()) or "\\" in title:
        raise ValueError("an AE title is printable ASCII without backslash")
    return title


def _manufacturer(value: str) -> str:
    """One text that fits beside names in any character set (LO, PS3.5 6.2)."""
    if not (value.strip() and value.isascii() and value.isprintable()) or "\\" in value:
        raise ValueError("printable ASCII without backslash, more than blanks")
    return value


def _label(value: str) -> str:
    if value not in LABELS:
        raise ValueError(f"one of the 14 findings: {', '.join(LABELS)}")
    return value


def _host(value: str) -> str:
    """A name or an address that the system can be asked for."""
    if not value or any(letter.isspace() for letter in value):
        raise ValueError("a host name or an address, without blanks")
    try:
        value.encode("idna")
    except UnicodeError:
        rule = "between the dots of a host name are 1 to 63 letters or digits"
        raise ValueError(f"cannot be looked up: {rule}") from None
    return value


def _interface(value: str) -> str:
    """Where to listen. To Python an empty name is every interface: too much for a slip."""
    if not value.strip():
        raise ValueError('a host name or an address; "0.0.0.0" or "::" is every interface')
    return _host(value)


def _path(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise ValueError("a path: an empty one would be the current folder")
    return value


AETitle = Annotated[str, AfterValidator(_ae_title)]
Manufacturer = Annotated[str, AfterValidator(_manufacturer)]
Label = Annotated[str, AfterValidator(_label)]
Host = Annotated[str, AfterValidator(_host)]
HostOrNone = Annotated[str, AfterValidator(lambda value: value and _host(value))]
Interface = Annotated[str, AfterValidator(_interface)]
Place = Annotated[Path, BeforeValidator(_path)]
#: As seen from the folder that the command is given in, whatever becomes of it afterwards.
Absolute = Annotated[Place, AfterValidator(Path.absolute)]
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
#: A wait in seconds, a day at most.
Seconds = Annotated[float, Field(gt=0, le=86_400)]
#: A wait before a new try, at times doubled: the doctor blames more than a day on the clock.
HalfDay = Annotated[float, Field(gt=0, le=43_200)]
#: At most a hundred years: much further from now there are no dates.
Days = Annotated[float, Field(gt=0, le=36_500)]


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know, and numbers that are none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind in (int, float):
            raise ValueError("a number, neither true nor false")
        return value


class Certified(Section):
    """PEM files: our certificate (with its chain) and key, and who may vouch for the other side."""

    certificate: Place
    key: Place
    authorities: Place


class ReceiveTLS(Certified):
    """Where peers come in by TLS (PS3.15 B.12)."""

    port: Port = 2762


class DestinationTLS(Certified):
    """TLS to a destination; its certificate must carry `name` (default: its host)."""

    name: str | None = None


class Peer(Section):
    """One sender that may associate: its AE title, the networks it may come from, its certificate.

    One with a `certificate` (a common name, DNS name or address in it) comes by TLS alone.
    """

    ae_title: AETitle
    certificate: str | None = None
    networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    may_reject: bool = True

    @field_validator("networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("at least one network: from none the peer could never come in")
        for network in value:
            ipaddress.ip_network(network)
        return value


class Receive(Section):
    """The Storage and Verification SCP."""

    ae_title: AETitle = "PRESCREEN"
    host: Interface = "127.0.0.1"
    port: Port = 11112
    peers: tuple[Peer, ...] = ()
    max_pdu: int = Field(default=131_072, ge=4_096, le=1_048_576)
    max_object_mb: int = Field(default=2_048, ge=1, le=1_000_000)
    max_associations: int = Field(default=25, ge=1, le=500)
    max_associations_per_peer: int = Field(default=20, ge=1, le=500)
    max_connections: int = Field(default=256, ge=8, le=768)
    max_waiting: int = Field(default=10_000, ge=1)
    pdu_timeout: Seconds = 30
    acse_timeout: Seconds = 10
    dimse_timeout: Seconds = 60
    network_timeout: Seconds = 60
    clear: bool = True
    tls: ReceiveTLS | None = None

    def may_reject(self, calling: str) -> bool:
        """Whether rejection notes that come under an AE title are obeyed.

        Every peer of that title must be allowed to; of a title that none has any more, all peers.
        """
        named = [peer for peer in self.peers if peer.ae_title == calling.strip()]
        return all(peer.may_reject for peer in named or self.peers)

    @model_validator(mode="after")
    def _has_a_port(self) -> Receive:
        if not self.clear and self.tls is None:
            raise ValueError("clear = false needs [receive.tls]: else nothing is listened on")
        if self.tls is None and any(peer.certificate for peer in self.peers):
            raise ValueError("a peer with a certificate comes by TLS: add [receive.tls]")
        if self.clear and self.tls is not None and self.tls.port == self.port:
            raise ValueError("port and tls.port must differ")
        return self


class Screen(Section):
    """When a study is due, and how it is worked on."""

    quiet_period: float = Field(default=30, ge=0, le=86_400)
    quiet_cap: float = Field(default=600, ge=0, le=604_800)
    batch: int = Field(default=8, ge=1, le=64)
    lease: Seconds = 60
    max_attempts: int = Field(default=3, ge=1, le=20)
    stuck_seconds: float = Field(default=900, gt=0, le=604_800)
    quality_rejections: Literal["obey", "ignore"] = "obey"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["auto", "torch", "compiled", "onnxruntime", "openvino"] = "auto"
    decode_workers: int = Field(default=1, ge=1, le=16)
    decode_seconds: Seconds = 20
    decode_memory_mb: int = Field(default=2_048, ge=256, le=1_048_576)
    max_megapixels: float = Field(default=64, gt=0, le=400)

    @model_validator(mode="after")
    def _cap_is_longer(self) -> Screen:
        if self.quiet_cap < self.quiet_period:
            raise ValueError("quiet_cap must not be shorter than quiet_period")
        return self


class Scope(Section):
    """Which studies the node answers at all; what is outside gets no notice."""

    calling_ae_titles: tuple[AETitle, ...] = ()
    minimum_age: float = Field(default=18, ge=0, le=120)
    unknown_age: Literal["out_of_scope", "screen"] = "out_of_scope"
    acquired_within_hours: float = Field(default=48, gt=0, le=100_000_000)


#: Most urgent first: the order in which findings are shown.
URGENCY: tuple[str, ...] = (
    "Pneumothorax",
    "Edema",
    "Pneumonia",
    "Consolidation",
    "Effusion",
    "Mass",
    "Nodule",
    "Cardiomegaly",
    "Atelectasis",
    "Infiltration",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)


class Report(Section):
    """What is written and how."""

    manufacturer: Manufacturer = Field(default="prescreen", max_length=64)
    series_number: int = Field(default=9001, ge=1, le=2_000_000)
    urgency: tuple[Label, ...] = URGENCY
    release_auroc: float = Field(default=RELEASE_AUROC, ge=0.5, le=1)
    release_positives: int = Field(default=RELEASE_POSITIVES, ge=0)
    attention: Literal["off", "where_proven"] = "off"
    language: Literal["en", "de", "zh"] = "en"
    font: Place | None = None
    capture_rows: int = Field(default=1080, ge=720, le=2160)

    @field_validator("attention", mode="before")
    @classmethod
    def _as_it_was(cls, value: object) -> object:
        """Settings files of earlier versions may say false, which was all that could be said."""
        return "off" if value is False else value

    @field_validator("urgency")
    @classmethod
    def _all_labels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if sorted(value) != sorted(LABELS):
            raise ValueError("names each of the 14 findings once")
        return value


#: Kinds of result objects, as they are called in settings, outbox and audit.
ObjectKind = Literal["sr", "regions", "text", "capture", "presentation", "segmentation"]
#: For viewers that show structured reports (OHIF, Weasis), and the capture for all others.
MODERN: tuple[ObjectKind, ...] = ("sr", "regions", "capture")
PRESETS: Mapping[str, tuple[ObjectKind, ...]] = {
    "modern": MODERN,
    "classic": ("text", "capture"),
    "images-only": ("capture",),
}


def _kinds(value: object) -> object:
    """A preset in place of a list of kinds."""
    if not isinstance(value, str):
        return value
    if value not in PRESETS:
        raise ValueError(f"a list of kinds, or one of the presets: {', '.join(PRESETS)}")
    return PRESETS[value]


Objects = Annotated[tuple[ObjectKind, ...], BeforeValidator(_kinds), Field(min_length=1)]


class Destination(Section):
    """One place results are sent to, under a name that commands use."""

    name: Name
    ae_title: AETitle
    host: Host
    port: Port
    calling_ae_title: AETitle | None = None
    audience: Audience = Audience.RELEASE
    test: bool = False
    objects: Objects = MODERN
    acse_timeout: Seconds = 10
    dimse_timeout: Seconds = 60
    network_timeout: Seconds = 60
    retry_first: HalfDay = 5
    retry_cap: HalfDay = 300
    tls: DestinationTLS | None = None
    probe_every: Seconds = 30
    objects_per_minute: int = Field(default=0, ge=0)
    query: Literal["if_offered", "compare", "none"] = "if_offered"
    commitment: Literal["required", "if_offered", "none"] = "if_offered"
    commitment_again: Seconds = 600
    commitment_days: Days = 7
    rejection: Literal["113037", "113001", "none"] = "113037"

    @model_validator(mode="after")
    def _test_is_evaluation(self) -> Destination:
        if self.test and self.audience is not Audience.EVALUATION:
            raise ValueError('a test destination has audience = "evaluation"')
        return self

    @model_validator(mode="after")
    def _cap_is_longer(self) -> Destination:
        # a cap alone, below the first delay as it is by default, says what is meant
        if self.retry_cap < self.retry_first and "retry_first" in self.model_fields_set:
            first, cap = f"{self.retry_first:g}", f"{self.retry_cap:g}"
            raise ValueError(f"retry_cap = {cap} must not be shorter than retry_first = {first}")
        return self


class Housekeeping(Section):
    """Retention, room on the disk, and how often they are looked after."""

    retention_days: Days = 30
    minimum_free_mb: int = Field(default=2_048, ge=0, le=1_000_000_000_000)
    every_minutes: float = Field(default=10, gt=0, le=1_440)
    checkpoint_hours: float = Field(default=24, gt=0, le=8_760)
    certificates: tuple[Place, ...] = ()
    certificate_warn_days: Days = 30


class Syslog(Section):
    """The audit record repository that audit messages are sent to; without a host to none."""

    host: HostOrNone = ""
    port: Port = 6514
    transport: Literal["tls", "udp"] = "tls"
    ca: Place | None = None
    certificate: Place | None = None
    key: Place | None = None
    timeout: Seconds = 10
    every_seconds: Seconds = 10


class Metrics(Section):
    """Figures for Prometheus over HTTP; port 0: none."""

    host: Interface = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)


class Log(Section):
    """What the process says on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Settings(BaseSettings):
    """All settings of one node."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="PRESCREEN__",
        env_nested_delimiter="__",
    )

    data_dir: Absolute = Path("/var/lib/prescreen")
    weights_dir: Place | None = None
    receive: Receive = Receive()
    screen: Screen = Screen()
    scope: Scope = Scope()
    report: Report = Report()
    destinations: tuple[Destination, ...] = ()
    housekeeping: Housekeeping = Housekeeping()
    syslog: Syslog = Syslog()
    metrics: Metrics = Metrics()
    log: Log = Log()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file, whose content arrives as init arguments."""
        return env_settings, init_settings

    @field_validator("destinations")
    @classmethod
    def _names_differ(cls, value: tuple[Destination, ...]) -> tuple[Destination, ...]:
        names = [destination.name for destination in value]
        if len(set(names)) != len(names):
            raise ValueError("destinations have different names")
        return value

    @field_validator("metrics")
    @classmethod
    def _port_is_its_own(cls, value: Metrics, info: ValidationInfo) -> Metrics:
        receive: Receive | None = info.data.get("receive")
        if receive and receive.clear and value.port == receive.port:
            raise ValueError("port must differ from receive.port")
        if receive and receive.tls and value.port == receive.tls.port:
            raise ValueError("port must differ from receive.tls.port")
        return value

    @property
    def certificates(self) -> tuple[Path, ...]:
        """Every certificate whose expiry matters, those of others last."""
        used = [self.receive.tls, *(destination.tls for destination in self.destinations)]
        paths = [path for one in used if one for path in (one.certificate, one.authorities)]
        if self.syslog.host and self.syslog.transport == "tls":
            paths += [path for path in (self.syslog.certificate, self.syslog.ca) if path]
        return tuple(dict.fromkeys([*paths, *self.housekeeping.certificates]))

    def destination(self, name: str) -> Destination:
        """The destination of that name; SettingsError lists those there are."""
        for destination in self.destinations:
            if destination.name == name:
                return destination
        known = ", ".join(d.name for d in self.destinations) or "none is configured"
        raise SettingsError(f"destination {name!r} is not configured (known: {known})")


def load(path: Path | None = None, **overrides: Any) -> Settings:
    """Settings from the file at `path` (None: defaults), the environment, then `overrides`.

    Raises SettingsError for a file that cannot be read, broken TOML, an unknown key, a wrong
    type or an impossible value.
    """
    content: dict[str, Any] = {} if path is None else _read(path)
    _refuse_unknown_environment()
    where = "settings" if path is None else str(path)
    try:
        return Settings(**{**content, **overrides})
    except ValidationError as error:
        raise SettingsError(_explain(where, error)) from None
    except EnvironmentValueError as error:
        raise SettingsError(
            f"environment PRESCREEN__…: {error}: a list is written as JSON"
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: is not valid TOML: {error}") from None


def _refuse_unknown_environment(environment: Mapping[str, str] | None = None) -> None:
    for name in environment if environment is not None else os.environ:
        if name.startswith("PRESCREEN__"):
            key, _, nested = name.removeprefix("PRESCREEN__").lower().partition("__")
            if key not in Settings.model_fields or (nested and key not in _SECTIONS):
                raise SettingsError(f"environment {name}: unknown key{_suggest(key, Settings)}")


def _explain(where: str, error: ValidationError) -> str:
    lines = []
    for fault in error.errors(include_url=False):
        variable = _variable_of(fault["loc"])
        source = f"environment {variable}" if variable else where
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            section = _section_at(fault["loc"][:-1])
            lines.append(f"{source}: {key}: unknown key{_suggest(str(fault['loc'][-1]), section)}")
        elif fault["type"] == "missing":
            lines.append(f"{source}: {key}: is required")
        else:
            rule = fault["msg"].removeprefix("Value error, ")
            lines.append(f"{source}: {key} = {_shown(fault['input'])}: {rule}")
    return "\n".join(lines)


def _variable_of(location: tuple[int | str, ...]) -> str | None:
    """The variable of the environment that set what is there: a list as a whole."""
    names = itertools.takewhile(lambda part: isinstance(part, str), location)
    wanted = "__".join(["PRESCREEN", *map(str, names)])
    return next((name for name in os.environ if name.upper() == wanted.upper()), None)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _suggest(key: str, section: type[BaseModel] | None) -> str:
    known = list(section.model_fields) if section is not None else []
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (known: {', '.join(known)})" if known else ""


_SECTIONS: dict[str, type[BaseModel]] = {
    "receive": Receive,
    "peers": Peer,
    "screen": Screen,
    "scope": Scope,
    "report": Report,
    "destinations": Destination,
    "housekeeping": Housekeeping,
    "syslog": Syslog,
    "metrics": Metrics,
    "log": Log,
}


def _section_at(location: tuple[int | str, ...]) -> type[BaseModel] | None:
    names = [part for part in location if isinstance(part, str)]
    if names[-1:] == ["tls"]:
        return ReceiveTLS if names[0] == "receive" else DestinationTLS
    return _SECTIONS.get(names[-1]) if names else Settings

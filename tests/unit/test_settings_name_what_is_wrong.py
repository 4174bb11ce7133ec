"""A setting that is unknown, of the wrong type or impossible is named, with its value and rule."""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from prescreen import settings
from prescreen.errors import SettingsError

EXAMPLE = Path(__file__).parents[2] / "deploy" / "prescreen.toml"


def _load(tmp_path: Path, text: str) -> settings.Settings:
    path = tmp_path / "prescreen.toml"
    path.write_text(text)
    return settings.load(path)


def test_defaults_let_nobody_in_and_send_nowhere() -> None:
    fresh = settings.load()
    assert fresh.receive.peers == ()
    assert fresh.receive.host == "127.0.0.1"
    assert fresh.destinations == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data_dir = [", ["is not valid TOML"]),
        ("dat_dir = '/x'", ["dat_dir: unknown key", "did you mean 'data_dir'?"]),
        ("[receive]\nprt = 1", ["receive.prt: unknown key", "'port'"]),
        ("[receive]\nport = 'x'", ["receive.port = 'x'", "valid integer"]),
        ("[receive]\nport = 70000", ["receive.port = 70000", "less than or equal to 65535"]),
        ("[receive]\nae_title = 'SEVENTEEN_LETTERS'", ["receive.ae_title", "1 to 16 characters"]),
        ("[receive]\nae_title = 'A\\\\B'", ["receive.ae_title", "without backslash"]),
        ("[screen]\nquiet_period = 9999", ["quiet_cap must not be shorter"]),
        ("[report]\nattention = true", ["report.attention = True", "'off' or 'where_proven'"]),
        ("[report]\nurgency = ['Hernia']", ["report.urgency", "each of the 14 findings once"]),
        ("[[receive.peers]]\nae_title='A'\nnetworks=['ten']", ["receive.peers.0.networks", "ten"]),
        ("[[destinations]]\nname='a'\nhost='h'\nport=1", ["destinations.0.ae_title: is required"]),
        (
            "[[destinations]]\nname='../a'\nae_title='A'\nhost='h'\nport=1",
            ["destinations.0.name = '../a'"],
        ),
        (
            "[[destinations]]\nname='a'\nae_title='A'\nhost='h'\nport=1\ntest=true",
            ['audience = "evaluation"'],
        ),
        ("[receive]\nport = true", ["receive.port = True: a number, neither true nor false"]),
        ("[screen]\nlease = inf", ["screen.lease = inf: Input should be a finite number"]),
        ("[screen]\nlease = nan", ["screen.lease = nan: Input should be a finite number"]),
        ("[screen]\nlease = 86401", ["screen.lease = 86401", "less than or equal to 86400"]),
        (
            "[housekeeping]\nretention_days = 1e6",
            ["housekeeping.retention_days = 1000000.0", "less than or equal to 36500"],
        ),
        ("[receive]\nhost = ''", ["receive.host = ''", '"0.0.0.0" or "::" is every interface']),
        ("[metrics]\nhost = ' '", ["metrics.host = ' '", '"0.0.0.0" or "::" is every interface']),
        ("[syslog]\nhost = ' '", ["syslog.host = ' '", "an address, without blanks"]),
        ("[receive]\nhost = 'a..b'", ["receive.host = 'a..b'", "1 to 63 letters or digits"]),
        (
            "[[destinations]]\nname='a'\nae_title='A'\nhost=''\nport=1",
            ["destinations.0.host = ''", "a host name or an address, without blanks"],
        ),
        (
            f"[[destinations]]\nname='a'\nae_title='A'\nhost='{'h' * 64}'\nport=1",
            ["destinations.0.host = 'hhh", "between the dots of a host name are 1 to 63 letters"],
        ),
        (
            "[[destinations]]\nname='a'\nae_title='A'\nhost='h'\nport=1\nretry_first=5\nretry_cap=4",
            ["destinations.0", "retry_cap = 4 must not be shorter than retry_first = 5"],
        ),
        (
            "[[receive.peers]]\nae_title='A'\nnetworks=[]",
            ["receive.peers.0.networks = []: at least one network", "never come in"],
        ),
        ("data_dir = ''", ["data_dir = '': a path: an empty one would be the current folder"]),
        ("weights_dir = ''", ["weights_dir = '': a path"]),
        ("[report]\nfont = ' '", ["report.font = ' ': a path"]),
        *(
            (f"[report]\nmanufacturer = '{name}'", ["report.manufacturer", "printable ASCII"])
            for name in ("", " ", "Köln", "A\\B")
        ),
        (
            "[metrics]\nport = 11112",
            ["metrics = {'port': 11112}: port must differ from receive.port"],
        ),
        (
            "[receive.tls]\ncertificate='c'\nkey='k'\nauthorities='a'\n[metrics]\nport=2762",
            ["metrics = {'port': 2762}: port must differ from receive.tls.port"],
        ),
    ],
)
def test_the_key_the_value_and_the_rule_are_named(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        _load(tmp_path, text)
    assert "prescreen.toml" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_attention_is_off_unless_asked_for_and_false_is_off_as_before(tmp_path: Path) -> None:
    assert settings.load().report.attention == "off"
    assert _load(tmp_path, "[report]\nattention = false").report.attention == "off"
    wanted = _load(tmp_path, "[report]\nattention = 'where_proven'")
    assert wanted.report.attention == "where_proven"


def test_a_port_that_is_not_listened_on_is_free_for_the_metrics(tmp_path: Path) -> None:
    text = "[receive]\nclear = false\n[receive.tls]\ncertificate='c'\nkey='k'\nauthorities='a'\n"
    assert _load(tmp_path, f"{text}[metrics]\nport = 11112").metrics.port == 11112


@pytest.mark.parametrize("host", ["::", "0.0.0.0", "fe80::1%eth0", "pacs_1.", "süd.example"])
def test_hosts_are_names_and_addresses(tmp_path: Path, host: str) -> None:
    loaded = _load(tmp_path, f"[receive]\nhost = '{host}'\n[syslog]\nhost = '{host}'")
    assert (loaded.receive.host, loaded.syslog.host) == (host, host)


def test_two_destinations_of_one_name_are_refused(tmp_path: Path) -> None:
    block = "[[destinations]]\nname='a'\nae_title='A'\nhost='h'\nport=1\n"
    with pytest.raises(SettingsError, match="destinations have different names"):
        _load(tmp_path, block * 2)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone.toml: cannot be read: No such file"):
        settings.load(tmp_path / "gone.toml")


def test_the_environment_goes_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRESCREEN__RECEIVE__PORT", "11999")
    assert _load(tmp_path, "[receive]\nport = 11112\nmax_associations = 3").receive.port == 11999
    assert _load(tmp_path, "[receive]\nmax_associations = 3").receive.max_associations == 3


def test_numbers_in_the_environment_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESCREEN__RECEIVE__PORT", "11113")
    monkeypatch.setenv("PRESCREEN__SCREEN__LEASE", "90")
    fresh = settings.load()
    assert (fresh.receive.port, fresh.screen.lease) == (11113, 90.0)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PRESCREEN__RECEIVE__PRT", "1", ["receive.prt: unknown key", "'port'"]),
        ("PRESCREEN__DATA_DIR__X", "1", ["unknown key"]),
        ("prescreen__receive__port", "true", ["receive.port = 'true'", "valid integer"]),
        ("PRESCREEN__SCREEN__LEASE", "inf", ["screen.lease = 'inf'", "finite number"]),
        ("PRESCREEN__DATA_DIR", "", ["data_dir = '': a path"]),
        ("PRESCREEN__RECEIVE__PEERS", '[{"ae_title": ""}]', ["receive.peers.0.ae_title = ''"]),
    ],
)
def test_the_variable_that_a_wrong_value_came_from_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: list[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        _load(tmp_path, "[receive]\nport = 0")
    told = [line for line in str(caught.value).splitlines() if name in line]
    assert len(told) == 1 and told[0].startswith(f"environment {name}: ")
    for word in words:
        assert word in told[0]


def test_an_unknown_environment_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESCREEN__RECIEVE__PORT", "1")
    with pytest.raises(SettingsError, match=r"PRESCREEN__RECIEVE__PORT: unknown key.*'receive'"):
        settings.load()


def test_a_list_in_the_environment_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESCREEN__SCOPE__CALLING_AE_TITLES", "PACS")
    with pytest.raises(SettingsError, match=r"scope.*a list is written as JSON"):
        settings.load()
    monkeypatch.setenv("PRESCREEN__SCOPE__CALLING_AE_TITLES", '["PACS"]')
    assert settings.load().scope.calling_ae_titles == ("PACS",)


def test_an_unconfigured_destination_is_answered_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"'x' is not configured \(known: main\)"):
        settings.load(EXAMPLE).destination("x")


def _documented(section: type[BaseModel], text: str) -> set[str]:
    return {
        name
        for name in section.model_fields
        if re.search(rf"^(# |#   )?{name} = ", text, re.MULTILINE)
    }


def _blocks() -> dict[str, str]:
    blocks: dict[str, str] = {}
    name = ""
    for line in EXAMPLE.read_text().splitlines(keepends=True):
        header = re.match(r"^(?:# )?\[+([a-z.]+)\]+$", line.strip())
        name = header.group(1) if header else name
        blocks[name] = blocks.get(name, "") + line
    return blocks


SECTIONS: dict[str, type[BaseModel]] = {
    "receive": settings.Receive,
    "receive.tls": settings.ReceiveTLS,
    "receive.peers": settings.Peer,
    "screen": settings.Screen,
    "scope": settings.Scope,
    "report": settings.Report,
    "destinations": settings.Destination,
    "destinations.tls": settings.DestinationTLS,
    "housekeeping": settings.Housekeeping,
    "syslog": settings.Syslog,
    "metrics": settings.Metrics,
    "log": settings.Log,
}


NUMBERS = [
    (name, key)
    for name, section in SECTIONS.items()
    for key, field in section.model_fields.items()
    if field.annotation in (int, float)
]


def _most(name: str, key: str) -> float | None:
    rules = SECTIONS[name].model_fields[key].metadata
    return next((float(rule.le) for rule in rules if hasattr(rule, "le")), None)


@pytest.mark.parametrize(("name", "key"), NUMBERS)
@pytest.mark.parametrize("value", [True, False, math.inf, -math.inf, math.nan, "nan"])
def test_no_number_is_a_switch_or_without_end(name: str, key: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        SECTIONS[name].model_validate({key: value})
    said = [fault["msg"] for fault in caught.value.errors() if fault["loc"] == (key,)]
    rule = "neither true nor false" if isinstance(value, bool) else "number|integer"
    assert len(said) == 1 and re.search(rule, said[0])


@pytest.mark.parametrize(("name", "key"), NUMBERS)
def test_every_measure_has_an_upper_bound(name: str, key: str) -> None:
    is_count = SECTIONS[name].model_fields[key].annotation is int
    assert is_count or _most(name, key) is not None


def test_instants_can_be_reckoned_with_the_longest_times() -> None:
    now = datetime.datetime.now(datetime.UTC)
    days = {key: _most(name, key) for name, key in NUMBERS if key.endswith("_days")}
    assert set(days) == {"retention_days", "commitment_days", "certificate_warn_days"}
    for most in days.values():
        assert now - datetime.timedelta(days=most or 0) < now
    hours = datetime.timedelta(hours=_most("scope", "acquired_within_hours") or 0)
    assert now - datetime.datetime.min.replace(tzinfo=datetime.UTC) < hours
    cap = _most("screen", "quiet_cap")
    assert now + datetime.timedelta(seconds=cap or 0) > now


@pytest.mark.parametrize("name", SECTIONS)
def test_the_example_documents_every_setting(name: str) -> None:
    section = SECTIONS[name]
    nested = {key.removeprefix(f"{name}.") for key in SECTIONS if key.startswith(f"{name}.")}
    assert _documented(section, _blocks()[name]) == set(section.model_fields) - nested


def test_the_example_documents_the_top_and_every_section() -> None:
    top = {"data_dir", "weights_dir"}
    assert _documented(settings.Settings, _blocks()[""]) == top
    assert set(settings.Settings.model_fields) - top == {key for key in SECTIONS if "." not in key}


def test_the_defaults_shown_in_the_example_are_the_defaults(tmp_path: Path) -> None:
    shown = re.sub(r"^# (\w+ = )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
    content = tomllib.loads(shown)
    # these have no default to show, only an example
    content.pop("weights_dir")
    content["report"].pop("font")
    loaded = settings.Settings(**content)
    assert loaded.receive == settings.Receive(peers=loaded.receive.peers)
    for name in ("screen", "scope", "report", "housekeeping", "log"):
        assert getattr(loaded, name) == SECTIONS[name]()
    assert loaded.data_dir == settings.Settings().data_dir

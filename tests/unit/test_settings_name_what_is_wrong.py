"""A setting that is unknown, of the wrong type or impossible is named, with its value and rule."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

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
        ("[screen]\nquiet_period = 99999", ["quiet_cap must not be shorter"]),
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

"""The unit, the image and the demonstration PACS: shut in, and agreeing on names, ports, places."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
from pathlib import Path

from prescreen.settings import load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = (DEPLOY / "compose.yaml").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
ORTHANC = json.loads((DEPLOY / "orthanc.json").read_text())


def test_the_units_exposure_is_below_3() -> None:
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(DEPLOY / "prescreen.service")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said.stdout)
    assert found is not None, said.stderr
    assert float(found[1]) < 3.0


def test_the_unit_writes_its_data_directory_alone_and_leaves_no_core() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "prescreen.service")
    service = unit["Service"]
    assert service["ProtectSystem"] == "strict"
    assert "ReadWritePaths" not in service
    assert f"/var/lib/{service['StateDirectory']}" == str(load(None).data_dir)
    assert service["LimitCORE"] == "0"


def test_the_image_runs_without_rights_on_a_file_system_that_is_only_read() -> None:
    last_stage = DOCKERFILE.split("FROM ")[-1]
    assert re.search(r"^USER 10001:10001$", last_stage, re.M)
    assert "root" not in re.findall(r"^USER (\S+)", DOCKERFILE, re.M)
    node = COMPOSE.split("  prescreen:")[1]
    for words in ('user: "10001:10001"', "read_only: true", "- ALL", "no-new-privileges:true"):
        assert words in node
    assert "privileged" not in COMPOSE.replace("no-new-privileges", "")


def test_the_image_is_built_of_what_is_there() -> None:
    copied = re.findall(r"^COPY (?!--)(.+)", DOCKERFILE, re.M)
    for names in copied:
        for name in names.split()[:-1]:
            assert (ROOT / name).exists(), name


def test_node_and_pacs_of_the_demonstration_know_each_other() -> None:
    settings = load(DEPLOY / "compose.toml")
    (known,) = ORTHANC["DicomModalities"].values()
    (destination,), (peer,) = settings.destinations, settings.receive.peers
    assert (known["AET"], known["Port"]) == (settings.receive.ae_title, settings.receive.port)
    assert (destination.ae_title, destination.port) == (ORTHANC["DicomAet"], ORTHANC["DicomPort"])
    assert peer.ae_title == ORTHANC["DicomAet"]
    addresses = re.findall(r"ipv4_address: (\S+)", COMPOSE)
    assert addresses == [destination.host, known["Host"]]
    assert destination.test, "a demonstration sends without go-live to a test destination alone"

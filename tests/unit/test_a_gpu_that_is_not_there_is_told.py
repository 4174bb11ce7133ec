"""`prescreen check` says where the networks run, and that the GPU asked for cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from prescreen import checks
from prescreen.nets import screener
from prescreen.settings import Settings


def _device(tmp_path: Path, device: str) -> checks.Check:
    settings = Settings.model_validate({"data_dir": tmp_path, "screen": {"device": device}})
    (found,) = (one for one in checks.run(settings, None) if one.what == "device")
    return found


@pytest.mark.parametrize(
    ("device", "there", "ok", "said"),
    [
        ("auto", False, True, "a GPU where one can be used, else the processor"),
        ("cpu", True, True, "the processor"),
        ("cuda", True, True, "the GPU"),
        ("cuda", False, False, "no GPU can be used here"),
    ],
)
def test_check_says_where_the_networks_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    there: bool,
    ok: bool,
    said: str,
) -> None:
    monkeypatch.setattr(screener, "has_gpu", lambda: there)
    found = _device(tmp_path, device)
    assert (found.ok, said in found.said) == (ok, True)


def test_it_says_what_happens_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screener, "has_gpu", lambda: False)
    said = _device(tmp_path, "cuda").said
    assert "screen.device = 'cuda'" in said
    assert "run on the processor" in said

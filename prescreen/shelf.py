"""The weights of a node: what there is, whether it is sound, what is brought in, what is chosen.

`use` keeps a copy of its own below the data directory, so that nobody who moves a folder or pulls
out a disk takes the weights from a node that runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prescreen import node
from prescreen.errors import SettingsError, StoreError, WeightsError
from prescreen.nets import weights
from prescreen.nets.weights import Manifest, Source
from prescreen.settings import Settings
from prescreen.store.choice import Choice, Choices
from prescreen.store.owner import hand_over
from prescreen.study import LABELS

SHIPPED = "shipped"
PREVIOUS = "previous"
#: The files of a set of weights: two networks, each with tensors, manifest and model card.
FILES = tuple(f"{n}.{kind}" for n in weights.NETWORKS for kind in ("safetensors", "json", "md"))
_DIGITS = 12
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")


@dataclass(frozen=True)
class Holding:
    """One set of weights that the node can use: what its manifests state, and who chose it last.

    `problem` says what is wrong with it; the other entries are empty then.
    """

    name: str
    folder: str
    in_use: bool
    version: str = ""
    architecture: str = ""
    preset: str = ""
    findings: str = ""
    lungs_heart: str = ""
    evaluated: int = 0
    released: int = 0
    chosen: str | None = None
    problem: str | None = None


# ---------------------------------------------------------------- list and verify


def holdings(settings: Settings) -> list[Holding]:
    """What is in use first, then what else was ever chosen here, then what is shipped."""
    choices = _history(settings)
    folders = {SHIPPED: node.shipped_weights()}
    kept = settings.data_dir / node.WEIGHTS
    if os.path.isdir(kept):  # noqa: PTH112 - False where it may not be looked at
        folders |= {path.name: path for path in sorted(kept.iterdir()) if _is_whole(path)}
    current = (choices[0].folder if choices else None) or SHIPPED
    if settings.weights_dir is not None:
        current = str(settings.weights_dir)
        folders[current] = settings.weights_dir
    found = [_holding(n, folder, n == current, choices) for n, folder in folders.items()]
    return sorted(found, key=lambda holding: (not holding.in_use, holding.name == SHIPPED))


def _is_whole(path: Path) -> bool:
    """What a killed `use` left half copied begins with a dot."""
    return path.is_dir() and not path.name.startswith(".")


def _history(settings: Settings) -> tuple[Choice, ...]:
    if node.chosen_weights(settings) is None:
        return ()
    engine = node.open_store(settings).engine
    try:
        return Choices(engine).newest_first(1_000)
    finally:
        engine.dispose()


def _holding(name: str, folder: Path, in_use: bool, choices: tuple[Choice, ...]) -> Holding:
    last = next((c for c in choices if (c.folder or SHIPPED) == name), None)
    chosen = None if last is None else f"{last.at:%Y-%m-%d %H:%M} UTC by {last.who}: {last.why}"
    try:
        weights.describe(folder)
        manifest = weights.read_manifest(folder / "findings.json")
        drawn = weights.read_manifest(folder / "lungs_heart.json")
    except WeightsError as error:
        return Holding(name, str(folder), in_use, chosen=chosen, problem=str(error))
    return Holding(
        name,
        str(folder),
        in_use,
        version=manifest.version,
        architecture=manifest.architecture,
        preset=manifest.preset,
        findings=manifest.sha256,
        lungs_heart=drawn.sha256,
        evaluated=len(manifest.evaluated),
        released=sum(told.reached for told in manifest.release.values()),
        chosen=chosen,
    )


def verify(folder: Path) -> Manifest:
    """Load the weights in a folder and look at two pictures; the findings' manifest comes back.

    Raises WeightsError where a file, a digest, a tensor or an answer is not as it has to be.
    """
    import numpy as np

    from prescreen.errors import UnusableImage
    from prescreen.nets.screener import Screener
    from prescreen.study import Header, Radiograph

    if not folder.is_dir():
        raise WeightsError(f"{folder}: is no folder; name one with findings.* and lungs_heart.*")
    screener = Screener(folder, device="cpu", engine_name="torch")
    ramp = np.linspace(0, 1, 96 * 96, dtype=np.float32).reshape(96, 96)
    header = Header("1.2.840.10008.5.1.4.1.1.1", "1.2", "1.3", "1.4")
    pictures = [Radiograph(header, p, (96, 96), None, "") for p in (ramp, ramp.T.copy())]
    try:
        answers = screener(pictures)
    except UnusableImage as error:
        raise WeightsError(
            f"{folder}: its networks give no finite numbers; take other weights"
        ) from error
    assert len(answers) == len(pictures)
    return weights.read_manifest(folder / "findings.json")


def in_words(manifest: Manifest) -> str:
    """What weights are and can answer for, in a sentence or two."""
    said = (
        f"sound; {manifest.version} ({manifest.architecture}), sha256 {manifest.sha256[:_DIGITS]}; "
        f"{len(manifest.evaluated)} of {len(LABELS)} findings evaluated, "
        f"{sum(told.reached for told in manifest.release.values())} reach the release bar"
    )
    reasons = (f"{label} ({why})" for label, why in manifest.not_evaluated.items())
    return f"{said}; not evaluated: {', '.join(reasons)}" if manifest.not_evaluated else said


# ---------------------------------------------------------------- use


def use(settings: Settings, wanted: str, who: str, why: str) -> str:
    """Choose weights for studies claimed from now on; returns the name they are kept under.

    `wanted` is a folder, the name of weights kept here, `shipped`, or `previous`. They are
    verified, then copied, then chosen in one transaction with the audit event: a process that is
    killed on the way has changed nothing. Raises SettingsError where the settings name a folder
    themselves, WeightsError as `verify` does.
    """
    if settings.weights_dir is not None:
        raise SettingsError(
            f"weights_dir = {str(settings.weights_dir)!r} in the settings says which weights are "
            "used; take it out of the settings, then choose with `weights use`"
        )
    store = node.open_store(settings)
    choices = Choices(store.engine)
    folder = _meant(settings, wanted, choices)
    verify(folder)
    digests = weights.digests(folder)
    if folder == node.shipped_weights():
        choices.choose(None, digests, who, why)
        return SHIPPED
    name = name_of(digests)
    _keep(folder, settings.data_dir / node.WEIGHTS / name, digests)
    hand_over(settings.data_dir)
    choices.choose(name, digests, who, why)
    return name


def name_of(digests: Mapping[str, str]) -> str:
    """The name of weights by what their manifests state: the same again for the same content."""
    text = "".join(digests[network] for network in sorted(digests))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _meant(settings: Settings, wanted: str, choices: Choices) -> Path:
    if wanted == PREVIOUS:
        wanted = _previous(choices)
    if wanted == SHIPPED:
        return node.shipped_weights()
    kept = settings.data_dir / node.WEIGHTS / wanted
    if len(wanted) == _DIGITS and wanted.isalnum() and kept.is_dir():
        return kept
    return Path(wanted)


def _previous(choices: Choices) -> str:
    """What was in use before what is in use now; before the first choice it was the shipped."""
    history = choices.newest_first(2)
    if not history:
        raise WeightsError("no weights were ever chosen here: there are no previous ones")
    return (history[1].folder if len(history) > 1 else None) or SHIPPED


def _keep(folder: Path, kept: Path, digests: Mapping[str, str]) -> None:
    """A copy that appears whole or not at all, durable on return."""
    if kept.is_dir() and weights.digests(kept) == digests and _describes(kept):
        return
    partial = kept.with_name(f".{kept.name}.{uuid.uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        for name in FILES:
            if (folder / name).is_file():
                _copy(folder / name, partial / name)
        weights.describe(partial)
        if kept.exists():  # damaged: what is verified takes its place
            kept.rename(kept.with_name(f".{kept.name}.damaged.{uuid.uuid4().hex}"))
        partial.rename(kept)
        _flush(kept.parent)
    except OSError as error:
        raise StoreError(f"{kept}: {error.strerror}; the weights in use are unchanged") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _describes(kept: Path) -> bool:
    try:
        weights.describe(kept)
    except WeightsError:
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("wb") as written:
        shutil.copyfileobj(read, written)
        written.flush()
        os.fsync(written.fileno())


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- import


@dataclass(frozen=True)
class Brought:
    """What a site says of a checkpoint it brings: see docs/weights.md."""

    checkpoint: Path
    out: Path
    name: str
    licence: str
    labels: str | None = None
    thresholds: Path | None = None
    input_size: int = 224


def bring(settings: Settings, brought: Brought) -> Manifest:
    """Make a folder of weights out of a checkpoint; lungs and heart are those in use.

    The folder appears whole, verified, or not at all. Raises WeightsError as `checkpoint.read`
    does, and where the folder is there already.
    """
    from prescreen.nets import checkpoint

    out = brought.out
    if out.exists():
        raise WeightsError(f"{out}: is there already; name another folder with --out")
    if brought.input_size % 32 or not 64 <= brought.input_size <= 512:
        raise WeightsError(
            f"--input-size {brought.input_size}: a multiple of 32 from 64 to 512, "
            "what the network was trained at"
        )
    if not _NAME.fullmatch(brought.name):
        raise WeightsError(f"--name {brought.name!r}: up to 32 letters, digits, dots and hyphens")
    meaning = checkpoint.Meaning(_labels(brought.labels), _thresholds(brought.thresholds))
    found = checkpoint.read(brought.checkpoint, meaning)
    manifest = _manifest(found, brought)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    try:
        weights.write_manifest(partial, manifest, found.tensors, storage="float32")
        (partial / "findings.md").write_text(_card(manifest, brought), encoding="utf-8")
        for name in FILES:
            if name.startswith("lungs_heart") and (node.weights_dir(settings) / name).is_file():
                shutil.copyfile(node.weights_dir(settings) / name, partial / name)
        written = verify(partial)
        partial.rename(out)
    except OSError as error:
        raise WeightsError(f"{out}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written


def _labels(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _thresholds(path: Path | None) -> dict[str, float] | None:
    if path is None:
        return None
    try:
        raw: Any = json.loads(path.read_bytes())
        return {str(label): float(value) for label, value in raw.items()}
    except OSError as error:
        raise WeightsError(f"--thresholds {path}: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"--thresholds {path}: is not JSON of the form "
            '{"Effusion": 0.31, "Mass": 0.12}, each between 0 and 1'
        ) from error


_GREY = {
    "torchxrayvision": "grey values as they are, -1024 to 1024",
    "chexnet": "grey values as they are, three channels with ImageNet's mean and spread",
    "torchvision": "grey values as they are, three channels with ImageNet's mean and spread",
}


def _manifest(found: Any, brought: Brought) -> Manifest:
    content = brought.checkpoint.read_bytes()
    return Manifest(
        network="findings",
        version=brought.name,
        architecture=found.architecture,
        input_size=brought.input_size,
        normalisation="squashed whole to 512 and then to the input size, antialiased bilinear; "
        + _GREY[found.kind],
        labels=LABELS,
        preset="imported",
        thresholds={label: round(value, 6) for label, value in found.thresholds.items()},
        threshold_rule="given by the site" if brought.thresholds else "op_threshs, as imported",
        figures_from="none: imported weights have not been evaluated here",
        sources=(Source(brought.name, brought.licence, f"imported weights ({found.kind})"),),
        config={
            "file": brought.checkpoint.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "outputs": list(found.outputs),
            "left_out": list(found.left_out),
        },
        not_evaluated=found.not_evaluated,
    )


def _card(manifest: Manifest, brought: Brought) -> str:
    """The model card of imported weights: what can be said of them, and what cannot."""
    known = ", ".join(manifest.evaluated) or "none yet"
    unknown = ", ".join(f"{k} ({v})" for k, v in manifest.not_evaluated.items()) or "none"
    return (
        f"# Findings: {manifest.version} (imported)\n\n"
        f"Imported from `{brought.checkpoint.name}`; licence as stated: {brought.licence}.\n"
        f"Architecture {manifest.architecture}, input {manifest.input_size}.\n\n"
        f"- **Evaluated:** {known}.\n- **Not evaluated:** {unknown}.\n"
        "- **How good it is here:** not known. Nothing was measured on the site's radiographs, so\n"
        "  no finding reaches the release bar: at a release destination none is shown.\n"
        "- **No masks:** the network sees the whole radiograph, has one head, and cannot disagree\n"
        "  with itself as the shipped ones do.\n- **Not for diagnosis.**\n"
    )

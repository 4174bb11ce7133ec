"""What real viewers show of a real radiograph's results: `python -m tests.e2e.viewers` writes it.

One chest goes through the networks; every kind of object made of it goes to an Orthanc, and from
there to OHIF in a browser; DCMTK's tools read the files. What each shows is observed, not assumed:
docs/viewers.md holds the table, and a test holds the table to what is observed again.
"""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sysconfig
import tempfile
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image

from prescreen import edition, node, screening, settings
from prescreen.dicom import codes, report, wording
from prescreen.dicom.report import measurement_report
from prescreen.edition import Edition, Written
from prescreen.study import LABELS, Audience, Instance
from tests import results
from tests.peers import browser, ohif, orthanc
from tests.peers.browser import Browser, Pixels
from tests.peers.made import every_kind

PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
DOCS = Path(__file__).parents[2] / "docs"
KINDS: tuple[str, ...] = get_args(settings.ObjectKind)
OHIF, ORTHANC = f"OHIF {ohif.VERSION}", "Orthanc Explorer"
#: Those that read files.
READERS = ("dsrdump", "dsr2html", "dcmj2pnm", "dcmpschk", "dcmp2pgm", "dcmqi")
RULES = ("3D Slicer (rule)", "Weasis (rule)")
VIEWERS = (OHIF, ORTHANC, *READERS, *RULES)
#: Pictures that stand in the docs, by the file they are kept in.
SHOWN = {"regions": "viewer-regions.png", "sr": "viewer-findings.png"}

#: Of these a viewer may make what it likes of the others.
OVERLAYS = ("presentation", "segmentation")
_TITLED = 9500  # series number of the findings under the standard's title

_THUMBNAILS = """JSON.stringify([...document.querySelectorAll(
  '[data-cy^=study-browser-thumbnail]')].map(e => {
    const r = e.getBoundingClientRect();
    return [e.innerText, r.x + r.width / 2, r.y + r.height / 2]; }))"""
_SKIP_TOUR = """[...document.querySelectorAll('button,a')]
  .filter(e => e.innerText == 'Skip all').map(e => e.click()).length"""
_CANVAS = """JSON.stringify((() => {
  const c = document.querySelector('canvas'); if (!c) return null;
  const r = c.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; })())"""


@dataclass
class Observed:
    """What was seen: a sentence by (kind, viewer), and the browser's page by kind."""

    seen: dict[tuple[str, str], str] = field(default_factory=dict)
    pages: dict[str, Pixels] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    objects: dict[str, Written] = field(default_factory=dict)
    canvas: tuple[float, float, float, float] = (0, 0, 0, 0)
    #: what the page of the findings would say under the title of the standard
    under_the_standards_title: str = ""


def screened(folder: Path, language: str = "en") -> dict[str, Written]:
    """Every kind of object of one real chest, through the networks that are shipped."""
    return {item.described.kind: item for item in everything(folder, language=language)}


def everything(folder: Path, weights: Path | None = None, **report: str) -> list[Written]:
    """All objects of one real chest, with settings of the report, through some networks."""
    from prescreen.nets.screener import Screener

    configured = settings.load(data_dir=folder, weights_dir=weights, report=report)
    screener = Screener(node.weights_dir(configured), "cpu")
    header = results.chest_header()
    instance = Instance(
        instance_id=1,
        study_instance_uid=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid="",
        sha256="",
        size=0,
        path=results.chest_path(),
        calling_ae_title="",
        received_at=datetime.datetime.now(datetime.UTC),
    )
    with node.open_decoder(configured) as decoder:
        images = screening.screen([instance], decoder, screener, scope=None)
    shared = Edition(
        screener.model,
        configured.report,
        Audience.EVALUATION,
        results.MADE,
        kinds=frozenset(KINDS),
    )
    return list(edition.objects(images, shared))


def observe(folder: Path) -> Observed:
    """Show everything to everyone."""
    found = Observed(objects=screened(folder))
    _read_files(folder, found)
    web = {"Enable": True, "Root": "/dicom-web/"}
    with orthanc.running(folder / "pacs", Plugins=[PLUGIN], DicomWeb=web) as archive:
        archive.post("/instances", results.chest_path().read_bytes())
        archive.post("/instances", _under_the_standards_title())
        for kind in set(found.objects) - set(OVERLAYS):
            _store(archive, kind, found)
        address = f"http://127.0.0.1:{archive.http_port}"
        with ohif.running(address) as viewer, browser.running(folder) as page:
            _observe_in_ohif(page, viewer, found)
            for kind in OVERLAYS:  # each could change how the others hang
                _store(archive, kind, found)
                _open_study(page, viewer)
                _observe_one(page, kind, found)
            _picture_pages(folder, page, found)
    return found


def _read_files(folder: Path, found: Observed) -> None:
    """What reads files, and what the rules of those say that were not run."""
    for kind, item in found.objects.items():
        path = folder / f"{kind}.dcm"
        path.write_bytes(item.part10)
        for reader in READERS:
            found.seen[kind, reader] = _READ[reader](kind, path, found)
        found.seen[kind, "3D Slicer (rule)"] = _by_slicers_rule(path)
        found.seen[kind, "Weasis (rule)"] = _by_weasis_rule(path)


def _picture_pages(folder: Path, page: Browser, found: Observed) -> None:
    """How the pages of dsr2html look."""
    for kind in _DOCUMENTS:
        page.open((folder / f"{kind}.html").as_uri())
        page.wait(lambda: "AI" in page.text(), "the page is there")
        found.pages[f"dsr2html-{kind}"] = page.picture()


# --- OHIF ----------------------------------------------------------------------------------------


def _open_study(page: Browser, viewer: str) -> None:
    study = results.chest_header().study_instance_uid
    page.open(f"{viewer}/viewer?StudyInstanceUIDs={study}")
    page.wait(lambda: _is_painted(page), "the radiograph is painted")


def _is_painted(page: Browser) -> bool:
    place = _canvas(page)
    return place[2] > 0 and bool(_cut(page.picture(), place).std() > 20)


def _canvas(page: Browser) -> tuple[float, float, float, float]:
    left, top, width, height = json.loads(page.run(_CANVAS) or "null") or (0, 0, 0, 0)
    return left, top, width, height


def _cut(picture: Pixels, place: tuple[float, float, float, float]) -> Pixels:
    left, top, width, height = (round(number) for number in place)
    return picture[top : top + height, left : left + width]


def _click_series(page: Browser, number: int) -> None:
    """Double click on what the browser of the study lists under a series number: one click, once
    the object is hung."""
    listed = json.loads(page.run(_THUMBNAILS))
    (place,) = [(x, y) for text, x, y in listed if f"S:{number}" in text.split("\n")]
    page.errors.clear()
    page.click(*place, count=2)


def _observe_in_ohif(page: Browser, viewer: str, found: Observed) -> None:
    _open_study(page, viewer)
    page.wait(lambda: page.run(_SKIP_TOUR), "the viewer offers its tour, the first time")
    page.wait(lambda: "Skip all" not in page.text(), "the tour is over")
    found.canvas = _canvas(page)
    found.pages["radiograph"] = page.picture()
    _observe_one(page, "capture", found)
    _click_series(page, _TITLED)
    _eventually(lambda: "Pneumothorax" in page.text(), 4)
    found.under_the_standards_title = page.text()
    _open_study(page, viewer)  # what that object did to the page is not to be blamed on ours
    for kind in ("sr", "regions", "text"):
        _observe_one(page, kind, found)


def _observe_one(page: Browser, kind: str, found: Observed) -> None:
    offset, is_shown, sentence = _STEPS[kind]
    _click_series(page, settings.Report().series_number + offset)
    seen = _eventually(lambda: is_shown(page, found), 20 if kind != "segmentation" else 4)
    # a page that fails says so a moment later
    said_wrong = _eventually(lambda: _WRONG in page.text(), 2)
    found.pages[kind], found.words[kind] = page.picture(), page.text()
    failed = "fails" if page.errors or said_wrong else "not shown"
    found.seen[kind, OHIF] = sentence if seen and not said_wrong else failed


#: What OHIF says over a page that threw.
_WRONG = "Something went wrong"


def _eventually(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
    while datetime.datetime.now() < deadline:
        if condition():
            return True
    return False


def _shows_the_findings(page: Browser, found: Observed) -> bool:
    said = page.text()
    names = {codes.FINDINGS[label].concept.meaning for label in LABELS}
    return report.FINDINGS.title.meaning in said and all(name in said for name in names)


def _shows_the_sentences(page: Browser, found: Observed) -> bool:
    return wording.words("en").catalogue.says.never_looked_for in page.text()


def shows_the_page(page: Browser, found: Observed) -> bool:
    """Whether the capture hangs as it was drawn, at the size of the viewport."""
    return likeness(_cut(page.picture(), _canvas(page)), found.objects["capture"].page) < 12


def likeness(area: Pixels, drawn: Pixels) -> float:
    """Mean difference, in grey levels, between a viewport and a page fitted into it."""
    scale = min(area.shape[0] / drawn.shape[0], area.shape[1] / drawn.shape[1])
    size = round(drawn.shape[1] * scale), round(drawn.shape[0] * scale)
    fitted = np.asarray(Image.fromarray(drawn).resize(size, Image.Resampling.BILINEAR))
    top, left = (area.shape[0] - size[1]) // 2, (area.shape[1] - size[0]) // 2
    inside = area[top : top + size[1], left : left + size[0]]
    if inside.shape != fitted.shape:
        return 255.0
    return float(np.abs(inside.astype(np.int16) - fitted).mean())


def shows_the_outlines(page: Browser, found: Observed) -> bool:
    """Whether colour lies where the outlines must be."""
    return coloured(page.picture(), found, (0, 0)) > 0.7


def coloured(picture: Pixels, found: Observed, moved: tuple[int, int]) -> float:
    """The share of points on the outlines, moved by so many pixels, that have colour near them."""
    levels = _cut(picture, found.canvas).astype(np.int16)
    colour = levels.max(axis=2) - levels.min(axis=2) > 60
    near = _grown(colour, 4)
    points = np.concatenate(_outlines(found))
    header = results.chest_header()
    rows, columns = header.rows or 1, header.columns or 1
    scale = min(levels.shape[0] / rows, levels.shape[1] / columns)
    top, left = (levels.shape[0] - rows * scale) / 2, (levels.shape[1] - columns * scale) / 2
    x = np.clip(points[:, 0] * scale + left + moved[0], 0, levels.shape[1] - 1).astype(int)
    y = np.clip(points[:, 1] * scale + top + moved[1], 0, levels.shape[0] - 1).astype(int)
    return float(near[y, x].mean())


def _grown(mask: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    grown = mask.copy()
    for _ in range(reach):
        for axis in (0, 1):
            grown = grown | np.roll(grown, 1, axis) | np.roll(grown, -1, axis)
    return grown


def _outlines(found: Observed) -> list[npt.NDArray[np.float64]]:
    """The points of the regions' lines, as read back from the object."""
    with tempfile.TemporaryFile() as file:
        file.write(found.objects["regions"].part10)
        file.seek(0)
        tree = pydicom.dcmread(file)
    groups = tree.ContentSequence[-1].ContentSequence
    items = [item for group in groups for item in group.ContentSequence]
    lines = [item.GraphicData for item in items if item.ValueType == "SCOORD"]
    return [np.array(line, np.float64).reshape(-1, 2) for line in lines]


def _has_changed_nothing(page: Browser, found: Observed) -> bool:
    area = _cut(page.picture(), found.canvas).astype(np.int16)
    before = _cut(found.pages["radiograph"], found.canvas)
    return float(np.abs(area - before).mean()) < 3


def _is_segmented(page: Browser, found: Observed) -> bool:
    area = _cut(page.picture(), found.canvas).astype(np.int16)
    return bool((area.max(axis=2) - area.min(axis=2) > 30).mean() > 0.1)


_STEPS: Mapping[str, tuple[int, Callable[[Browser, Observed], bool], str]] = {
    "capture": (1, shows_the_page, "the page, legible"),
    "sr": (0, _shows_the_findings, "the tree: every finding in words"),
    "regions": (2, shows_the_outlines, "drawn over the radiograph"),
    "text": (3, _shows_the_sentences, "the sentences"),
    "presentation": (4, _has_changed_nothing, "listed, not applied"),
    "segmentation": (5, _is_segmented, "shown"),
}


def _under_the_standards_title() -> bytes:
    """The findings under (126000, DCM, Imaging Measurement Report): why they have another title."""
    document = results.document(
        results.chest(),
        series_instance_uid="2.25.4",
        sop_instance_uid="2.25.5",
        settings=settings.Report(series_number=_TITLED),
    )
    titled = replace(report.FINDINGS, title=codes.IMAGING_MEASUREMENT_REPORT)
    with _replaced(report, "FINDINGS", titled):
        return measurement_report(document)


class _replaced:  # noqa: N801 - reads as a statement
    """Another value of a module's name until the block ends."""

    def __init__(self, owner: Any, name: str, value: Any) -> None:
        self._owner, self._name, self._value = owner, name, value

    def __enter__(self) -> None:
        self._before = getattr(self._owner, self._name)
        setattr(self._owner, self._name, self._value)

    def __exit__(self, *_: object) -> None:
        setattr(self._owner, self._name, self._before)


# --- the others ----------------------------------------------------------------------------------


def _store(archive: orthanc.Orthanc, kind: str, found: Observed) -> None:
    stored = archive.post("/instances", found.objects[kind].part10)
    found.seen[kind, ORTHANC] = _preview(archive, stored["ID"])


def _preview(archive: orthanc.Orthanc, identifier: str) -> str:
    try:
        archive.get(f"/instances/{identifier}/preview")
    except urllib.error.HTTPError as error:
        return f"no preview (HTTP {error.code})"
    return "a preview"


#: What is said of an object that a reader is not for.
_NOT_FOR_IT = "–"
_DOCUMENTS = ("sr", "regions", "text")


def _dsrdump(kind: str, path: Path, found: Observed) -> str:
    """Whether the tree is printed without a complaint, with what the document is for."""
    if kind not in _DOCUMENTS:
        return _NOT_FOR_IT
    done = _run("dsrdump", "+Pl", str(path))
    words = {"sr": "Certainty of Finding", "regions": "SCOORD", "text": _never_looked_for()[:30]}
    whole = not _complaints(done) and words[kind] in done.stdout
    return (
        {"sr": "the tree", "regions": "the tree, with its points", "text": "the sentences"}[kind]
        if whole
        else "fails"
    )


def _dsr2html(kind: str, path: Path, found: Observed) -> str:
    """Whether a page under the document's title comes of it; how it looks is kept."""
    if kind not in _DOCUMENTS:
        return _NOT_FOR_IT
    page = path.with_suffix(".html")
    done = _run("dsr2html", str(path), str(page))
    said = page.read_text(errors="replace") if page.is_file() else ""
    title = report.FINDINGS.title.meaning if kind != "regions" else "Imaging Measurement Report"
    if _complaints(done) or title not in said:
        return "fails"
    return "a page of sentences" if kind == "text" else "a page of the tree"


def _dcmj2pnm(kind: str, path: Path, found: Observed) -> str:
    """Whether pixels come of it, and for the capture whether they are those that were drawn."""
    target = path.with_suffix(".png")
    _run("dcmj2pnm", "--write-png", str(path), str(target))
    if not target.is_file():
        return "fails" if kind == "capture" else _NOT_FOR_IT
    if kind != "capture":
        return "one of its frames"
    drawn = np.asarray(Image.open(target).convert("RGB"))
    return "the page" if np.array_equal(drawn, found.objects[kind].page) else "fails"


def _dcmpschk(kind: str, path: Path, found: Observed) -> str:
    if kind != "presentation":
        return _NOT_FOR_IT
    done = _run("dcmpschk", str(path))
    is_clean = done.returncode == 0 and "Test passed" in done.stdout + done.stderr
    return "no error" if is_clean else "fails"


def _dcmp2pgm(kind: str, path: Path, found: Observed) -> str:
    """The radiograph through the state: its grey levels are applied, its layer is not drawn."""
    if kind != "presentation":
        return _NOT_FOR_IT
    picture, plain = path.with_suffix(".pgm"), path.with_suffix(".plain.pgm")
    source = str(results.chest_path())
    _run("dcmp2pgm", "--pstate", str(path), source, str(picture))
    _run("dcmp2pgm", source, str(plain))
    if not picture.is_file():
        return "fails"
    # a line of the layer is one grey level: it would stand beside darker and lighter ones
    same = np.array_equal(np.asarray(Image.open(picture)), np.asarray(Image.open(plain)))
    return "the radiograph; the layer is not drawn" if same else "the radiograph, changed"


def _dcmqi(kind: str, path: Path, found: Observed) -> str:
    """3D Slicer's own readers: of segments their volumes, of regions what is tracked."""
    if kind == "segmentation":
        return _segments_by_dcmqi(path)
    if kind != "regions":
        return _NOT_FOR_IT
    told = path.with_suffix(".json")
    _run(_script("tid1500reader"), "--inputDICOM", str(path), "--outputMetadata", str(told))
    if not told.is_file():
        return "fails"
    groups = json.loads(told.read_text())["Measurements"]
    subjects = {group["TrackingIdentifier"].rpartition(" ")[0] for group in groups}
    all_there = {"Left lung", "Right lung", "Heart"} <= subjects
    return "its tracked groups" if all_there else "fails"


def _segments_by_dcmqi(path: Path) -> str:
    """As it is, and of the same radiograph where that states size and way of its pixels."""
    facing = results.chest()
    facing.ImagerPixelSpacing, facing.PatientOrientation = [0.2, 0.2], ["L", "F"]
    placed = path.with_name("placed.dcm")
    placed.write_bytes(every_kind(facing)["segmentation"])
    alone, there = _volumes(path), _volumes(placed)
    return f"{_in_words(alone)}; on a plane {_in_words(there)}"


def _in_words(volumes: int) -> str:
    return f"{volumes} volumes" if volumes else "refused"


def _volumes(path: Path) -> int:
    folder = path.with_suffix("")
    folder.mkdir()
    arguments = ("--inputDICOM", str(path), "--outputDirectory", str(folder))
    _run(_script("segimage2itkimage"), *arguments, "--outputType", "nrrd")
    return len(list(folder.glob("*.nrrd")))


def _script(name: str) -> str:
    return str(Path(sysconfig.get_path("scripts")) / name)


def _never_looked_for() -> str:
    return wording.words("en").catalogue.says.never_looked_for


_READ: Mapping[str, Callable[[str, Path, Observed], str]] = {
    "dsrdump": _dsrdump,
    "dsr2html": _dsr2html,
    "dcmj2pnm": _dcmj2pnm,
    "dcmpschk": _dcmpschk,
    "dcmp2pgm": _dcmp2pgm,
    "dcmqi": _dcmqi,
}


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def _complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a tool of DCMTK complains of."""
    return [line for line in done.stderr.splitlines() if re.match(r"[EWF]:", line)]


def _by_slicers_rule(path: Path) -> str:
    """QuantitativeReporting takes Enhanced and Comprehensive SR of template 1500, and SEG."""
    ds = pydicom.dcmread(path, stop_before_pixels=True)
    if ds.Modality == "SEG":
        return "needs a frame of reference"
    template = [t.TemplateIdentifier for t in ds.get("ContentTemplateSequence", [])]
    if ds.Modality == "SR":
        return "loaded" if template == ["1500"] else "not loaded"
    return "loaded" if ds.Modality == "OT" else "not loaded"


def _by_weasis_rule(path: Path) -> str:
    """Any SR as a tree, its regions drawn; C-GET brings Basic Text, SC and GSPS by default."""
    ds = pydicom.dcmread(path, stop_before_pixels=True)
    shown = {"SR": "the tree", "OT": "the page", "PR": "the layer", "SEG": "the segments"}
    brought = {"1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.7"}
    brought.add("1.2.840.10008.5.1.4.1.1.11.1")
    by_get = "" if ds.SOPClassUID in brought else "; not by C-GET as it comes"
    return shown[str(ds.Modality)] + by_get


# --- what is written -----------------------------------------------------------------------------


def table(found: Observed) -> str:
    """The table of docs/viewers.md."""
    kinds = " | ".join(f"`{kind}`" for kind in KINDS)
    lines = [f"| viewer | {kinds} |", "|" + "---|" * (len(KINDS) + 1)]
    for viewer in VIEWERS:
        cells = " | ".join(found.seen.get((kind, viewer), "") for kind in KINDS)
        lines.append(f"| {viewer} | {cells} |")
    return "\n".join(lines)


BEGIN, END = "<!-- made by `make viewers` -->", "<!-- end of what is made -->"


def write(found: Observed, docs: Path = DOCS) -> None:
    """Put the table and two pictures into the docs."""
    page = docs / "viewers.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{after}")
    for kind, name in SHOWN.items():
        picture = Image.fromarray(found.pages[kind]).resize((1120, 700), Image.Resampling.LANCZOS)
        picture.save(docs / name, optimize=True)


def keep(pages: Mapping[str, Pixels], folder: Path) -> None:
    """Every picture of the browser, for people who look at a run afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pages.items():
        Image.fromarray(picture).save(folder / f"{name}.png")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        observed = observe(Path(work))
    write(observed)
    keep(observed.pages, Path("build/viewers"))

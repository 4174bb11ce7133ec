"""Which engines the networks can run on here. No torch, so that asking costs nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil

#: The modules each engine needs; the one measured to be fastest on a CPU comes first.
NEEDS: dict[str, tuple[str, ...]] = {
    "openvino": ("openvino", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "compiled": (),
    "torch": (),
}
#: The optional extra of the package that installs an engine.
EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx"}


def absent(name: str) -> str | None:
    """Why an engine cannot be had on this machine, None where it can."""
    missing = [module for module in NEEDS[name] if importlib.util.find_spec(module) is None]
    if missing:
        return f"not installed: pip install 'prescreen[{EXTRAS.get(name, name)}]'"
    if name == "compiled" and compiler() is None:
        return "no C++ compiler on this machine"
    return None


def installed() -> tuple[str, ...]:
    """The engines that can be had here, fastest first; torch is always the last of them."""
    return tuple(name for name in NEEDS if absent(name) is None)


def compiler() -> str | None:
    """The C++ compiler that torch would call: the one that CXX names, else g++."""
    return shutil.which(os.environ.get("CXX") or "g++")


def version(name: str) -> str:
    """An engine with its version, as reports and the audit name it."""
    package = "torch" if name == "compiled" else name
    return f"{name} {importlib.metadata.version(package)}"

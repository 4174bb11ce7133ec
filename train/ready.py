"""Whether runs may ship together: one on everything, beside it one of each fold, all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from train import checkpoint, lungs_heart
from train import findings as findings_run
from train.data import DataError

#: What may differ between runs of one recipe: which one it is, and the machine it ran on.
_FREE = ("run", "fold", "threads", "workers", "amp")

Config = Mapping[str, Any]


def refuse_findings(run: Path, folds: Sequence[Path]) -> None:
    """DataError, naming the run, where one is not finished or is not as the others."""
    _refuse(run, folds, _of_findings)


def refuse_lungs_heart(run: Path, folds: Sequence[Path]) -> None:
    """The same of runs of the segmentation; each may have had a teacher of its own."""
    _refuse(run, folds, _of_lungs_heart)


def _of_findings(run: Path) -> Config:
    saved = checkpoint.read(run / "last.pt")
    config = findings_run.settled(findings_run.Config(**saved["config"]))
    stopped = findings_run.tired(config, saved["log"])
    planned = sum(epochs for _, _, epochs in findings_run.phases(config.schedule))
    _refuse_unfinished(run, len(saved["log"]), planned, stopped)
    return asdict(config)


def _of_lungs_heart(run: Path) -> Config:
    saved = checkpoint.read(run / "last.pt")
    config = lungs_heart.Config(**saved["config"])
    stopped = lungs_heart.tired(config, saved["log"])
    _refuse_unfinished(run, len(saved["log"]), config.epochs, stopped)
    named = {"network": lungs_heart.network_of(saved["config"]), "teacher": bool(config.teacher)}
    return asdict(config) | named


def _refuse_unfinished(run: Path, done: int, planned: int, stopped: bool) -> None:
    if done < planned and not stopped:
        raise DataError(
            f"{run} is not finished: {done} of {planned} epochs are done; start the same command "
            "again, and it goes on there"
        )


def _refuse(run: Path, folds: Sequence[Path], config_of: Callable[[Path], Config]) -> None:
    ours = config_of(run)
    if ours["fold"] != -1:
        raise DataError(
            f"--run {run}: it held out fold {ours['fold']}; what ships is trained on everything: "
            "name a run with --fold -1"
        )
    for fold in folds:
        theirs = config_of(fold)
        if theirs["fold"] == -1:
            raise DataError(f"--folds {fold}: it held out nothing; name one run of every fold")
        unlike = [name for name in ours if name not in _FREE and ours[name] != theirs[name]]
        if unlike:
            name = unlike[0]
            raise DataError(
                f"--folds {fold}: its {name} is {theirs[name]!r}, that of --run {ours[name]!r}; "
                "figures are of weights that were trained in the same way"
            )

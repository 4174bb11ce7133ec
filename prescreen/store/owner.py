"""Whose a data directory is: what root makes in it belongs to the user that the node runs as."""

from __future__ import annotations

import os
from pathlib import Path

from prescreen.store.intake import mapped


def hand_over(data_dir: Path) -> None:
    """Give what root made in a data directory to the directory's owner.

    Under the systemd unit nobody but root reaches the directory from outside, and a database that a
    repair left to root could be opened by no node. Links are not followed; who is not root does
    nothing. Raises StoreError where root may not.
    """
    if os.geteuid() != 0:
        return
    with mapped(data_dir):
        top = data_dir.resolve()  # under the systemd unit it is a link
        owner = top.stat()
        for _, folders, files, here in os.fwalk(top):
            for name in (*folders, *files):
                _give(name, here, owner)


def _give(name: str, folder: int, owner: os.stat_result) -> None:
    try:
        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid == 0 != owner.st_uid:
            os.chown(name, owner.st_uid, owner.st_gid, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:  # the node removed it just now
        return

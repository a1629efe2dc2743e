"""What a journal in a file must know of the disk that it lies on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Final

NETWORK: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs", "afs")


def warn_of_networks(path: Path) -> None:
    """Warn when a journal's file lies where SQLite's locks do not hold."""
    kind = file_system(path.parent)
    if kind in NETWORK:
        warnings.warn(
            f"SW070: the journal {path} lies on {kind}, a network file system, where SQLite's locks do not hold; "
            "move it to a local disk, or use PostgreSQL",
            RuntimeWarning,
            stacklevel=4,
        )


def file_system(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of file system that a folder lies on, or "" where that cannot be seen."""
    if not mounts.exists():
        return ""
    found = ("", "")
    place = str(folder.resolve())
    for line in mounts.read_text().splitlines():
        _, point, kind = line.split(" ")[:3]
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]

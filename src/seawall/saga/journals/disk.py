"""What a journal in a file must know of the disk that it lies on."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from seawall.saga.errors import JournalError

NETWORK: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs", "afs")


def refuse_networks(path: Path) -> None:
    """Raises JournalError when a journal's file lies where SQLite's locks do not hold."""
    kind = file_system(path.parent)
    if kind in NETWORK:
        raise JournalError(
            f"the journal {path} lies on {kind}, a network file system, where SQLite's locks do not hold: "
            "two workers could run one saga; move it to a local disk, or use PostgreSQL"
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

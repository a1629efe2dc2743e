"""File xDS: resources as JSON files that appear by a rename in a folder that Envoy watches."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from seawall.gateway.resources import TYPES, Resources

ORDER: Final = ("endpoints", "clusters", "routes", "listeners")
"""A file must be there before the resource that names it is read."""
ONE_FILE_EACH: Final = ("endpoints", "routes")
"""Envoy takes one resource of these kinds from a file."""


class FilePublisher:
    """Writes what changed, referred-to first. folder: of this gateway alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written: dict[Path, str] = {}
        for kind in TYPES:
            (folder / kind).mkdir(parents=True, exist_ok=True)

    def source(self, kind: str, name: str) -> dict[str, Any]:
        """Where Envoy asks for a resource."""
        place = {"path": str(self._path(kind, name)), "watched_directory": {"path": str(self.folder / kind)}}
        return {"path_config_source": place, "resource_api_version": "V3"}

    def publish(self, resources: Resources) -> int:
        """Write it; how many files changed. A file is whole or not there."""
        changed = 0
        for kind in ORDER:
            url = TYPES[kind]
            found = resources.of(kind)
            groups = [[each] for each in found.items()] if kind in ONE_FILE_EACH else [list(found.items())]
            for group in groups:
                path = self._path(kind, group[0][0] if kind in ONE_FILE_EACH else kind)
                rows = [{"@type": url, **told} for _, told in group]
                changed += self._write(path, rows)
        return changed

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / kind / f"{name if kind in ONE_FILE_EACH else kind}.json"

    def _write(self, path: Path, rows: list[dict[str, Any]]) -> bool:
        from seawall.gateway.resources import version_of

        version = version_of(rows)
        if self._written.get(path) == version:
            return False
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"version_info": version, "resources": rows}), encoding="utf-8")
        os.replace(fresh, path)
        self._written[path] = version
        return True

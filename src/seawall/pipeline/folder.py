"""Folders of single-value files, as Kubernetes mounts ConfigMaps and Secrets: the name is the setting, the content its value.

A mounted folder changes as a whole: `..data` is a link to a hidden folder that holds the files, and is swapped by one rename.
All values are read from the one folder that the link names; if it was swapped meanwhile, everything is read again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from seawall.core.errors import ConfigError
from seawall.pipeline.origins import LARGEST, PREFIX, Origin, Setting, is_secret, read_value
from seawall.pipeline.toml_lines import DEEPEST

MOST_FILES: Final = 1000
TRIES: Final = 10
_LINK: Final = "..data"


def read_folder(folder: Path) -> list[Setting]:
    """The settings of a folder, in order of their names: `pipelines.stock.policies.retry.attempts` holding 5.

    Names are parted by dots or by double underscores, or by folders. Hidden entries, and files that end in .toml, are no
    settings. A file that not everybody may read, or whose path looks like a secret's, is never shown. Raises ConfigError for a
    folder that cannot be read, holds too much, or changes faster than it can be read.
    """
    settings = []
    for name, (content, mode) in sorted(_snapshot(folder).items()):
        hidden = not mode & stat.S_IROTH or any(map(is_secret, (*folder.absolute().parts, _path_of(name)[-1])))
        origin = Origin("folder", str(folder / name), secret=hidden)
        try:
            text = content.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise origin.error("it is not UTF-8 text") from None
        settings.append(Setting(_path_of(name), read_value(text, origin), origin))
    return settings


def _path_of(name: str) -> tuple[str, ...]:
    words = name.removeprefix(PREFIX).removeprefix("seawall.")
    parts = [part for folder in words.split("/") for part in folder.split("__" if "__" in folder else ".")]
    return tuple(parts)


def _snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and mode of every visible file by its name, all of one moment."""
    for _ in range(TRIES):
        before = _swapped_to(folder)
        try:
            files = _read_all(folder if before is None else before)
        except FileNotFoundError:
            if not folder.is_dir():
                raise ConfigError("there is no such folder", path=str(folder)) from None
            continue  # a file went while we looked: the folder was swapped
        except OSError as error:
            raise ConfigError(f"it cannot be read: {error.strerror}", path=str(folder)) from error
        if _swapped_to(folder) == before:
            return files
    raise ConfigError("it changes faster than it can be read", path=str(folder))


def _swapped_to(folder: Path) -> Path | None:
    """The folder that holds the files now, when it is one that is swapped."""
    try:
        return folder / os.readlink(folder / _LINK)
    except OSError:  # no such link: a plain folder
        return None


def _read_all(root: Path) -> dict[str, tuple[bytes, int]]:
    files: dict[str, tuple[bytes, int]] = {}
    size = 0
    for name in _names(root, ""):
        with (root / name).open("rb") as opened:
            content, mode = opened.read(LARGEST - size + 1), os.fstat(opened.fileno()).st_mode
        size += len(content)
        if size > LARGEST or len(files) == MOST_FILES:
            raise ConfigError(f"it holds more than {MOST_FILES} files or {LARGEST} bytes", path=str(root))
        files[name] = content, mode
    return files


def _names(root: Path, inside: str) -> Iterator[str]:
    """Visible files, and those of visible folders."""
    if inside.count("/") > DEEPEST:
        raise ConfigError(f"folders may stand in each other at most {DEEPEST} deep", path=str(root))
    with os.scandir(root / inside) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.endswith(".toml"):
                continue
            if entry.is_dir():
                yield from _names(root, f"{inside}{entry.name}/")
            elif not stat.S_ISREG(entry.stat().st_mode):
                raise ConfigError("it is no plain file", path=str(root / inside / entry.name))
            else:
                yield f"{inside}{entry.name}"

"""Finding a data set's files in a folder, at whatever depth they were unpacked."""

import os
import re
from collections import defaultdict
from pathlib import Path

from ipcl_jax.errors import ConfigError
from ipcl_jax.system.files import expand_home


class DataFolder:
    """The files in a folder and its subfolders, by name.

    Args:
        root: the folder.
        what: the data set, for messages.

    Raises:
        ConfigError: if there is no such folder.
    """

    def __init__(self, root: str | os.PathLike, what: str):
        self.root, self.what = expand_home(root), what
        if not self.root.is_dir():
            raise ConfigError(f"There is no folder {self.root}, where {what} should be.")
        self._paths = defaultdict(list)
        for folder, _, names in os.walk(self.root):
            for name in names:
                self._paths[name].append(Path(folder, name))

    def find(self, *names: str) -> Path:
        """Returns the path of the one file that has one of some names.

        Raises:
            ConfigError: if there is none, or several.
        """
        found = [path for name in names for path in self._paths.get(name, ())]
        if not found:
            raise ConfigError(f"There is no {' or '.join(names)} in {self.root}; {self.what} needs it, download it.")
        if len(found) > 1:
            raise ConfigError(f"{self.root} has {found[0]} and {found[1]}; leave only one of them there.")
        return found[0]

    def matching(self, pattern: str) -> list[tuple[Path, re.Match[str]]]:
        """Returns files whose whole name matches a regular expression, sorted by path."""
        matches = ((name, re.fullmatch(pattern, name)) for name in self._paths)
        return sorted((path, match) for name, match in matches if match for path in self._paths[name])

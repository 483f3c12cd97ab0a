"""What a stack keeps in its data folder beside its stores: the lock, the admin key, ready.json."""

import fcntl
import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO


class StateError(Exception):
    """The data folder cannot be used; the message says why."""


class DataFolder:
    """Made once for a folder; holds its lock until `close` or the end of the process."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.path = folder.resolve()
            self._lock = _lock(self.path / "up.lock")
            self._ready_text = ""
            self.remove_ready()
        except OSError as error:
            raise StateError(f"cannot use {folder}: {error.strerror}") from error

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def held(self, service: str) -> bool:
        """Whether someone asked that this service stay down: a file `hold-<service>`."""
        return (self.path / f"hold-{service}").exists()

    def admin_key_path(self, named_dsn: str | None = None) -> Path:
        """Each database has a key of its own: ours, and each that a person names."""
        if named_dsn is None:
            return self.path / "admin.key"
        return self.path / f"admin-{sha256(named_dsn.encode()).hexdigest()[:12]}.key"

    def read_admin_key(self, named_dsn: str | None = None) -> str | None:
        path = self.admin_key_path(named_dsn)
        return path.read_text().strip() or None if path.exists() else None

    def keep_admin_key(self, key: str, named_dsn: str | None = None) -> None:
        _write_private(self.admin_key_path(named_dsn), key + "\n")

    def write_ready(self, content: Mapping[str, Any]) -> None:
        """Replace ready.json at once, so that a reader never sees half of it.

        Asked for at each change of any environment, two a request; most of them leave the content
        as it is, and a file more on the way of every request is a good part of what it costs here.
        """
        text = json.dumps(content, indent=2) + "\n"
        if text != self._ready_text:
            _write_private(self.path / "ready.json", text)
            self._ready_text = text

    def remove_ready(self) -> None:
        self._ready_text = ""
        (self.path / "ready.json").unlink(missing_ok=True)

    def close(self) -> None:
        self.remove_ready()
        self._lock.close()


def _lock(path: Path) -> TextIO:
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise StateError(
            f"{path.parent} is in use by another `up` (process {holder}). "
            "Stop that one, or choose another folder with --data."
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)

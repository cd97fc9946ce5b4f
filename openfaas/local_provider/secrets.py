"""Secrets: one file each, and for every function a folder with only those it declares."""

import base64
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from bucky.errors import NotFound
from local_provider import durable
from local_provider.deployments import SECRET_NAME, ApiModel, InvalidRequest

MAX_SECRET_BYTES = 1024 * 1024


class Secret(ApiModel):
    """A body of `/system/secrets`; `raw_value` is base64 and wins, as in faas-provider."""

    name: Annotated[str, Field(pattern=SECRET_NAME)]
    namespace: str = ""
    value: str = Field(default="", repr=False)
    raw_value: str | None = Field(default=None, repr=False)

    def content(self) -> bytes:
        """Return the secret's bytes; raise `InvalidRequest` when there are none or too many."""
        try:
            raw = base64.b64decode(self.raw_value or "", validate=True)
        except ValueError:
            raise InvalidRequest("rawValue: not base64") from None
        content = raw or self.value.encode()
        if not content:
            raise InvalidRequest("a secret needs a value")
        if len(content) > MAX_SECRET_BYTES:
            raise InvalidRequest(f"a secret has at most {MAX_SECRET_BYTES} bytes")
        return content


class SecretStore:
    """Secrets on disk, readable by their owner only."""

    def __init__(self, folder: Path, mounts: Path) -> None:
        self._folder = folder
        self._mounts = mounts
        durable.make_folder(folder)
        durable.make_folder(mounts)

    def names(self) -> tuple[str, ...]:
        """Return the names of all secrets."""
        return tuple(sorted(path.name for path in self._folder.glob("[!.]*")))

    def exists(self, name: str) -> bool:
        """Return whether there is such a secret."""
        return self._file(name).is_file()

    def put(self, name: str, content: bytes) -> bool:
        """Create or replace a secret; return whether it changed anything."""
        file = self._file(name)
        if file.is_file() and file.read_bytes() == content:
            return False
        durable.write(file, content)
        return True

    def remove(self, name: str) -> None:
        """Remove a secret; raise `NotFound` when there is none."""
        if not self.exists(name):
            raise NotFound(f"there is no secret {name}")
        durable.remove(self._file(name))

    def mount(self, function: str, names: Iterable[str]) -> Path:
        """Fill the function's folder with the secrets it declares and no others; return the folder."""
        folder = self._mounts / function
        durable.make_folder(folder)
        wanted = set(names)
        for file in folder.iterdir():
            if file.name not in wanted:
                file.unlink()
        for name in sorted(wanted):
            durable.write(folder / name, self._file(name).read_bytes())
        return folder.resolve()

    def unmount(self, function: str) -> None:
        """Remove the function's folder."""
        shutil.rmtree(self._mounts / function, ignore_errors=True)

    def _file(self, name: str) -> Path:
        return self._folder / name

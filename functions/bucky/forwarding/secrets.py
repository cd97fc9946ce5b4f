"""The secrets that destinations name: one file each, read anew for each batch."""

from pathlib import Path

from bucky.errors import DestinationUnavailable
from bucky.runtime.tls import MISCONFIGURED_RETRY_SECONDS
from bucky.settings import Settings


class Secrets:
    """A folder with one file for each secret; the models of destinations say which names there can be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of(cls, settings: Settings) -> "Secrets":
        """Return the secrets of this installation."""
        return cls(settings.destination_secrets_dir or settings.secrets_dir)

    def file(self, name: str) -> Path:
        """Return the file of a secret; raise `DestinationUnavailable` when it is not there."""
        path = self._folder / name
        if not path.is_file():
            raise DestinationUnavailable(
                f"there is no secret {name}: put it into a file of that name in {self._folder}",
                MISCONFIGURED_RETRY_SECONDS,
            )
        return path

    def text(self, name: str) -> str:
        """Return a secret without the white space around it."""
        path = self.file(name)
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DestinationUnavailable(
                f"the secret {name} cannot be read: {type(error).__name__}", MISCONFIGURED_RETRY_SECONDS
            ) from error

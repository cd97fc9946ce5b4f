"""One world for each kind of destination: a real one, which can be told to refuse, to hesitate and to be away."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from pydantic import TypeAdapter

from bucky.dicom.part10 import split
from bucky.routing.destinations import Destination, S3Destination
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore, put_bytes
from local_stack.destination import Destination as DimseNode
from local_stack.destination import ReceivedRequest, ScriptedAnswer
from tests.support.destinations.stow_server import StowServer
from tests.support.functions.commitment_world import CommittingNode
from tests.support.network.way_to_store import WayToStore

_MODEL: TypeAdapter[Destination] = TypeAdapter(Destination)


def model(**fields: Any) -> Destination:
    """Return a destination as the routing has it."""
    return _MODEL.validate_python(fields)


def data_set_sha256(file: bytes) -> str:
    """Return the digest of the data set of a DICOM file."""
    return hashlib.sha256(file[split(file)[1] :]).hexdigest()


class DestinationWorld(Protocol):
    """A real destination, and the hands of its administrator."""

    @property
    def destination(self) -> Destination:
        """Return it as the routing has it."""

    def held(self) -> list[str]:
        """Return the SHA-256 of each data set it holds, computed now from the bytes."""

    def refuse(self, uid: str) -> None:
        """Never take this instance."""

    def hinder(self, uid: str) -> None:
        """Do not take this instance until `help`."""

    def help(self) -> None:
        """Take again what was hindered."""

    def leave(self) -> None:
        """Be away."""

    def come_back(self) -> None:
        """Be there again, with what it held."""


class DimseWorld:
    """A storage SCP."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self._folder = folder
        self._refused: set[str] = set()
        self._hindered: set[str] = set()
        self._node = self._start(0)
        port = self._node.port
        self.destination = model(name="there", type="dimse", aet="DEMO", host="127.0.0.1", port=port, **more)

    def held(self) -> list[str]:
        return sorted(self._node.received())

    def refuse(self, uid: str) -> None:
        self._refused.add(uid)

    def hinder(self, uid: str) -> None:
        self._hindered.add(uid)

    def help(self) -> None:
        self._hindered.clear()

    def leave(self) -> None:
        self._node.__exit__()

    def come_back(self) -> None:
        self._node = self._start(self._node.port)

    def _start(self, port: int) -> DimseNode:
        return DimseNode(self._folder, port=port, script=self._script).__enter__()

    def _script(self, received: ReceivedRequest) -> ScriptedAnswer:
        if received.sop_instance_uid in self._refused:
            return ScriptedAnswer(0xA900)
        return ScriptedAnswer(0xA700 if received.sop_instance_uid in self._hindered else 0x0000)


class CommittingWorld(DimseWorld):
    """A storage SCP that is to commit to what it takes, and does so on the association that asks it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, commitment={"linger_seconds": 30})

    def _start(self, port: int) -> DimseNode:
        node = CommittingNode(self._folder, port=port, script=self._script)
        node.manners.reports_at_once = True
        return node.__enter__()


class FolderWorld:
    """A directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir()
        self._hindrances: list[Path] = []
        self.destination = model(name="there", type="folder", folder=str(folder))

    def held(self) -> list[str]:
        return sorted(
            data_set_sha256(path.read_bytes()) for path in self._folder.glob("**/*.dcm") if path.stat().st_size > 9
        )

    def refuse(self, uid: str) -> None:
        self._path(uid).write_bytes(b"something")

    def hinder(self, uid: str) -> None:
        path = self._path(uid)
        self._hindrances.append(path.with_name(f".{path.name}.bucky-part"))
        self._hindrances[-1].mkdir()

    def help(self) -> None:
        while self._hindrances:
            self._hindrances.pop().rmdir()

    def leave(self) -> None:
        self._folder.rename(self._folder.with_suffix(".away"))

    def come_back(self) -> None:
        self._folder.with_suffix(".away").rename(self._folder)

    def _path(self, uid: str) -> Path:
        path = self._folder / "1.2" / "1.2.3" / f"{uid}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class S3World:
    """A bucket on the S3 server under test, behind a way that can fail."""

    def __init__(self, settings: Settings, secrets: Path) -> None:
        (secrets / "destination-key-id").write_text(settings.store_access_key.get_secret_value())
        (secrets / "destination-key").write_text(settings.store_secret_key.get_secret_value())
        self._store = S3ObjectStore(settings)
        self.way = WayToStore(settings.store_endpoint)
        self.way.open()
        self.destination = S3Destination(
            name="there",
            type="s3",
            bucket=settings.store_bucket,
            endpoint=self.way.url,
            access_key_id_secret="destination-key-id",
            secret_access_key_secret="destination-key",
        )

    def held(self) -> list[str]:
        files = map(self._store.get, self._store.keys(""))
        return sorted(data_set_sha256(file) for file in files if len(file) > 9)

    def refuse(self, uid: str) -> None:
        put_bytes(self._store, f"1.2/1.2.3/{uid}.dcm", b"something")

    def hinder(self, uid: str) -> None:
        self.way.hindered.add(f"{uid}.dcm")

    def help(self) -> None:
        self.way.hindered.clear()

    def leave(self) -> None:
        self.way.close()

    def come_back(self) -> None:
        self.way.open()


class StowWorld:
    """A DICOMweb server."""

    def __init__(self) -> None:
        self._server = StowServer()
        self._server.open()
        self._hindered: set[str] = set()
        self.destination = model(name="there", type="stow", url=self._server.url, instances_per_request=2)

    def held(self) -> list[str]:
        return sorted(map(data_set_sha256, self._server.kept.values()))

    def refuse(self, uid: str) -> None:
        self._server.failures[uid] = 0xA900

    def hinder(self, uid: str) -> None:
        self._hindered.add(uid)
        self._server.failures[uid] = 0xA700

    def help(self) -> None:
        while self._hindered:
            del self._server.failures[self._hindered.pop()]

    def leave(self) -> None:
        self._server.close()

    def come_back(self) -> None:
        self._server.open()


@contextmanager
def dimse(request: pytest.FixtureRequest) -> Iterator[DestinationWorld]:
    """Run a storage SCP."""
    world = DimseWorld(request.getfixturevalue("tmp_path") / "node")
    yield world
    world.leave()


@contextmanager
def committing(request: pytest.FixtureRequest) -> Iterator[DestinationWorld]:
    """Run a storage SCP that commits."""
    world = CommittingWorld(request.getfixturevalue("tmp_path") / "node")
    yield world
    world.leave()


@contextmanager
def folder(request: pytest.FixtureRequest) -> Iterator[DestinationWorld]:
    """Make a directory."""
    yield FolderWorld(request.getfixturevalue("tmp_path") / "folder")


@contextmanager
def s3(request: pytest.FixtureRequest) -> Iterator[DestinationWorld]:
    """Make a bucket."""
    world = S3World(request.getfixturevalue("store_settings"), request.getfixturevalue("tmp_path"))
    yield world
    world.leave()


@contextmanager
def stow(_request: pytest.FixtureRequest) -> Iterator[DestinationWorld]:
    """Run a DICOMweb server."""
    world = StowWorld()
    yield world
    world.leave()


WORLDS: dict[str, Callable[[pytest.FixtureRequest], Any]] = {
    "dimse": dimse,
    "committing": committing,
    "folder": folder,
    "s3": s3,
    "stow": stow,
}

"""Copies on this machine: read before the store is asked, never trusted more than it, and gone when room is short."""

import hashlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from bucky.errors import NotFound, Permanent
from bucky.events import InstanceStored
from bucky.settings import Settings
from bucky.store.local_cache import LocalCache, cached_object_store
from bucky.store.objects import S3ObjectStore, put_bytes
from forward_instances.content import data_set_of
from tests.support.services.keeper_world import store_samples

pytestmark = pytest.mark.store

HUGE = 1 << 40


def hardlink(file: Path, copy: Path) -> None:
    """Give a file another name."""
    copy.hardlink_to(file)


def _spooled(folder: Path, content: bytes) -> Path:
    """Return a file as the spool has it: the object, then what only the edge needs."""
    path = folder / secrets.token_hex(8)
    path.write_bytes(content + b"footer and trailer")
    return path


def _kept(settings: Settings, folder: Path) -> tuple[S3ObjectStore, InstanceStored, bytes]:
    """Return a store, an instance that is in it and in the local cache, and the object's bytes."""
    objects = S3ObjectStore(settings)
    (stored,) = store_samples(objects, "1.2.3.4", 1, bucket=settings.store_bucket)
    content = objects.get(stored.key)
    copies = LocalCache(folder / "local-cache", 10**9, 0)
    copies.open()
    spooled = _spooled(folder, content)
    copies.keep(stored.key, len(content), partial(hardlink, spooled))
    return cached_object_store(settings.model_copy(update={"local_cache_dir": folder / "local-cache"})), stored, content


def objects_away(settings: Settings, **more: Path) -> Settings:
    """Return settings of a store that cannot be reached."""
    return settings.model_copy(update={"store_endpoint": "http://127.0.0.1:9", **more})


def test_a_copy_is_read_instead_of_the_object(store_settings: Settings, tmp_path: Path) -> None:
    """What is in the local cache needs no store: any part of it, and never what the spool wrote behind it."""
    objects, stored, content = _kept(store_settings, tmp_path)
    away = cached_object_store(objects_away(store_settings, local_cache_dir=tmp_path / "local-cache"))
    assert away.get(stored.key, 0, len(content)) == content
    assert away.get(stored.key, 1000, 24) == content[1000:1024]
    with data_set_of(away, stored) as stream:
        assert hashlib.sha256(stream.read()).hexdigest() == stored.sha256
    assert objects.get(stored.key) == content


def test_a_gateways_own_files_are_read_instead_of_asking_it(store_settings: Settings, tmp_path: Path) -> None:
    """Where the store is a gateway over a folder of this machine, no copy is needed."""
    (stored,) = store_samples(S3ObjectStore(store_settings), "1.2.3.4", 1, bucket=store_settings.store_bucket)
    content = S3ObjectStore(store_settings).get(stored.key)
    file = tmp_path / store_settings.store_bucket / stored.key
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    away = cached_object_store(objects_away(store_settings, store_files_dir=tmp_path))
    assert away.get(stored.key, 1000, 24) == content[1000:1024]
    with data_set_of(away, stored) as stream:
        assert hashlib.sha256(stream.read()).hexdigest() == stored.sha256
    file.unlink()
    there = cached_object_store(store_settings.model_copy(update={"store_files_dir": tmp_path}))
    assert there.get(stored.key, 0, 100) == content[:100]


@pytest.mark.parametrize("key", ["../secret", "studies/../../secret", "secret"])
def test_no_key_leads_to_another_file(store_settings: Settings, tmp_path: Path, key: str) -> None:
    """Only the key of an instance is looked for among the files."""
    bucket = tmp_path / store_settings.store_bucket
    (bucket / "studies").mkdir(parents=True)
    for folder in (tmp_path, bucket):
        (folder / "secret").write_bytes(b"x" * 100)
    there = cached_object_store(store_settings.model_copy(update={"store_files_dir": tmp_path}))
    with pytest.raises((NotFound, ValueError)):
        there.get(key, 0, 100)


def test_without_a_copy_the_store_is_asked(store_settings: Settings, tmp_path: Path) -> None:
    """A copy that is gone, or was never there, changes nothing."""
    objects, stored, content = _kept(store_settings, tmp_path)
    (tmp_path / "local-cache" / f"{stored.sha256}.dcm").unlink()
    assert objects.get(stored.key, 0, 100) == content[:100]
    with pytest.raises(NotFound):
        objects.get("studies/1/2/3/nothing.dcm", 0, 100)


def test_a_damaged_copy_is_not_sent(store_settings: Settings, tmp_path: Path) -> None:
    """Bytes that are not those received are never delivered, nor is an instance given up for a bad copy of it."""
    objects, stored, content = _kept(store_settings, tmp_path)
    copy = tmp_path / "local-cache" / f"{stored.sha256}.dcm"
    copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with data_set_of(objects, stored) as stream:
        assert hashlib.sha256(stream.read()).hexdigest() == stored.sha256
    put_bytes(objects, stored.key, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(Permanent, match="SHA-256"):
        data_set_of(objects, stored)


def test_the_oldest_copies_make_room(tmp_path: Path) -> None:
    """The folder never takes more than it may, and what leaves it stays where the spool has it."""
    copies = LocalCache(tmp_path / "local-cache", 1000, 0)
    copies.open()
    files = [_spooled(tmp_path, b"x" * 380) for _ in range(4)]
    for number, file in enumerate(files):
        copies.keep(f"studies/{number}.dcm", file.stat().st_size, partial(hardlink, file))
        copies.keep(f"studies/{number}.dcm", file.stat().st_size, partial(hardlink, file))
    assert sorted(path.name for path in (tmp_path / "local-cache").iterdir()) == ["2.dcm", "3.dcm"]
    assert all(file.exists() for file in files)
    huge = _spooled(tmp_path, b"x" * 2000)
    copies.keep("studies/huge.dcm", huge.stat().st_size, partial(hardlink, huge))
    assert list((tmp_path / "local-cache").iterdir()) == []


def test_a_full_disk_and_a_restart_leave_no_copies(tmp_path: Path) -> None:
    """Copies never take the room that receiving needs, none outlives who would remove it, and nothing else goes."""
    folder = tmp_path / "local-cache"
    file = _spooled(tmp_path, b"x" * 100)
    roomy = LocalCache(folder, 1000, 0)
    roomy.open()
    roomy.keep(f"studies/{'1' * 64}.dcm", 118, partial(hardlink, file))
    (folder / "report.dcm").write_text("not a copy")
    assert len(list(folder.iterdir())) == 2
    short = LocalCache(folder, 1000, HUGE)
    short.open()
    short.keep(f"studies/{'2' * 64}.dcm", 118, partial(hardlink, file))
    assert [path.name for path in folder.iterdir()] == ["report.dcm"]


def test_uploads_at_once_keep_each_copy_once_and_within_the_room(tmp_path: Path) -> None:
    """Uploads run side by side, and the same instance may come twice at once."""
    folder = tmp_path / "local-cache"
    copies = LocalCache(folder, 1000, 0)
    copies.open()
    file = _spooled(tmp_path, b"x" * 82)
    with ThreadPoolExecutor(8) as threads:
        keys = [f"studies/{number // 4}.dcm" for number in range(400)]
        list(threads.map(lambda key: copies.keep(key, 100, partial(hardlink, file)), keys))
    assert sorted(int(path.stem) for path in folder.iterdir())[-1] == 99
    assert len(list(folder.iterdir())) == 10

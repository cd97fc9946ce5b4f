"""`bucky reindex` and `bucky reconcile` as an operator runs them."""

import json
from pathlib import Path

import pytest

from bucky.cli.stack_settings import noted_settings, stack_settings
from bucky.errors import SettingsError
from bucky.index import Index
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore
from tests.support.services.command_line import bucky, environment
from tests.support.services.keeper_world import indexed, store_samples


def test_reindex_says_what_it_did(store_settings: Settings, index_url: str) -> None:
    """The command fills an empty index, and reports as JSON and as a sentence; a lost object is exit code 2."""
    objects = S3ObjectStore(store_settings)
    stored = store_samples(objects, "1.2.3", 3, bucket=store_settings.store_bucket)
    environ = environment(store_settings, index_url)
    first = bucky(environ, "reindex", "--json")
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)
    assert (report["objects"], report["new"], report["missing"]) == (3, 3, [])
    assert report["objects_per_second"] > 0
    index = Index.open(index_url)
    assert index.study("1.2.3").instance_count == 3
    lost = store_samples(objects, "1.2.3", 1, first=9, bucket="elsewhere")[0]
    gone = lost.model_copy(update={"sha256": "f" * 64, "sop_instance_uid": "1.2.3.9.9"})
    indexed(objects, index, [gone])
    index.close()
    second = bucky(environ, "reindex")
    assert second.returncode == 2, second.stderr
    assert "1 rows without an object" in second.stdout
    assert "f" * 64 in second.stdout
    assert f"{len(stored) + 1} objects: 1 new, 0 corrected, 3 as they were" in second.stdout


def test_without_a_stack_the_command_says_what_to_do(tmp_path: Path) -> None:
    """With nothing running and nothing set, one sentence names the ways to go on."""
    shown = bucky({}, "reindex", "--home", str(tmp_path))
    assert shown.returncode == 1
    assert "bucky up" in shown.stderr
    assert "BUCKY_STORE_ENDPOINT" in shown.stderr


def test_a_running_stack_s_settings_are_found_by_its_home(tmp_path: Path) -> None:
    """Commands use the stack's own addresses and secrets; a secret it was given must be given again."""
    secrets, environ = tmp_path / "secrets", {"BUCKY_STORE_ENDPOINT": "http://127.0.0.1:9", "BUCKY_NATS_PASSWORD": "n"}
    secrets.mkdir()
    (secrets / "index-url").write_text("sqlite:///x.db")
    settings = Settings.load({**environ, "BUCKY_SECRETS_DIR": str(secrets), "BUCKY_EDGE_LISTENERS": '[{"aet": "A"}]'})
    record = tmp_path / "run" / "stack.json"
    record.parent.mkdir()
    record.write_text(json.dumps(noted_settings(settings)))
    assert "BUCKY_NATS_PASSWORD" not in record.read_text()
    with pytest.raises(SettingsError, match="BUCKY_NATS_PASSWORD"):
        stack_settings({}, tmp_path)
    assert stack_settings({"BUCKY_NATS_PASSWORD": "n"}, tmp_path) == settings

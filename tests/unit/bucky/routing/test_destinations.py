import io
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from bucky.dimse.outgoing import Outcome, Outgoing, StoreResult
from bucky.errors import DestinationUnavailable
from bucky.forwarding import Secrets
from bucky.forwarding.in_units import MAX_LOST_UNITS, Unit, in_units
from bucky.forwarding.part10_file import Part10File
from bucky.routing.destinations import BY_UIDS
from bucky.routing.document import InvalidRouting, Routing
from bucky.settings import Settings
from tests.support.destinations.destination_worlds import model

DIMSE = {"name": "a", "type": "dimse", "aet": "A", "host": "h", "port": 104}
S3 = {"name": "a", "type": "s3", "bucket": "images"}
STOW = {"name": "a", "type": "stow", "url": "https://archive.example.org/dicom-web"}
FOLDER = {"name": "a", "type": "folder", "folder": "/mnt/a"}


@pytest.mark.parametrize("fields", [DIMSE, FOLDER, S3, STOW])
def test_a_destination_reads_back_as_it_was_written(fields: dict[str, Any]) -> None:
    """What an administrator writes is stored, shown and applied again without a change."""
    routing = Routing(destinations=(model(**fields),))
    assert Routing.from_yaml(routing.to_yaml()) == routing
    assert Routing.model_validate_json(routing.model_dump_json()) == routing
    assert routing.destinations[0].address


@pytest.mark.parametrize(
    "template",
    [
        "{PatientName}/{SOPInstanceUID}",
        "{SOPInstanceUID.__class__}",
        "{SOPInstanceUID!r}",
        "{SOPInstanceUID:>99}",
        "{}",
        "/{SOPInstanceUID}",
        "../{SOPInstanceUID}",
        "a//{SOPInstanceUID}",
        "{SOPInstanceUID}/",
        "{SOPInstanceUID",
        "\n",
        "{StudyInstanceUID}.dcm",
        "",
    ],
)
def test_a_template_that_could_do_harm_is_refused(template: str) -> None:
    """Paths are made of UIDs and digests only, stay below their folder, and differ for each instance."""
    with pytest.raises(ValidationError, match="template"):
        model(**FOLDER, path=template)


@pytest.mark.parametrize("template", [BY_UIDS, "{SHA256}", "2026/x-{SOPInstanceUID}-{SHA256}.dcm"])
def test_a_template_that_tells_instances_apart_is_taken(template: str) -> None:
    """Archives have their own ways to lay out files."""
    assert model(**FOLDER, path=template).name == "a"


@pytest.mark.parametrize("name", ["api-key", "store-secret-key", "destination-", "destination-../x", "destination-A"])
def test_only_secrets_of_destinations_can_be_named(name: str) -> None:
    """Who edits the routing must not be able to send Bucky's own secrets to a server of their choice."""
    with pytest.raises(ValidationError, match="tls_identity_secret"):
        model(**DIMSE, tls_ca_file="/ca.pem", tls_identity_secret=name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{name: a, type: ftp}", "ftp"),
        ("{name: a, type: folder, folder: relative}", "absolute"),
        ("{name: a, type: folder, folder: /a/../b}", "absolute"),
        ("{name: a, type: folder, folder: /a, prot: 1}", "line 1: destination 'a', prot: there is no such field"),
        ("{name: a, type: dimse, aet: A, host: h, port: 1, tls_identity_secret: destination-a}", "needs tls_ca_file"),
        ("{name: a, type: s3, bucket: Images}", "line 1: destination 'a', bucket: "),
        ("{name: a, type: s3, bucket: images, endpoint: 'ftp://x'}", "not an http or https URL"),
        ("{name: a, type: s3, bucket: images, endpoint: 'http://me:secret@x'}", "secrets are referenced by name"),
        ("{name: a, type: s3, bucket: images, access_key_id_secret: destination-a}", "come together"),
        ("{name: a, type: s3, bucket: images, secret_access_key: abc}", "secret_access_key"),
        ("{name: a, type: s3, bucket: images, kms_key_id: a, encryption: AES256}", "kms_key_id needs"),
        ("{name: a, type: stow, url: 'archive.example.org'}", "not an http or https URL"),
        ("{name: a, type: stow, url: 'https://x/?a=b'}", "more than an address"),
        (
            "{name: a, type: stow, url: 'https://x', auth: {type: basic, username: a, password: b}}",
            "auth.password",
        ),
        ("{name: a, type: stow, url: 'https://x', auth: {type: bearer, token_secret: b}}", "auth.token_secret"),
        ("{name: a, type: s3, bucket: images, object_lock: {mode: FOREVER, days: 1}}", "object_lock.mode"),
    ],
)
def test_a_mistake_in_a_destination_is_named(text: str, words: str) -> None:
    """A routing file with a mistake is refused with the place and what is wrong there."""
    with pytest.raises(InvalidRouting, match=words):
        Routing.from_yaml(f"destinations: [{text}]")


def test_a_secret_is_found_where_the_settings_say(tmp_path: Any) -> None:
    """A missing secret says which file to write; a secret that was replaced is the new one at once."""
    settings = Settings.load({"BUCKY_SECRETS_DIR": "/nowhere", "BUCKY_DESTINATION_SECRETS_DIR": str(tmp_path)})
    secrets = Secrets.of(settings)
    with pytest.raises(DestinationUnavailable, match=f"no secret destination-a: put it into a file .* {tmp_path}"):
        secrets.text("destination-a")
    (tmp_path / "destination-a").write_text("one\n")
    assert secrets.text("destination-a") == "one"
    (tmp_path / "destination-a").write_text("two")
    assert secrets.text("destination-a") == "two"


def test_a_url_reads_the_same_with_and_without_its_last_slash() -> None:
    """`/studies` is added to the root once, however it was written."""
    assert model(**{**STOW, "url": f"{STOW['url']}/"}) == model(**STOW)


def test_a_file_can_be_read_again_from_any_place() -> None:
    """A client that tries a request again begins anew at the place where it began."""
    data_set = io.BytesIO(b"xx" + b"data set")
    data_set.seek(2)
    file = Part10File.of(Outgoing("1.2", "1.3", "1.4", lambda: data_set))
    whole = file.read()
    assert (len(whole), whole[-8:]) == (file.size, b"data set")
    for start in (0, 10, file.size - 4, file.size):
        file.seek(start)
        assert file.read() == whole[start:]
    assert file.seek(-2, io.SEEK_END) == file.tell() == file.size - 2


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_destination_in_trouble_is_left_alone(at_once: int) -> None:
    """A server that is down is not called once per instance, and every instance says why it waits."""
    calls = []

    def work(unit: Unit) -> dict[int, StoreResult]:
        calls.append(unit)
        raise DestinationUnavailable("it is away", 5.0)

    results = in_units([(index,) for index in range(50)], work, at_once=at_once, seconds=10)
    away = StoreResult(Outcome.UNAVAILABLE, "it is away", retry_after=5.0)
    assert [replace(result, begun=True) for result in results] == [away] * 50
    assert sum(result.begun for result in results) == len(calls), "what was left alone was not tried"
    assert MAX_LOST_UNITS <= len(calls) <= MAX_LOST_UNITS + at_once - 1


@pytest.mark.parametrize("at_once", [1, 4])
def test_results_are_in_the_order_of_the_items(at_once: int) -> None:
    """Whatever was sent first, each instance gets its own result."""

    def work(unit: Unit) -> dict[int, StoreResult]:
        return {index: StoreResult(Outcome.STORED, answer=str(index)) for index in unit}

    results = in_units([(3, 1), (0,), (2, 4, 5)], work, at_once=at_once, seconds=10)
    assert [result.answer for result in results] == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_mistake_of_ours_surfaces(at_once: int) -> None:
    """An unforeseen error is not an answer of the destination: it stops the batch and is seen."""

    def work(_unit: Unit) -> dict[int, StoreResult]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_units([(0,), (1,), (2,)], work, at_once=at_once, seconds=10)

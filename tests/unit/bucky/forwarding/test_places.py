"""Where destinations may be, and where they are refused."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from bucky.dimse.outgoing import Outcome
from bucky.errors import DestinationUnavailable, SettingsError
from bucky.forwarding import Places, Secrets, Senders
from bucky.routing.destinations import DimseDestination, FolderDestination, S3Destination, StowDestination
from bucky.settings import Settings
from tests.support.destinations.destination_worlds import model
from tests.support.dicom.sample_instances import samples

NAMES = {"localhost": "127.0.0.1"}
HOME = {"BUCKY_HOME": "/srv/bucky", "BUCKY_SPOOL_DIR": "/srv/spool", "BUCKY_ADMIN_PORT": "8103"}


@pytest.fixture(autouse=True)
def no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find no name but this machine's: what a name server knows is not to matter."""
    ask = socket.getaddrinfo

    def numeric(host: str, port: None, **options: Any) -> Any:
        return ask(NAMES.get(host, host), port, flags=socket.AI_NUMERICHOST, **options)

    monkeypatch.setattr(socket, "getaddrinfo", numeric)


def refusal(destination: Any, *allowed: str, **settings: str) -> str:
    """Return why a destination is refused, in an installation that allows these entries."""
    listed = {"BUCKY_DESTINATION_ALLOW": json.dumps(allowed)} if allowed else {}
    return Places.of(Settings.load({**HOME, **listed, **settings})).refusal(destination)


def dimse(host: str, port: int = 104) -> DimseDestination:
    """Return a DICOM node at an address."""
    return DimseDestination(name="pacs", type="dimse", aet="PACS", host=host, port=port)


def folder(path: str | Path) -> FolderDestination:
    """Return a folder as a destination."""
    return FolderDestination(name="folder", type="folder", folder=Path(path))


def stow(url: str) -> StowDestination:
    """Return a DICOMweb server."""
    return StowDestination(name="web", type="stow", url=url)


def s3(endpoint: str | None) -> S3Destination:
    """Return a bucket."""
    return S3Destination(name="cloud", type="s3", bucket="images", endpoint=endpoint)


@pytest.mark.parametrize("destination", [dimse("10.1.2.3"), stow("https://10.1.2.3/dicom-web"), folder("/mnt/images")])
def test_without_a_list_a_destination_may_be_anywhere(destination: Any) -> None:
    """A new installation forwards without a setting to learn first."""
    assert refusal(destination) == ""


@pytest.mark.parametrize(
    "host",
    [
        *("169.254.169.254", "169.254.170.2", "0xA9FEA9FE", "2852039166", "::ffff:169.254.169.254"),
        *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fe80::1"),
        *("100.100.100.200", "168.63.129.16", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"),
    ],
)
def test_an_address_that_tells_secrets_is_refused(host: str) -> None:
    """Who may edit the routing must not reach the cloud's credentials with it, however the address is written."""
    bare = f"[{host}]" if ":" in host else host
    for destination in (dimse(host, 80), stow(f"http://{bare}/latest"), s3(f"http://{bare}")):
        assert "told their secrets" in refusal(destination)
        assert "told their secrets" in refusal(destination, "0.0.0.0/0", "::/0", "*")


def test_a_name_that_leads_to_such_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is what it resolves to, and one bad address among several is enough."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0)) for one in ("10.0.0.1", "169.254.169.254")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: found)
    assert "told their secrets" in refusal(dimse("harmless.example.org"), "*.example.org")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "0.0.0.0", "::1"])  # noqa: S104
def test_a_port_of_buckys_own_is_refused(host: str) -> None:
    """The admin API, the broker and the functions believe what comes from this machine."""
    assert "a port of Bucky's own" in refusal(dimse(host, 8103))
    assert refusal(dimse(host, 8109)) == ""
    bare = f"[{host}]" if ":" in host else host
    assert "a port of Bucky's own" in refusal(stow(f"http://{bare}:4222/x"))


def test_a_part_of_bucky_on_another_machine_is_its_own_too() -> None:
    """The broker and the index are refused where the settings say they are, and there only."""
    settings = {
        "BUCKY_NATS_URL": "nats://10.0.0.5:4333",
        "BUCKY_INDEX_URL": "postgresql+psycopg://bucky@10.0.0.6/bucky",
    }
    assert "a port of Bucky's own" in refusal(dimse("10.0.0.5", 4333), **settings)
    assert "a port of Bucky's own" in refusal(dimse("10.0.0.6", 5432), **settings)
    assert refusal(dimse("10.0.0.7", 5432), **settings) == ""


@pytest.mark.parametrize(
    "path", ["/srv/spool", "/srv/spool/below", "/srv/bucky/secrets", "/srv/bucky/nats/x", "/srv", "/", "/var/openfaas"]
)
def test_a_folder_of_buckys_own_is_refused(path: str) -> None:
    """A copy written into the spool or among the secrets would be taken for what belongs there."""
    assert "Bucky's own" in refusal(folder(path))
    assert "Bucky's own" in refusal(folder(path), "/srv/allowed")


def test_a_link_is_what_it_leads_to(tmp_path: Path) -> None:
    """A link must lead neither into a folder of Bucky's own nor out of the allowed ones."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "allowed").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "spool")
    (tmp_path / "allowed" / "out").symlink_to(tmp_path)
    assert "Bucky's own" in refusal(folder(tmp_path / "link"), BUCKY_SPOOL_DIR=str(tmp_path / "spool"))
    assert "is not among those" in refusal(folder(tmp_path / "allowed" / "out"), str(tmp_path / "allowed"))


@pytest.mark.parametrize(
    ("destination", "entry"),
    [
        (dimse("127.0.0.1", 8103), "127.0.0.1:8103"),
        (dimse("localhost", 8103), "localhost:8103"),
        (stow("http://169.254.169.254/x"), "169.254.169.254:80"),
        (folder("/srv/spool/below"), "/srv/spool/below"),
    ],
)
def test_what_an_entry_names_exactly_is_meant(destination: Any, entry: str) -> None:
    """An administrator who says so knows why; a wider entry does not say so."""
    assert refusal(destination, entry) == ""
    assert refusal(destination, "*", "0.0.0.0/0", "/", "127.0.0.1", "localhost") != ""


@pytest.mark.parametrize(
    ("destination", "entry", "other"),
    [
        (dimse("10.1.2.3"), "10.0.0.0/8", "192.168.0.0/16"),
        (dimse("10.1.2.3"), "10.1.2.3:104", "10.1.2.3:105"),
        (dimse("2001:db8::7"), "2001:db8::/32", "[2001:db8::7]:105"),
        (dimse("2001:db8::7"), "[2001:db8::7]:104", "2001:db8::8"),
        (dimse("PACS.example.org"), "pacs.example.org", "ris.example.org"),
        (dimse("pacs.example.org"), "*.example.org:104", "*.example.com"),
        (dimse("pacs.example.org."), "pacs.example.org", "example.org"),
        (dimse("pacs.example.org"), "pacs.example.org.", "*.example"),
        (dimse("pacs.münchen.example"), "*.münchen.example", "*.muenchen.example"),
        (dimse("xn--mnchen-3ya.example"), "münchen.example:104", "münchen.example:105"),
        (stow("https://web.example.org/x"), "web.example.org:443", "web.example.org:80"),
        (s3(None), "*.amazonaws.com", "10.0.0.0/8"),
        (s3("http://10.0.0.9:9000"), "10.0.0.9:9000", "10.0.0.9:9001"),
        (folder("/mnt/images/a"), "/mnt/images", "/mnt/image"),
        (folder("/mnt/images"), "/mnt/images", "*"),
    ],
)
def test_a_list_allows_what_is_on_it_and_nothing_else(destination: Any, entry: str, other: str) -> None:
    """A hospital says once where its images may go, and no rule can send them elsewhere."""
    assert refusal(destination, entry) == ""
    assert "BUCKY_DESTINATION_ALLOW lists" in refusal(destination, other)


@pytest.mark.parametrize("entry", ["", "10.0.0.0/40", "host:99999", "http://pacs", "a b", ":104", "[::1", "a/b"])
def test_an_entry_that_cannot_be_read_stops_the_start(entry: str) -> None:
    """A list with a slip in it must not be taken for another list."""
    with pytest.raises(SettingsError, match="BUCKY_DESTINATION_ALLOW"):
        Settings.load({"BUCKY_DESTINATION_ALLOW": json.dumps([entry])})


def test_nothing_is_sent_where_it_may_not_be(tmp_path: Path) -> None:
    """A destination that was saved before the list was made waits, and says why."""
    places = Places.of(Settings.load({"BUCKY_DESTINATION_ALLOW": '["10.0.0.0/8"]'}))
    there = model(name="f", type="folder", folder=str(tmp_path / "images"))
    (result,) = Senders(Secrets(tmp_path), places).send(there, [samples(1)[0].outgoing], seconds=60)
    assert (result.outcome, "is not among those" in result.reason) == (Outcome.UNAVAILABLE, True)
    assert not (tmp_path / "images").exists()
    with pytest.raises(DestinationUnavailable, match="is not among the addresses"):
        places.check(dimse("192.168.1.1"))

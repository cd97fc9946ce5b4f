"""The admin API against a real index: what it shows, what it refuses, what it never says."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import structlog

from admin_api.docs_page import page
from bucky.index import AttemptOutcome, DeliveryAttempt
from bucky.settings import Settings
from tests.support.services.admin_world import (
    KEY,
    PATIENT,
    SERIES,
    STUDY,
    AdminWorld,
    file_of,
    received,
    requested,
    world,
)

NO_BROKER = Settings.load({"BUCKY_NATS_URL": "nats://127.0.0.1:9"})


@pytest.fixture
async def here(index_url: str) -> AsyncIterator[AdminWorld]:
    """The application with a key, an index and no broker."""
    async with world(NO_BROKER, index_url) as made:
        yield made


async def operations(api: httpx.AsyncClient) -> list[tuple[str, str]]:
    """Return every method and path of the OpenAPI description, parameters filled in."""
    paths = (await api.get("/api/openapi.json")).json()["paths"]
    found = [(method.upper(), re.sub(r"\{.*?\}", "1", path)) for path, methods in paths.items() for method in methods]
    assert len(found) > 20
    return found


async def test_every_route_is_closed_without_the_key(here: AdminWorld, index_url: str) -> None:
    """Patient data must not be readable, nor anything changeable, without the key, on any route."""
    closed = [*await operations(here.api), ("GET", "/api/docs"), ("GET", "/api/openapi.json"), ("GET", "/auth")]
    async with world(NO_BROKER, index_url, key=None) as stranger:
        for method, path in [*closed, ("GET", "/api/no-such-thing"), ("GET", "/"), ("TRACE", "/api/health")]:
            answer = await stranger.api.request(method, path, content=b"{ not json")
            assert answer.status_code == 401, f"{method} {path}"
            assert answer.headers["www-authenticate"].startswith("Basic")
            assert set(answer.json()) == {"error"}


async def test_open_health_says_up_or_down_and_no_more(here: AdminWorld, index_url: str) -> None:
    """The one open page must not tell a stranger addresses, versions or reasons."""
    async with world(NO_BROKER, index_url, key=None) as stranger:
        answer = await stranger.api.get("/health")
    assert answer.status_code == 503
    body = answer.json()
    assert set(body) == {"status", "attention", "parts"}
    assert body["attention"] >= sum(one == "down" for one in body["parts"].values())
    assert body["parts"]["index"] == "up"
    assert set(body["parts"].values()) == {"up", "down"}
    detailed = await here.api.get("/api/health")
    assert detailed.status_code == 503
    assert "NATS" in detailed.json()["parts"]["broker"]["reason"]
    assert (await here.api.get("/ready")).status_code == 200


async def test_studies_are_found_and_paged(here: AdminWorld) -> None:
    """A study must be found by the patient's name in any case, and lists must come in pages."""
    here.fill(5)
    for name in ("Müller*", "MÜLLER^ÄNNE", "m?ller*"):
        found = (await here.api.get("/api/studies", params={"patient_name": name})).json()["items"]
        assert [study["study_instance_uid"] for study in found] == [STUDY], name
    assert (await here.api.get("/api/studies", params={"patient_id": "0815"})).json()["items"] == []
    series = (await here.api.get(f"/api/studies/{STUDY}/series")).json()
    assert [(one["series_instance_uid"], one["instance_count"]) for one in series] == [(SERIES, 5)]
    listed, offset = [], 0
    while offset is not None:
        path = f"/api/studies/{STUDY}/series/{SERIES}/instances"
        answer = (await here.api.get(path, params={"limit": 2, "offset": offset})).json()
        listed += [one["sop_instance_uid"] for one in answer["items"]]
        offset = answer["next"]
    assert listed == [f"{SERIES}.{number}" for number in range(1, 6)]


async def test_an_instance_shows_its_header_and_its_file(here: AdminWorld) -> None:
    """What was received must be readable again, byte for byte."""
    here.fill(1)
    sha256 = received(1).sha256
    row = (await here.api.get(f"/api/instances/{sha256}")).json()
    assert row["header"]["00100010"]["Value"] == [{"Alphabetic": PATIENT}]
    file = await here.api.get(f"/api/instances/{sha256}/file")
    assert file.content == file_of(1)
    assert file.headers["content-type"] == "application/dicom"
    assert file.headers["cache-control"] == "no-store"


async def test_a_large_file_comes_whole(here: AdminWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file larger than one part must come in order, without a gap or an overlap."""
    monkeypatch.setattr("admin_api.study_routes.CHUNK_BYTES", 1000)
    here.fill(1)
    assert (await here.api.get(f"/api/instances/{received(1).sha256}/file")).content == file_of(1)


async def test_deliveries_are_filtered_and_paged(here: AdminWorld) -> None:
    """An administrator must find what failed, where, and why."""
    here.fill(6)
    here.index.request_deliveries([requested(number) for number in range(1, 7)])
    here.index.request_deliveries([requested(1, "archive")])
    failed = requested(3).delivery_id
    here.index.delivery_attempted([DeliveryAttempt(failed, AttemptOutcome.FAILED, reason="refused: 0xA900")])
    answer = (await here.api.get("/api/deliveries", params={"state": "failed"})).json()
    assert [(row["delivery_id"], row["reason"]) for row in answer["items"]] == [(failed, "refused: 0xA900")]
    assert len((await here.api.get("/api/deliveries", params={"destination": "archive"})).json()["items"]) == 1
    for name in ("study", "study_uid"):
        assert (await here.api.get("/api/deliveries", params={name: "9.9"})).json()["items"] == []
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 3}
    while True:
        part = (await here.api.get("/api/deliveries", params=params)).json()
        seen += [row["delivery_id"] for row in part["items"]]
        if part["next"] is None:
            break
        params["after"] = part["next"]
    assert len(seen) == len(set(seen)) == 7
    summary = (await here.api.get("/api/summary")).json()
    assert {(row["destination"], row["state"]): row["count"] for row in summary["deliveries"]} == {
        ("archive", "requested"): 1,
        ("pacs", "requested"): 5,
        ("pacs", "failed"): 1,
    }
    assert summary["held"]["instances"] == 6


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/studies/9.9", 404),
        ("/api/studies/9.9/series", 404),
        (f"/api/studies/{STUDY}/series/9.9/instances", 404),
        ("/api/instances/" + "0" * 64, 404),
        ("/api/instances/" + "0" * 64 + "/file", 404),
        ("/api/deliveries/" + "0" * 64, 404),
        ("/api/deliveries?after=" + "0" * 64, 404),
        ("/api/instances/xyz", 422),
        ("/api/studies/..", 404),
        ("/api/studies?limit=0", 422),
        ("/api/studies?limit=1001", 422),
        ("/api/studies?offset=-1", 422),
        ("/api/studies?study_date_from=yesterday", 422),
        ("/api/deliveries?state=lost", 422),
        ("/api/dead-letters", 503),
        ("/api/dead-letters/1", 503),
    ],
)
async def test_failures_are_one_sentence(here: AdminWorld, path: str, status: int) -> None:
    """Whatever is wrong, the answer must be a status and a sentence, never a trace."""
    answer = await here.api.get(path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


async def test_a_file_lost_from_the_store_is_a_404_not_an_empty_file(here: AdminWorld) -> None:
    """A download must never look complete when the object is gone."""
    here.fill(1)
    here.objects._objects.clear()
    answer = await here.api.get(f"/api/instances/{received(1).sha256}/file")
    assert answer.status_code == 404


async def test_a_lost_index_is_503_and_says_so(here: AdminWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the database down, clients must be told to try again, and health must name it."""
    from bucky.errors import IndexUnavailable

    def down(*_args: object) -> None:
        raise IndexUnavailable("the index database did not answer")

    monkeypatch.setattr(here.index, "counts", down)
    monkeypatch.setattr(here.index, "check", down)
    answer = await here.api.get("/api/summary")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert (await here.api.get("/ready")).status_code == 503
    assert (await here.api.get("/health")).json()["parts"]["index"] == "down"


async def test_the_log_never_has_what_was_asked_for(here: AdminWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search names a patient; neither an answer nor a failure may write that down."""

    def fails(*_args: object) -> None:
        raise ValueError(f"could not bind {PATIENT}")

    with structlog.testing.capture_logs() as lines:
        await here.api.get("/api/studies", params={"patient_name": PATIENT})
        await here.api.get(f"/api/{PATIENT}")
        monkeypatch.setattr(here.index, "search_studies", fails)
        answer = await here.api.get("/api/studies", params={"patient_name": PATIENT})
    assert answer.status_code == 500
    assert "ller" not in answer.text
    written = repr(lines)
    assert [line["event"] for line in lines].count("request.answered") == 3
    assert "request.failed" in written
    assert "ller" not in written
    assert "patient_name=" not in written


async def test_a_body_too_large_is_refused(here: AdminWorld) -> None:
    """A client with the key must not fill the memory either."""
    answer = await here.api.put("/api/routing", content=b" " * 5_000_000, headers={"If-Match": '"0"'})
    assert answer.status_code == 413


async def test_the_documentation_is_complete_and_loads_nothing(here: AdminWorld) -> None:
    """The page must work without the Internet and list every operation."""
    description = (await here.api.get("/api/openapi.json")).json()
    answer = await here.api.get("/api/docs")
    assert answer.status_code == 200
    assert not re.findall(r"(?:src|href|url|import)\W{1,3}(?:https?:)?//", answer.text)
    assert "<script" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for path in description["paths"]:
        assert path in answer.text
    assert all(
        operation["description"] and operation["security"]
        for methods in description["paths"].values()
        for operation in methods.values()
    )


def test_the_documentation_page_escapes_what_it_shows() -> None:
    """A description must not become markup."""
    described = {
        "info": {"title": "<b>", "description": "&"},
        "paths": {"/<i>": {"get": {"description": "<script>", "responses": {"200": {}}}}},
    }
    assert not re.search(r"<(b|i|script)>", page(described))


async def test_wrong_methods_and_a_foreign_origin_are_refused(here: AdminWorld) -> None:
    """The gate's second half: a browser's remembered password must not work for another site's page."""
    assert (await here.api.delete("/api/routing")).status_code == 405
    answer = await here.api.put("/api/routing", json={}, headers={"Origin": "https://evil.example", "If-Match": '"0"'})
    assert answer.status_code == 403
    assert (await here.api.get("/api/routing")).json()["version"] == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_forward_auth_decides_for_the_request_traefik_holds(here: AdminWorld, method: str) -> None:
    """Traefik asks with GET for every request; the decision must be about the original one."""
    headers = {
        "X-Forwarded-Method": method,
        "X-Forwarded-Host": "localhost:8443",
        "Origin": "https://evil.example",
        "X-Api-Key": KEY,
    }
    answer = await here.api.get("/auth", headers=headers)
    assert answer.status_code == (204 if method == "GET" else 403)


async def test_a_search_for_what_is_no_text_is_refused(here: AdminWorld) -> None:
    """PostgreSQL takes no NUL: whoever searches for one must be told, whichever parameter it is in."""
    texts = ("patient_id", "patient_name", "accession_number", "study_instance_uid", "modality")
    for path, names in (("/api/studies", texts), ("/api/dead-letters", ("reason", "function", "destination"))):
        for name in names:
            answer = await here.api.get(path, params={name: "a\0b"})
            assert (answer.status_code, name in answer.json()["error"]) == (422, True), name


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
async def test_the_first_and_last_moments_are_no_fault_of_ours(here: AdminWorld, moment: str) -> None:
    """A moment that is none in UTC must be refused or be far away, and never fail."""
    others = {"since": "0001-01-01T00:00:00Z", "until": "9999-12-31T23:59:59Z"}
    for name in others:
        wanted = {**others, name: moment}
        for path in ("/api/rules/rehearse", "/api/rules/replay"):
            assert (await here.api.post(path, json=wanted)).status_code in {200, 422, 503}, (path, name)
        assert (await here.api.get("/api/dead-letters", params=wanted)).status_code in {200, 422, 503}, name

"""Destinations and rules through the admin API, by two administrators at once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bucky.routing.document import Routing
from bucky.settings import Settings
from tests.support.services.admin_world import AdminWorld, requested, world

NO_BROKER = Settings.load({"BUCKY_NATS_URL": "nats://127.0.0.1:9"})
PACS: dict[str, Any] = {"name": "pacs", "type": "dimse", "aet": "PACS", "host": "192.0.2.1", "port": 104}
RULE: dict[str, Any] = {
    "name": "ct",
    "when": {"all": [{"attribute": "Modality", "in": ["CT"]}, {"not": {"association": "calling_aet", "equals": "X"}}]},
    "destinations": ["pacs"],
}


@pytest.fixture
async def here(index_url: str) -> AsyncIterator[AdminWorld]:
    """The application with an empty routing."""
    async with world(NO_BROKER, index_url) as made:
        yield made


async def put(here: AdminWorld, path: str, body: Any, version: int) -> tuple[int, Any]:
    """Write with the version that was read; return the status and the answer."""
    answer = await here.api.put(path, json=body, headers={"If-Match": f'"{version}"'})
    return answer.status_code, answer.json()


async def test_destinations_and_rules_are_made_changed_and_removed(here: AdminWorld) -> None:
    """The whole life of a destination and a rule, each change a version of its own."""
    assert await put(here, "/api/destinations/pacs", PACS, 0) == (200, {"version": 1, "warnings": []})
    assert await put(here, "/api/rules/ct", RULE, 1) == (200, {"version": 2, "warnings": []})
    assert await put(here, "/api/destinations/pacs", PACS | {"port": 11112}, 2) == (200, {"version": 3, "warnings": []})
    assert (await here.api.get("/api/destinations/pacs")).json()["port"] == 11112
    assert (await here.api.get("/api/rules/ct")).json()["when"] == RULE["when"]
    in_use = await here.api.delete("/api/destinations/pacs", headers={"If-Match": '"3"'})
    assert in_use.status_code == 409
    assert "ct" in in_use.json()["error"]
    last = await here.api.delete("/api/rules/ct", headers={"If-Match": '"3"'})
    assert last.status_code == 409
    assert "new images go nowhere" in last.json()["error"]
    meant = await here.api.delete("/api/rules/ct", params={"confirm": "true"}, headers={"If-Match": '"3"'})
    assert meant.json() == {"version": 4, "warnings": []}
    assert (await here.api.delete("/api/destinations/pacs", headers={"If-Match": '"4"'})).json() == {
        "version": 5,
        "warnings": [],
    }
    versions = (await here.api.get("/api/routing/versions")).json()
    assert [version["version"] for version in versions] == [5, 4, 3, 2, 1]
    second = (await here.api.get("/api/routing/versions/2")).json()["document"]
    assert await put(here, "/api/routing", second, 5) == (200, {"version": 6, "warnings": []})
    assert (await here.api.get("/api/rules")).json() == (await here.api.get("/api/routing")).json()["document"]["rules"]


async def test_changing_one_rule_leaves_the_rest_as_it_is(here: AdminWorld) -> None:
    """What is edited alone must not take the crosswalks, or the way rules are matched, with it."""
    whole = {
        "destinations": [PACS],
        "crosswalks": [{"name": "ids", "type": "csv", "file": "ids.csv", "key": "key", "value": "value"}],
        "match": "first",
        "rules": [{"name": "mr", "morph": [{"crosswalk": "PatientID", "table": "ids"}], "destinations": ["pacs"]}],
    }
    assert await put(here, "/api/routing", whole, 0) == (200, {"version": 1, "warnings": []})
    assert await put(here, "/api/rules/ct", RULE, 1) == (200, {"version": 2, "warnings": []})
    assert await put(here, "/api/destinations/pacs", PACS | {"port": 11112}, 2) == (200, {"version": 3, "warnings": []})
    document = (await here.api.get("/api/routing")).json()["document"]
    assert (document["crosswalks"], document["match"]) == (whole["crosswalks"], "first")


async def test_a_change_must_say_what_it_changes(here: AdminWorld) -> None:
    """Without If-Match, or with one that is no version, nothing may be written."""
    assert (await here.api.put("/api/destinations/pacs", json=PACS)).status_code == 428
    for stale in ('"7"', "0", 'W/"0"', "*", '"0", "1"', '"-1"', '"x"'):
        answer = await here.api.put("/api/destinations/pacs", json=PACS, headers={"If-Match": stale})
        assert answer.status_code == 412, stale
    assert (await here.api.get("/api/routing")).headers["etag"] == '"0"'


async def test_of_many_who_change_the_same_version_one_wins(here: AdminWorld) -> None:
    """Two administrators must never overwrite each other unknowingly, however close they come."""
    bodies = [PACS | {"port": port} for port in range(1, 11)]
    answers = await asyncio.gather(*(put(here, "/api/destinations/pacs", body, 0) for body in bodies))
    assert sorted(status for status, _ in answers) == [200] + [412] * 9
    winner = next(body for body, (status, _) in zip(bodies, answers, strict=True) if status == 200)
    assert (await here.api.get("/api/destinations/pacs")).json()["port"] == winner["port"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/api/destinations/pacs", PACS | {"port": 0}, "port"),
        ("/api/destinations/pacs", PACS | {"colour": "red"}, "colour"),
        ("/api/destinations/other", PACS, "other"),
        ("/api/rules/ct", RULE, "pacs"),
        ("/api/rules/ct", RULE | {"when": {"attribute": "Modalty", "equals": "CT"}}, "Modalty"),
        ("/api/rules/ct", RULE | {"when": {"attribute": "Modality", "regex": "("}}, "RE2"),
        ("/api/routing", {"rules": [RULE]}, "does not exist"),
        ("/api/routing", {"destinations": [PACS, PACS]}, "twice"),
        ("/api/routing", [], "body"),
        ("/api/destinations/pacs", None, "body"),
    ],
)
async def test_what_is_not_valid_is_refused_with_the_place(here: AdminWorld, path: str, body: Any, said: str) -> None:
    """A typing error must be answered with where it is, and must not reach the routing."""
    status, answer = await put(here, path, body, 0)
    assert status == 422
    assert said in answer["error"]
    assert (await here.api.get("/api/routing")).json()["version"] == 0


async def test_what_is_not_there_is_404(here: AdminWorld) -> None:
    """A name that does not exist must be said to, for reading and for removing."""
    for path in ("/api/destinations/none", "/api/rules/none", "/api/routing/versions/9"):
        assert (await here.api.get(path)).status_code == 404
    for path in ("/api/destinations/none", "/api/rules/none"):
        assert (await here.api.delete(path, headers={"If-Match": '"0"'})).status_code == 404


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"destinations": [],\n"destinations": []}', "lines 1 and 2: the key 'destinations'"),
        ('{"rules": [{"name": "a", "when": {"attribute": "Modality", "equals": "CT", "equals": "MR"}}]}', "'equals'"),
        ('{"rules": NaN}', "NaN"),
        ("{", "line 1"),
    ],
)
async def test_a_body_that_says_a_thing_twice_is_refused(here: AdminWorld, body: str, said: str) -> None:
    """Of two values for one key, one would be dropped silently."""
    headers = {"If-Match": '"0"', "Content-Type": "application/json"}
    answer = await here.api.put("/api/routing", content=body, headers=headers)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


@pytest.mark.parametrize("body", [{}, {"rules": []}, {"match": "first", "rules": [{"name": "keep"}]}])
async def test_a_routing_that_leads_nowhere_is_refused(here: AdminWorld, body: Any) -> None:
    """What an empty file says must never replace a routing."""
    status, answer = await put(here, "/api/routing", body, 0)
    assert status == 422
    assert "new images would go nowhere" in answer["error"]


async def test_a_misspelt_query_parameter_is_refused(here: AdminWorld) -> None:
    """A filter that is silently left out would answer for everything."""
    answer = await here.api.get("/api/deliveries", params={"destinaton": "pacs"})
    assert answer.status_code == 422
    assert "destinaton" in answer.json()["error"]


async def test_what_a_change_ends_is_told_in_numbers_and_must_be_confirmed(here: AdminWorld) -> None:
    """Deliveries that wait for a destination that goes would silently become dead letters."""
    other = {**PACS, "name": "archive"}
    both = {"destinations": [PACS, other], "rules": [RULE, {"name": "all", "destinations": ["archive"]}]}
    one = {"destinations": [other], "rules": [{"name": "all", "destinations": ["archive"]}]}
    assert await put(here, "/api/routing", both, 0) == (200, {"version": 1, "warnings": []})
    here.index.request_deliveries([requested(number) for number in (1, 2, 3)])
    effect = (await here.api.post("/api/routing/effect", json=one)).json()
    assert effect == {
        "changes": [
            {"what": "destination", "name": "pacs", "how": "removed"},
            {"what": "rule", "name": "ct", "how": "removed"},
        ],
        "stops": ["pacs"],
        "given_up": {"pacs": 3},
        "leads_nowhere": False,
    }
    status, answer = await put(here, "/api/routing", one, 1)
    assert status == 409
    assert "3 deliveries to pacs that wait become dead letters" in answer["error"]
    assert await put(here, "/api/routing?confirm=true", one, 1) == (200, {"version": 2, "warnings": []})


@pytest.mark.parametrize(
    "change",
    [
        {"rules": [{**RULE, "enabled": False}]},
        {"destinations": [{**PACS, "enabled": False}]},
        {"rules": []},
    ],
)
async def test_the_last_way_out_is_not_closed_by_mistake(here: AdminWorld, change: dict[str, Any]) -> None:
    """Disabling the last rule, or its destination, ends all routing as removing it does."""
    whole = {"destinations": [PACS], "rules": [RULE]}
    assert await put(here, "/api/routing", whole, 0) == (200, {"version": 1, "warnings": []})
    assert (await put(here, "/api/routing", whole | change, 1))[0] == 409
    back = await here.api.post("/api/routing/rollback", json={"version": 0}, headers={"If-Match": '"1"'})
    assert back.status_code == 409
    assert await put(here, "/api/routing?confirm=true", whole | change, 1) == (200, {"version": 2, "warnings": []})


async def test_a_destination_that_may_not_be_there_is_refused(here: AdminWorld) -> None:
    """Who edits the routing is told at once; what was saved before there was a list stops no other change."""
    secrets = PACS | {"host": "169.254.169.254", "port": 80}
    status, answer = await put(here, "/api/destinations/pacs", secrets, 0)
    assert (status, "169.254.169.254" in answer["error"]) == (422, True)
    assert (await put(here, "/api/routing", {"destinations": [secrets], "rules": [RULE]}, 0))[0] == 422
    assert (await here.api.get("/api/destinations")).json() == []
    here.index.save_routing(Routing.model_validate({"destinations": [secrets]}), 0, "earlier", "")
    other = PACS | {"name": "other", "host": "10.1.2.3"}
    assert (await put(here, "/api/destinations/other", other, 1))[0] == 200


async def test_a_folder_that_is_not_there_is_warned_of_and_saved(here: AdminWorld, tmp_path: Path) -> None:
    """Mounts may come later, and a typing error must be seen at once: saved, and said."""
    there = {"name": "there", "type": "folder", "folder": str(tmp_path)}
    missing = {"name": "archive", "type": "folder", "folder": str(tmp_path / "missing")}
    status, answer = await put(here, "/api/routing", {"destinations": [there, missing]}, 0)
    assert (status, answer["version"]) == (200, 1)
    (warning,) = answer["warnings"]
    assert f"the folder {tmp_path / 'missing'} of the destination archive does not exist here" in warning


async def test_what_would_be_refused_has_no_effect_to_show(here: AdminWorld) -> None:
    """Consequences of a change that is refused afterwards would be taken for what happened."""
    metadata = {"destinations": [PACS | {"host": "169.254.169.254"}]}
    answer = await here.api.post("/api/routing/effect", json=metadata)
    assert answer.status_code == 422
    assert "169.254.169.254 is an address at which machines are told their secrets" in answer.json()["error"]


async def test_a_mistake_in_a_body_is_said_with_the_name_of_its_rule(here: AdminWorld) -> None:
    """Positions and the validator's own words tell nobody which of thirty rules is wrong."""
    body = {"destinations": [PACS], "rules": [RULE | {"priority": "asap"}]}
    status, answer = await put(here, "/api/routing", body, 0)
    assert (status, answer["error"]) == (422, "rule 'ct', priority: it should be 'urgent' or 'routine'")

"""Functions in a running stack: a study goes in, is stable, comes back de-identified and goes where a rule says."""

import base64
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest

from bucky.cli.api_client import ApiFailed
from bucky.dimse import Outcome, Peer, store_all
from bucky.index import DeliveryState
from local_provider.stack_file import deployments
from local_stack.destination import received
from local_stack.servers import REPOSITORY
from tests.support.dicom.sample_instances import Sample, samples
from tests.support.stack.processes import children_of
from tests.support.stack.running_stack import RunningStack
from tests.support.waiting import eventually

BIG_MEGABYTES = 300
# Pieces on the way through, parts of an upload, and what Python does not give back.
MOST_GROWTH_KB = 64 * 1024
RULES: list[dict[str, Any]] = [
    {
        "name": "deidentify-ct",
        "trigger": "study_stable",
        "when": {
            "all": [{"not": {"origin": "function", "exists": True}}, {"association": "calling_aet", "equals": "CT1"}]
        },
        "process": {"function": "deidentify"},
    },
    {"name": "research", "when": {"origin": "function", "equals": "deidentify"}, "destinations": ["demo"]},
    *(
        {
            "name": f"reconstruct-{name.lower()}",
            "trigger": "study_stable",
            "when": {"association": "calling_aet", "equals": name},
            "process": {"function": "big", "parameters": {"megabytes": megabytes}},
        }
        for name, megabytes in (("BIG", BIG_MEGABYTES), ("SMALL", 2))
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _routed(stack: RunningStack) -> None:
    """Deploy two functions, and have rules call them."""
    _deploy(stack)
    current = stack.api.get("/api/routing")
    stack.api.put("/api/routing", {**current["document"], "rules": RULES}, current["version"])


def _gateway(stack: RunningStack) -> httpx.Client:
    settings = stack.settings
    auth = (settings.gateway_user, settings.gateway_password.get_secret_value())
    return httpx.Client(base_url=settings.gateway_url, auth=auth, trust_env=False)


def _deploy(stack: RunningStack) -> None:
    """Deploy the example as its stack file says, and the large function, as `faas-cli` does."""
    (example,) = deployments(REPOSITORY / "openfaas" / "examples.yaml")
    big = {
        "service": "big",
        "image": "test/big:1",
        "envProcess": f"python {REPOSITORY / 'tests' / 'support' / 'provider' / 'big_function.py'}",
        "envVars": {"BIG_HOLD": str(_hold(stack))},
    }
    with _gateway(stack) as gateway:
        secret = {"name": "deidentify-key", "value": base64.b64encode(b"a key").decode()}
        gateway.post("/system/secrets", json=secret).raise_for_status()
        for deployment in (example.to_json(), big):
            gateway.post("/system/functions", json=deployment).raise_for_status()
        for name in ("deidentify", "big"):
            eventually(partial(_ready, gateway, name), f"{name} is ready")


def _ready(gateway: httpx.Client, name: str) -> bool:
    return bool(gateway.get(f"/system/function/{name}").json()["availableReplicas"] == 1)


def _hold(stack: RunningStack) -> Path:
    return stack.home.path / "big.hold"


def _send(stack: RunningStack, some: list[Sample], calling_aet: str) -> str:
    peer = Peer("BUCKY", "127.0.0.1", stack.ports.dicom, calling_aet=calling_aet)
    results = store_all(peer, [one.outgoing for one in some], associations=1)
    assert {result.outcome for result in results} == {Outcome.STORED}
    return some[0].study_instance_uid


def _processed(stack: RunningStack, study: str) -> bool:
    return bool(stack.deliveries(study, DeliveryState.DELIVERED))


def _at_rest(stack: RunningStack) -> bool:
    try:
        queues = stack.api.get("/api/queues")
    except ApiFailed:  # a connector that was killed is not back yet
        return False
    return all(queue["waiting"] == 0 and queue["in_hand"] == 0 for queue in queues)


def _stable(stack: RunningStack, study: str) -> int:
    return sum(one.step == "study_stable" for one in stack.index.timeline(study))


def test_a_study_comes_back_deidentified_and_goes_where_a_rule_says(stack: RunningStack) -> None:
    """From C-STORE to a stable study, the example function, the bucket, the index and a PACS; once, and no further."""
    sent = samples(3)
    study = _send(stack, sent, "CT1")
    eventually(lambda: _processed(stack, study), "the function has answered")
    (processing,) = stack.deliveries(study)
    assert (processing.destination, processing.unit, processing.unit_instances) == ("deidentify", "study", 3)
    assert processing.detail == "3 results"
    results = {one.sha256: one for one in stack.index.results_of(processing.delivery_id)}
    eventually(lambda: results.keys() <= received(stack.home.destination).keys(), "the PACS has the results")
    there = received(stack.home.destination)
    assert not there.keys() & {sample.sha256 for sample in sent}
    made = {str(pydicom.dcmread(there[digest]).PatientID) for digest in results}
    assert len(made) == 1
    assert made.pop().startswith("DEID-")
    new_study = next(iter(results.values())).study_instance_uid
    assert new_study != study
    eventually(lambda: _stable(stack, new_study) == 1 and _at_rest(stack), "its results are stable, all is done")
    assert {row.destination for row in stack.deliveries(new_study)} == {"demo"}
    steps = [(one.step, one.instances) for one in stack.index.timeline(study) if one.destination == "deidentify"]
    assert steps == [("requested", 3), ("delivered", 3)]
    trace = {one.trace_id for one in stack.index.timeline(new_study) if one.step in ("received", "delivered")}
    assert trace == {processing.trace_id}


def _highest_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def test_a_large_result_passes_through_little_memory(stack: RunningStack) -> None:
    """A result of hundreds of megabytes raises the memory of no process on its way by more than its pieces."""
    (before,) = stack.function_pids("process-instances")
    _send(stack, samples(1), "CT1")
    eventually(lambda: _at_rest(stack), "a small study went through")
    pids = (before, stack.pid("provider"))
    highest = [_highest_kb(pid) for pid in pids]
    study = _send(stack, samples(1), "BIG")
    eventually(lambda: _processed(stack, study), "the large result is stored", seconds=120)
    assert stack.function_pids("process-instances") == [before]
    (result,) = stack.index.results_of(stack.deliveries(study)[0].delivery_id)
    assert stack.store.size(result.key) == result.size > BIG_MEGABYTES * 1024 * 1024
    grown = [_highest_kb(pid) - kb for pid, kb in zip(pids, highest, strict=True)]
    assert max(grown) < MOST_GROWTH_KB, grown


@pytest.mark.parametrize("victim", ["provider", "process-instances", "connector", "the function itself"])
def test_a_kill_in_the_middle_of_a_call_costs_a_call_and_nothing_else(stack: RunningStack, victim: str) -> None:
    """`kill -9` of any process of a call that is under way ends in one delivery, with one set of results."""
    began = _hold(stack).with_suffix(".began")
    began.unlink(missing_ok=True)
    _hold(stack).touch()
    study = _send(stack, samples(2), "SMALL")
    eventually(began.exists, "the function was called")
    if victim == "the function itself":
        for pid in _pids_of_function(stack, "big_function.py"):
            os.kill(pid, signal.SIGKILL)
    else:
        stack.kill(victim)
    _hold(stack).unlink()
    eventually(lambda: _processed(stack, study), "the function was called again and has answered", seconds=150)
    eventually(lambda: _at_rest(stack), "nothing is left to do")
    (row,) = [one for one in stack.deliveries(study) if one.destination == "big"]
    assert row.detail == "1 result"
    (result,) = stack.index.results_of(row.delivery_id)
    eventually(lambda: len(stack.instances(study)) == 3, "the result is indexed")
    assert {one.sha256 for one in stack.instances(study) if one.processed} == {result.sha256}
    keys = [one.key for one in stack.store.listing(f"studies/{study}/")]
    assert len(keys) == 3


def _pids_of_function(stack: RunningStack, script: str) -> list[int]:
    """Return the processes of a function of the provider by its script."""
    found = []
    for pid in children_of(stack.pid("provider")):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(argument.endswith(script.encode()) for argument in arguments):
            found.append(pid)
    assert found
    return found

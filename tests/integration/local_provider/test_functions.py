"""The local provider over real processes: deploy, call, crash, restart, update, remove."""

import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from local_stack.process import ProcessFailed
from tests.support.provider.provider_process import PASSWORD, Provider, running_provider
from tests.support.stack.processes import alive
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """One provider for this file, started with secrets that functions must not get."""
    with running_provider(
        tmp_path_factory.mktemp("provider"),
        BUCKY_STORE_ENDPOINT="http://127.0.0.1:1",
        BUCKY_STORE_SECRET_KEY="the-store's-key",
        BUCKY_NATS_PASSWORD="the-broker's-password",
    ) as running:
        yield running


@pytest.fixture
def provider(shared: Provider) -> Iterator[Provider]:
    """A running provider with nothing deployed."""
    yield shared
    if shared.process.process.poll() is not None:
        shared.process.start()
    shared.clear()


def test_system_needs_the_password_and_functions_do_not(provider: Provider) -> None:
    """Only who knows the password may deploy, which is to run commands; calls are guarded by Traefik."""
    provider.deploy()
    assert provider.anyone.get("/system/functions").status_code == 401
    assert provider.anyone.post("/system/functions", json=provider.deployment("x")).status_code == 401
    wrong = httpx.get(provider.url + "/system/info", auth=("admin", PASSWORD + "x"), trust_env=False)
    assert wrong.status_code == 401
    assert "Basic" in wrong.headers["www-authenticate"]
    assert provider.anyone.post("/function/echo").status_code == 200


def test_a_call_arrives_whole_and_so_does_the_answer(provider: Provider) -> None:
    """Method, path, query, headers and a large body pass unchanged; hop-by-hop headers do not."""
    provider.deploy()
    seen = provider.call(
        "/function/echo.openfaas-fn/a%2Fb/c?x=%20y&x=2",
        content=os.urandom(32 * 1024 * 1024),
        headers={"X-Call-Id": "id-7", "Connection": "keep-alive, X-Hop", "X-Hop": "1", "X-Own": b"\xfc"},
    )
    headers = dict(seen["headers"])
    assert (seen["method"], seen["path"], seen["size"]) == ("POST", "/a%2Fb/c?x=%20y&x=2", 32 * 1024 * 1024)
    assert headers["x-call-id"] == "id-7"
    assert headers["x-own"] == "ü"
    assert "x-hop" not in headers
    assert "x-start-time" in headers
    answer = provider.anyone.get("/function/echo/")
    assert answer.headers.get_list("x-twice") == ["1", "2"]
    assert answer.headers["x-call-id"]
    assert answer.json()["path"] == "/"


def test_a_streamed_body_passes(provider: Provider) -> None:
    """A body of unknown length is passed on in chunks."""
    provider.deploy()
    assert provider.call(content=iter([b"a" * 70_000, b"b" * 70_000]))["size"] == 140_000


def test_calls_do_not_stall(provider: Provider) -> None:
    """A call takes milliseconds: neither leg waits 40 ms for a delayed acknowledgement of TCP."""
    provider.deploy()

    def median_seconds(size: int) -> float:
        seconds = []
        for _ in range(30):
            began = time.perf_counter()
            provider.call(content=b"x" * size)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    # What fits into one segment never waits.
    assert median_seconds(20_000) < median_seconds(20) + 0.035


def test_a_function_gets_its_own_secrets_and_no_others(provider: Provider) -> None:
    """A function holds what it declares; the provider's own and the broker's passwords never reach it."""
    for name, value in {"index-url": "sqlite://", "other": "hidden"}.items():
        answer = provider.api.post("/system/secrets", json={"name": name, "value": value})
        assert answer.status_code == 202
    provider.deploy(secrets=["index-url"])
    seen = provider.call()
    assert seen["secrets"] == {"index-url": "sqlite://"}
    assert set(seen["modes"].values()) == {0o600, 0o700}
    environ = seen["environ"]
    assert environ["BUCKY_STORE_ENDPOINT"] == "http://127.0.0.1:1"
    for name in environ:
        assert not name.startswith(("BUCKY_GATEWAY", "BUCKY_PROVIDER", "BUCKY_NATS", "BUCKY_STORE_SECRET"))


def test_a_missing_secret_is_refused_and_a_used_one_kept(provider: Provider) -> None:
    """A function never starts without its secrets, and nobody removes one under it."""
    refused = provider.api.post("/system/functions", json=provider.deployment(secrets=["index-url"]))
    assert refused.status_code == 400
    assert "index-url" in refused.text
    provider.api.post("/system/secrets", json={"name": "index-url", "value": "x"})
    provider.deploy(secrets=["index-url"])
    kept = provider.api.request("DELETE", "/system/secrets", json={"name": "index-url"})
    assert (kept.status_code, "echo" in kept.text) == (409, True)
    provider.api.request("DELETE", "/system/functions", json={"functionName": "echo"})
    assert provider.api.request("DELETE", "/system/secrets", json={"name": "index-url"}).status_code == 202
    assert provider.api.get("/system/secrets").json() == []


def test_a_changed_secret_reaches_the_function(provider: Provider) -> None:
    """Functions read secrets when they start, so a changed secret replaces them, without a gap."""
    provider.api.post("/system/secrets", json={"name": "index-url", "value": "old"})
    provider.deploy(secrets=["index-url"])
    first = provider.call()["pid"]
    provider.api.put("/system/secrets", json={"name": "index-url", "value": "old"})
    assert provider.call()["pid"] == first
    provider.api.put("/system/secrets", json={"name": "index-url", "value": "new"})
    eventually(lambda: provider.call()["pid"] != first)
    assert provider.call()["secrets"] == {"index-url": "new"}


def test_a_killed_function_comes_back(provider: Provider) -> None:
    """`kill -9` of a function heals by itself, and calls meanwhile are told to come again."""
    provider.deploy()
    pid = provider.call()["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))
    answers = []

    def back() -> bool:
        answers.append(provider.anyone.post("/function/echo"))
        return answers[-1].status_code == 200

    eventually(back)
    assert {answer.status_code for answer in answers} <= {200, 502, 503}
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)
    assert answers[-1].json()["pid"] != pid
    assert any("exit code -9" in text for text in provider.log_texts())


def test_a_function_that_dies_under_a_call_answers_502(provider: Provider) -> None:
    """A call that breaks off is the gateway's error, not the function's answer."""
    provider.deploy()
    assert provider.anyone.post("/function/echo/die").status_code == 502
    provider.wait_available("echo", 1)


def test_a_function_that_is_not_ready_gets_no_calls(provider: Provider) -> None:
    """Readiness gates: no call goes to a function that says it cannot take work, now or later."""
    hold = provider.folder / "hold-echo"
    hold.touch()
    assert provider.api.post("/system/functions", json=provider.deployment()).status_code == 202
    eventually(lambda: "ended" not in " ".join(provider.log_texts()))
    assert provider.anyone.post("/function/echo").status_code == 503
    assert provider.status()["availableReplicas"] == 0
    assert provider.anyone.get("/health").status_code == 503
    hold.unlink()
    provider.wait_available("echo", 1)
    assert provider.anyone.get("/health").status_code == 200
    hold.touch()
    provider.wait_available("echo", 0)
    assert provider.anyone.post("/function/echo").status_code == 503


def test_replicas_share_the_calls(provider: Provider) -> None:
    """Scaling starts and stops processes, and each ready one gets its turn."""
    provider.deploy()
    assert provider.api.post("/system/scale-function/echo", json={"replicas": 3}).status_code == 202
    provider.wait_available("echo", 3)
    assert len({provider.call()["pid"] for _ in range(6)}) == 3
    provider.api.post("/system/scale-function/echo", json={"replicas": 0})
    provider.wait_available("echo", 0)
    assert provider.anyone.post("/function/echo").status_code == 503
    assert provider.api.post("/system/scale-function/echo", json={"replicas": 65}).status_code == 400
    assert provider.api.post("/system/scale-function/nobody", json={"replicas": 1}).status_code == 404


def test_an_update_leaves_no_gap(provider: Provider) -> None:
    """While a new version starts, the old one serves; an update that changes nothing restarts nothing."""
    provider.deploy()
    old = provider.call()["pid"]
    assert provider.api.put("/system/functions", json=provider.deployment()).status_code == 202
    assert provider.call()["pid"] == old
    changed = provider.deployment(envVars={"HOLD": str(provider.folder / "hold-echo"), "COLOUR": "red"})
    assert provider.api.put("/system/functions", json=changed).status_code == 202
    eventually(lambda: provider.call()["pid"] != old)
    assert provider.call()["environ"]["COLOUR"] == "red"
    eventually(lambda: not alive(old))


def test_an_update_that_cannot_start_keeps_the_old_one(provider: Provider) -> None:
    """A broken new version takes nothing out of service, and its log says why."""
    provider.deploy()
    old = provider.call()["pid"]
    broken = provider.deployment(envProcess="no-such-program --x")
    assert provider.api.put("/system/functions", json=broken).status_code == 202
    eventually(lambda: "cannot execute no-such-program: No such file or directory" in provider.log_texts())
    assert provider.call()["pid"] == old
    provider.api.put("/system/functions", json=provider.deployment())
    eventually(lambda: provider.call()["pid"] != old)
    eventually(lambda: not alive(old))


def test_a_removed_function_finishes_its_call(provider: Provider) -> None:
    """Removal takes no new calls and lets the one in hand finish."""
    provider.deploy()
    pid = provider.call()["pid"]
    answers: list[httpx.Response] = []
    slow = threading.Thread(target=lambda: answers.append(provider.anyone.post("/function/echo/slow")))
    slow.start()
    eventually((provider.folder / "hold-echo.began").exists)
    removed = provider.api.request("DELETE", "/system/functions", json={"functionName": "echo"})
    assert removed.status_code == 202
    assert provider.anyone.post("/function/echo").status_code == 404
    slow.join()
    assert answers[0].status_code == 200
    eventually(lambda: not alive(pid))
    assert provider.api.request("DELETE", "/system/functions", json={"functionName": "echo"}).status_code == 404


def test_functions_die_with_a_killed_provider_and_come_back(provider: Provider) -> None:
    """After `kill -9` of the provider no function is left over, and its successor restores them all."""
    provider.api.post("/system/secrets", json={"name": "index-url", "value": "x"})
    provider.deploy(secrets=["index-url"], annotations={"topic": "a.b"})
    provider.api.post("/system/scale-function/echo", json={"replicas": 2})
    provider.wait_available("echo", 2)
    before = provider.status()
    pids = {provider.call()["pid"] for _ in range(4)}
    provider.process.kill()
    eventually(lambda: not any(alive(pid) for pid in pids))
    provider.process.start()
    provider.wait_available("echo", 2)
    after = provider.status()
    assert (after["annotations"], after["replicas"], after["createdAt"]) == ({"topic": "a.b"}, 2, before["createdAt"])
    assert provider.call()["secrets"] == {"index-url": "x"}


def test_a_stopped_provider_drains_its_functions(provider: Provider) -> None:
    """SIGTERM lets the calls in hand finish through the provider, ends the functions, and exits with 0."""
    provider.deploy()
    pid = provider.call()["pid"]
    answers: list[httpx.Response] = []
    slow = threading.Thread(target=lambda: answers.append(provider.anyone.post("/function/echo/slow")))
    slow.start()
    eventually((provider.folder / "hold-echo.began").exists)
    provider.process.process.send_signal(signal.SIGTERM)
    slow.join()
    assert answers[0].status_code == 200
    assert provider.process.process.wait(10) == 0
    assert not alive(pid)


def test_logs_are_kept_cut_and_followed(provider: Provider) -> None:
    """Operators read a function's last lines, from a time on, and as they come."""
    provider.deploy()
    for text in ("one", "two", "x" * 100_000):
        provider.call("/function/echo/print", content=text.encode())
    eventually(lambda: len(provider.log_texts()) == 3)
    one, two, long = provider.log_texts()
    assert (one, two, len(long)) == ("one", "two", 8192)
    assert provider.log_texts(tail="1") == [long]
    assert provider.log_texts(since="2999-01-01T00:00:00Z") == []
    assert provider.api.get("/system/logs", params={"name": "echo", "since": "yesterday"}).status_code == 400
    assert provider.api.get("/system/logs", params={"name": "nobody"}).status_code == 404
    with provider.api.stream("GET", "/system/logs", params={"name": "echo", "follow": "true"}) as answer:
        lines = answer.iter_lines()
        assert [next(lines).count('"name":') for _ in range(3)] == [1, 1, 1]
        provider.call("/function/echo/print", content=b"four")
        assert '"text": "four"' in next(lines)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"service": "../up"}, "service"),
        ({"service": "Upper"}, "service"),
        ({"envProcess": ""}, "envProcess"),
        ({"envProcess": "python 'x"}, "envProcess"),
        ({"envVars": {"A=B": "1"}}, "envVars"),
        ({"secrets": ["../../etc/passwd"]}, "secrets"),
        ({"namespace": "elsewhere"}, "namespace"),
    ],
)
def test_a_bad_deployment_is_refused_with_a_sentence(provider: Provider, change: dict[str, object], says: str) -> None:
    """What cannot be run is refused at once, by name, and nothing is left behind."""
    answer = provider.api.post("/system/functions", json={**provider.deployment(), **change})
    assert answer.status_code == 400
    assert says in answer.text
    assert provider.api.get("/system/functions").json() == []


@pytest.mark.parametrize("name", ["../functions/echo.json", "..", "a/b", "", "a\0b", "a\n", "/etc/passwd", "a" * 251])
def test_a_secret_whose_name_is_no_file_name_is_refused(provider: Provider, name: str) -> None:
    """Nobody makes, changes or removes a file outside the secrets by what a secret is called."""
    provider.deploy()
    for method in ("POST", "PUT", "DELETE"):
        answer = provider.api.request(method, "/system/secrets", json={"name": name, "value": "x"})
        assert (answer.status_code, answer.text.startswith("name: ")) == (400, True), (method, answer.text)
    assert [file.name for file in (provider.folder / "provider" / "functions").iterdir()] == ["echo.json"]
    assert provider.api.get("/system/secrets").json() == []


def test_the_longest_name_of_a_secret_is_kept(provider: Provider) -> None:
    """A name that is allowed is one that the disk takes, its draft too."""
    name = "a" * 250
    assert provider.api.post("/system/secrets", json={"name": name, "value": "x"}).status_code == 202
    provider.deploy(secrets=[name])
    assert provider.call()["secrets"] == {name: "x"}


def test_a_replica_that_ended_by_itself_is_counted(provider: Provider) -> None:
    """Replicas that keep dying are seen in the function's status, though each is replaced at once."""
    provider.deploy()
    assert provider.status()["recentRestarts"] == 0
    for number in (1, 2):
        os.kill(provider.call()["pid"], signal.SIGKILL)
        eventually(lambda wanted=number: provider.status()["recentRestarts"] == wanted)  # type: ignore[misc]
        provider.wait_available("echo", 1)
    listed = provider.api.get("/system/functions").json()
    assert [(one["name"], one["recentRestarts"]) for one in listed] == [("echo", 2)]
    provider.api.post("/system/scale-function/echo", json={"replicas": 0})
    provider.wait_available("echo", 0)
    assert provider.status()["recentRestarts"] == 2


def test_a_second_provider_refuses_the_same_folder(provider: Provider) -> None:
    """Two supervisors of the same functions would fight; the second one says so and ends."""
    with (
        pytest.raises(ProcessFailed, match="another provider uses"),
        running_provider(provider.folder),
    ):
        pass

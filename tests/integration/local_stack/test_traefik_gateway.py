"""Traefik as configured, in front of the real admin API, a real S3 server and a provider that echoes."""

import io
import json
import os
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import urllib3
from minio import Minio
from minio.error import S3Error

from bucky.runtime.ports import free_port
from bucky.settings import Settings
from local_stack.certificates import ensure_certificates
from local_stack.gateway import GatewayPorts, Upstreams, ping_url, traefik
from local_stack.process import Program, http_ok
from tests.support.network.plain_http import get
from tests.support.servers import Running, run

pytestmark = pytest.mark.store

KEY = "key-of-the-gateway-test"
PATIENT = "Doe^Jane"


class Echo(BaseHTTPRequestHandler):
    """An upstream without any authentication that answers with what reached it."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """Answer with the path and headers, and remember the path."""
        self.rfile.read(int(self.headers.get("content-length") or 0))
        assert isinstance(self.server, EchoServer)
        self.server.reached.append(self.path)
        body = json.dumps({"path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


class EchoServer(ThreadingHTTPServer):
    """The upstream; `reached` has the path of every request that came through."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.reached: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


@dataclass
class Gateway:
    """Traefik, and what stands before and behind it."""

    ports: GatewayPorts
    ca: Path
    provider: EchoServer
    console: EchoServer
    admin: Running
    process: Running
    store: Settings

    def client(
        self,
        key: str | None = KEY,
        port: int | None = None,
        headers: dict[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> httpx.Client:
        """Return a client that trusts the local CA."""
        return httpx.Client(
            base_url=f"https://localhost:{port or self.ports.https}",
            verify=ssl.create_default_context(cafile=str(self.ca)),
            headers={**(headers or {}), **({"X-Api-Key": key} if key else {})},
            auth=auth,
            trust_env=False,
        )

    def raw(self, request: str, port: int | None = None) -> str:
        """Send bytes as they are, as no well-behaved client would; return the whole answer."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.set_alpn_protocols(["http/1.1"])
        answer = b""
        with (
            socket.create_connection(("127.0.0.1", port or self.ports.https), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            secured.sendall(request.encode("latin-1"))
            while part := secured.recv(65536):
                answer += part
        return answer.decode("latin-1")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, _shared_store: Settings) -> Iterator[Gateway]:
    """Traefik and the admin API as processes."""
    folder = tmp_path_factory.mktemp("gateway")
    provider, console = EchoServer(), EchoServer()
    admin = run(admin_api(folder, provider.url, _shared_store), folder)
    ports = GatewayPorts(*(free_port() for _ in range(5)))
    upstreams = Upstreams(
        provider=provider.url, admin=admin.program.address, s3=_shared_store.store_endpoint, console=console.url
    )
    certificates = ensure_certificates(folder / "tls")
    process = run(traefik(ports, upstreams, certificates), folder)
    yield Gateway(ports, certificates.ca, provider, console, admin, process, _shared_store)
    process.stop()
    admin.stop()
    for server in (provider, console):
        server.shutdown()
        server.server_close()


def admin_api(folder: Path, provider_url: str, store: Settings) -> Program:
    """Return the admin API as `bucky up` starts it."""
    port = free_port()
    return Program(
        name="admin-api",
        argv=(sys.executable, "-m", "admin_api"),
        env={
            "PATH": os.environ["PATH"],
            "BUCKY_API_KEY": KEY,
            "BUCKY_ADMIN_PORT": str(port),
            "BUCKY_INDEX_URL": f"sqlite:///{folder / 'index.db'}",
            "BUCKY_GATEWAY_URL": provider_url,
            "BUCKY_STORE_ENDPOINT": store.store_endpoint,
            "BUCKY_NATS_URL": "nats://127.0.0.1:9",
        },
        ready=http_ok(f"http://127.0.0.1:{port}/ready"),
        address=f"http://127.0.0.1:{port}",
    )


def test_functions_and_the_api_open_with_the_key_alone(gateway: Gateway) -> None:
    """The gateway must let the key through and nobody without it."""
    with gateway.client() as client, gateway.client(key=None) as stranger, gateway.client(key="wrong") as liar:
        assert client.post("/function/parse-instance?x=1").json()["path"] == "/function/parse-instance?x=1"
        assert client.get("/api/routing").json()["version"] == 0
        assert client.get("/api/docs").status_code == 200
        before = len(gateway.provider.reached)
        for refused in (stranger, liar):
            for path in ("/function/parse-instance", "/api/routing", "/api/docs", "/api/openapi.json"):
                answer = refused.get(path)
                assert answer.status_code == 401, path
                assert answer.headers["www-authenticate"].startswith("Basic")
        assert len(gateway.provider.reached) == before
    with gateway.client(key=None, auth=("admin", KEY)) as browser:
        assert browser.get("/api/routing").status_code == 200


def test_health_is_open_and_everything_else_is_404(gateway: Gateway) -> None:
    """Only the health page is for everybody; inner pages of the admin API are for nobody outside."""
    with gateway.client(key=None) as stranger, gateway.client() as client:
        health = stranger.get("/health")
        assert health.json()["parts"]["index"] == "up"
        for path in ("/", "/metrics", "/ready", "/auth", "/system/functions", "/healthz", "/apix", "/function"):
            assert client.get(path).status_code == 404, path


def test_the_function_does_not_learn_the_key(gateway: Gateway) -> None:
    """A function, which may be anybody's code, must not be given what opens the rest."""
    with gateway.client(headers={"Authorization": f"Bearer {KEY}"}) as client:
        headers = client.get("/function/any").json()["headers"]
    assert not {"x-api-key", "authorization"} & {name.lower() for name in headers}
    assert KEY not in json.dumps(headers)


FORGED = {
    "X-Forwarded-For": "6.6.6.6",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-User": "root",
    "X-Real-Ip": "6.6.6.6",
    "X-Original-Url": "/system/functions",
    "X-Rewrite-Url": "/system/functions",
    "X-Http-Method-Override": "DELETE",
    "Remote-User": "root",
    "Forwarded": "for=6.6.6.6",
    "X_Forwarded_User": "root",
    "X_Api_Key": "root",
}


def test_what_a_client_says_of_itself_is_not_passed_on(gateway: Gateway) -> None:
    """A backend must not be told by the client who the client is or where it comes from."""
    with gateway.client(headers=FORGED) as client:
        headers = {name.lower(): value for name, value in client.get("/function/any").json()["headers"].items()}
    assert (headers["x-forwarded-for"], headers["x-real-ip"]) == ("127.0.0.1", "127.0.0.1")
    assert headers["x-forwarded-proto"] == "https"
    assert not {"root", "6.6.6.6", "evil.example", "/system/functions", "DELETE"} & set(headers.values())


def test_forwarded_headers_cannot_talk_the_gate_into_opening(gateway: Gateway) -> None:
    """The decision must be about the request Traefik holds, not one that the client describes."""
    with gateway.client(
        headers={**FORGED, "X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/health", "Origin": "https://evil.example"}
    ) as client:
        assert client.post("/function/any").status_code == 403
        assert client.get("/function/any").status_code == 200


WAYS_TO_SYSTEM = [
    "/system/functions",
    "//system/functions",
    "/./system/functions",
    "/function/../system/functions",
    "/function/x/../../system/functions",
    "/function/./../system/functions",
    "/function//../system/functions",
    "/function/%2e%2e/system/functions",
    "/function/.%2E/system/functions",
    "/function/..%2fsystem/functions",
    "/function/..%2Fsystem%2Ffunctions",
    "/function%2f..%2fsystem/functions",
    "/function/%252e%252e/system/functions",
    "/function/%252e%252e%252fsystem/functions",
    "/function/..%5csystem/functions",
    "/function/..\\system/functions",
    "/function/%00/../../system/functions",
    "/function/..;/system/functions",
    "/function/%2e%2e%3b/system/functions",
    "/function/%c0%ae%c0%ae/system/functions",
    "/function/x?/../../system/functions",
    "/function/x#/../../system/functions",
    "/function/x%3f/../../system/functions",
    "/api/../system/functions",
    "/health/../system/functions",
    "/%73ystem/functions",
    "/SYSTEM/functions",
    "http://localhost/system/functions",
    "http://localhost/function/../system/functions",
    "system/functions",
    "*",
]


@pytest.mark.parametrize("path", WAYS_TO_SYSTEM)
def test_no_spelling_reaches_the_providers_system_api(gateway: Gateway, path: str) -> None:
    """Whoever reaches `/system` deploys code; no trick with the path may lead there, even with the key."""
    gateway.provider.reached.clear()
    gateway.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {KEY}\r\nConnection: close\r\n\r\n")
    for reached in gateway.provider.reached:
        inside = reached.partition("?")[0]
        assert inside.startswith("/function/")
        assert ".." not in inside.split("/")
        assert "%2f" not in inside.lower()
        assert "%5c" not in inside.lower()


@pytest.mark.parametrize(
    "request_text",
    [
        "POST /function/x HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\nContent-Length: 4\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /system/functions HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /function/x HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\nTransfer-Encoding : chunked\r\n"
        "Connection: close\r\n\r\n0\r\n\r\nGET /system/functions HTTP/1.1\r\n\r\n",
        "POST /function/x HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\nContent-Length: 0\r\n"
        "Content-Length: 40\r\nConnection: close\r\n\r\nGET /system/functions HTTP/1.1\r\n\r\n",
        "GET /function/x HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\nX: a\rGET /system/functions HTTP/1.1\r\n"
        "Connection: close\r\n\r\n",
    ],
)
def test_no_second_request_is_smuggled_in_a_first(gateway: Gateway, request_text: str) -> None:
    """Two lengths for one body must not let a hidden request through to the provider."""
    gateway.provider.reached.clear()
    gateway.raw(request_text.replace("{key}", KEY) + "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert all(path == "/function/x" for path in gateway.provider.reached)


def test_plain_http_only_redirects(gateway: Gateway) -> None:
    """Nobody may send the key in the clear and get an answer to it."""
    with httpx.Client(base_url=f"http://localhost:{gateway.ports.http}", trust_env=False) as plain:
        for path in ("/api/routing", "/function/x", "/health", "/system/functions"):
            answer = plain.get(path, headers={"X-Api-Key": KEY})
            assert answer.status_code in {302, 307}
            assert answer.headers["location"] == f"https://localhost:{gateway.ports.https}{path}"


def test_old_tls_is_refused(gateway: Gateway) -> None:
    """Nothing below TLS 1.2 may be spoken on any port."""
    for port in (gateway.ports.https, gateway.ports.s3, gateway.ports.console):
        context = ssl.create_default_context(cafile=str(gateway.ca))
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLError) as refused:
            context.wrap_socket(plain, server_hostname="localhost")
        assert "ALERT_PROTOCOL_VERSION" in str(refused.value.reason)


def test_browsers_are_told_to_be_careful(gateway: Gateway) -> None:
    """Pages must not be framed, guessed at, or kept by the browser."""
    with gateway.client() as client:
        headers = client.get("/api/routing").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_the_console_needs_the_key_and_does_not_get_it(gateway: Gateway) -> None:
    """The object store's pages have a login of their own, but are not shown to strangers at all."""
    port = gateway.ports.console
    with gateway.client(key=None, port=port) as stranger, gateway.client(port=port) as client:
        assert stranger.get("/").status_code == 401
        assert KEY not in client.get("/anything", headers={"Cookie": "session=1"}).text
    assert gateway.console.reached == ["/anything"]


def test_s3_works_through_the_gateway(gateway: Gateway) -> None:
    """Signed S3 requests must survive the way: put, ranged get, list and odd keys, over HTTPS."""
    client = s3_client(gateway, gateway.store.store_secret_key.get_secret_value())
    bucket = f"gateway-{secrets.token_hex(4)}"
    client.make_bucket(bucket)
    content = secrets.token_bytes(7 * 1024 * 1024)
    for key in ("studies/1.2/3.4/a.dcm", "odd/a b+c#d?e%f;g=ä&h.bin"):
        client.put_object(bucket, key, io.BytesIO(content), len(content), part_size=5 * 1024 * 1024)
        response = client.get_object(bucket, key, offset=100, length=1000)
        assert response.read() == content[100:1100]
        response.close()
        response.release_conn()
        assert client.stat_object(bucket, key).size == len(content)
    assert len(list(client.list_objects(bucket, recursive=True))) == 2


def test_s3_through_the_gateway_refuses_a_wrong_secret(gateway: Gateway) -> None:
    """The S3 port has no gate of its own: the object store must be refusing."""
    with pytest.raises(S3Error) as refused:
        list(s3_client(gateway, "wrong").list_buckets())
    assert refused.value.code == "SignatureDoesNotMatch"
    with gateway.client(key=None, port=gateway.ports.s3) as stranger:
        assert stranger.get("/bucky?list-type=2").status_code == 403


def s3_client(gateway: Gateway, secret: str) -> Minio:
    """Return a client of the S3 entry point."""
    return Minio(
        f"localhost:{gateway.ports.s3}",
        access_key=gateway.store.store_access_key.get_secret_value(),
        secret_key=secret,
        secure=True,
        region=gateway.store.store_region,
        http_client=urllib3.PoolManager(cert_reqs="CERT_REQUIRED", ca_certs=str(gateway.ca), retries=False),
    )


def test_the_inner_port_shows_ping_and_metrics_alone(gateway: Gateway) -> None:
    """The health port is for the supervisor; Traefik's own API and dashboard are off."""
    base = ping_url(gateway.ports).removesuffix("/ping")
    assert get(base + "/ping").text == "OK"
    assert get(base + "/metrics").status_code == 200
    for path in ("/api/rawdata", "/api/version", "/dashboard/", "/debug/vars"):
        assert get(base + path).status_code == 404


def test_everything_listens_on_loopback_alone(gateway: Gateway) -> None:
    """By default nothing may be reachable from another machine."""
    inodes = set()
    for link in Path(f"/proc/{gateway.process.process.pid}/fd").iterdir():
        target = str(link.readlink())
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    listening = [
        fields[1]
        for table in ("tcp", "tcp6")
        for fields in (line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        if fields[3] == "0A" and fields[9] in inodes
    ]
    assert len(listening) == 5
    assert {address.partition(":")[0] for address in listening} == {"0100007F"}


def test_neither_log_has_what_was_asked_for(gateway: Gateway) -> None:
    """A search names a patient and a request carries the key: neither may be written down on the way."""
    with gateway.client(headers={"Cookie": f"patient={PATIENT}"}) as client:
        assert client.get("/api/studies", params={"patient_name": PATIENT}).status_code == 200
        assert client.get("/function/x", params={"patient_name": PATIENT}).status_code == 200
        gateway.admin.stop()
        assert client.get("/api/studies", params={"patient_name": PATIENT}).status_code >= 500
        gateway.admin.start()
        assert client.get("/api/routing").status_code == 200
    for running in (gateway.process, gateway.admin):
        written = running.log_file.read_text()
        assert "/api/" in written
        for secret in ("Doe", "Jane", "patient_name", KEY):
            assert secret not in written, running.program.name


def test_the_admin_api_ends_cleanly(gateway: Gateway) -> None:
    """On SIGTERM the process must finish and report success, or a supervisor would see a crash."""
    gateway.admin.stop()
    assert gateway.admin.process.returncode == 0
    gateway.admin.start()


@pytest.mark.parametrize(("environ", "said"), [({"BUCKY_API_KEY": ""}, "BUCKY_API_KEY is empty"), ({}, "taken")])
def test_what_keeps_the_admin_api_from_starting_is_one_sentence(
    gateway: Gateway, environ: dict[str, str], said: str
) -> None:
    """Without a key, or on a taken port, the process must end at once and say what to do."""
    started = subprocess.run(
        gateway.admin.program.argv,
        env={**gateway.admin.program.env, **environ},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert started.returncode == 1
    assert said in next(line for line in started.stderr.splitlines() if line.startswith("admin-api: "))
    assert "Traceback" not in started.stderr

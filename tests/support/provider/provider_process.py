"""A real provider process for tests, and a small function for it to run."""

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bucky.runtime.ports import free_port
from bucky.runtime.tls import trust
from local_stack.process import Program, http_ok
from tests.support.servers import Running, run
from tests.support.stack.processes import serving
from tests.support.waiting import eventually

USER = "admin"
PASSWORD = "open-sesame"
DEADLINE_SECONDS = 20.0

# It needs nothing but Python, so that it starts in a blink.
ECHO = """
import base64, http.server, json, os, pathlib, signal, sys, threading, time

in_hand = []

class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size); self.rfile.readline()
            self.rfile.readline()
        status = 200
        if self.path == "/ready":
            status = 503 if pathlib.Path(os.environ["HOLD"]).exists() else 200
        elif self.path == "/slow":
            pathlib.Path(os.environ["HOLD"] + ".began").touch()
            time.sleep(1.0)
        elif self.path == "/die":
            os._exit(3)
        elif self.path == "/print":
            sys.stderr.write(body.decode() + "\\n")
        secrets = pathlib.Path(os.environ["BUCKY_SECRETS_DIR"])
        answer = json.dumps({
            "pid": os.getpid(), "method": self.command, "path": self.path,
            "headers": [[k.lower(), v] for k, v in self.headers.items()],
            "size": len(body), "environ": dict(os.environ), "argv": sys.argv[1:],
            "secrets": {f.name: f.read_text() for f in secrets.iterdir()},
            "modes": {f.name: f.stat().st_mode & 0o777 for f in [secrets, *secrets.iterdir()]},
        }).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("X-Twice", "1"); self.send_header("X-Twice", "2")
        self.end_headers()
        self.wfile.write(answer)

    def counted(self):
        in_hand.append(1)
        try:
            self.answer()
            self.wfile.flush()
        finally:
            in_hand.pop()

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = counted

    def log_message(self, *_):
        pass

def drain():
    server.shutdown()
    while in_hand:
        time.sleep(0.01)
    os._exit(0)

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["BUCKY_SERVE_PORT"])), Echo)
if "--deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=drain).start())
server.serve_forever(0.02)
threading.Event().wait()
"""


class Provider:
    """A running provider, and what a caller asks of it."""

    def __init__(self, folder: Path, program: Program, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.process: Running = run(program, folder)
        self.api = httpx.Client(
            base_url=self.url, auth=(USER, PASSWORD), trust_env=False, verify=trust(self.url), timeout=120
        )
        self.anyone = httpx.Client(base_url=self.url, trust_env=False, verify=trust(self.url), timeout=120)
        (folder / "echo.py").write_text(ECHO)

    def deployment(self, name: str = "echo", **changes: Any) -> dict[str, Any]:
        """Return a request to deploy the echo function."""
        return {
            "service": name,
            "image": "test/echo:1",
            "envProcess": f"python {self.folder / 'echo.py'}",
            "envVars": {"HOLD": str(self.folder / f"hold-{name}")},
            **changes,
        }

    def deploy(self, name: str = "echo", **changes: Any) -> None:
        """Deploy the echo function and wait until it is ready."""
        answer = self.api.post("/system/functions", json=self.deployment(name, **changes))
        assert answer.status_code == 202, answer.text
        self.wait_available(name, 1)

    def status(self, name: str = "echo") -> dict[str, Any]:
        """Return a function's status."""
        answer = self.api.get(f"/system/function/{name}")
        assert answer.status_code == 200, answer.text
        described: dict[str, Any] = answer.json()
        return described

    def pids_of(self, name: str) -> list[int]:
        """Return the processes that serve a function of Bucky's."""
        return serving(name, self.process.process.pid)

    def call(self, path: str = "/function/echo", **options: Any) -> dict[str, Any]:
        """Call a function; return what it saw."""
        answer = self.anyone.post(path, **options)
        assert answer.status_code == 200, answer.text
        seen: dict[str, Any] = answer.json()
        return seen

    def wait_available(self, name: str, count: int) -> None:
        """Wait until that many replicas are ready."""
        eventually(lambda: self.status(name).get("availableReplicas") == count)

    def clear(self) -> None:
        """Remove every function and secret."""
        for each in self.api.get("/system/functions").json():
            self.api.request("DELETE", "/system/functions", json={"functionName": each["name"]})
        for each in self.api.get("/system/secrets").json():
            self.api.request("DELETE", "/system/secrets", json={"name": each["name"]})
        for hold in self.folder.glob("hold-*"):
            hold.unlink()

    def log_texts(self, name: str = "echo", **query: str) -> list[str]:
        """Return the lines of a function's log."""
        answer = self.api.get("/system/logs", params={"name": name, **query})
        assert answer.status_code == 200, answer.text
        return [json.loads(line)["text"] for line in answer.text.splitlines()]


@contextmanager
def running_provider(folder: Path, **environment: str) -> Iterator[Provider]:
    """Start a provider on a free port in the folder, and stop it at the end."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    program = Program(
        name="provider",
        argv=(sys.executable, "-m", "local_provider"),
        env={
            "BUCKY_PROVIDER_PORT": str(port),
            "BUCKY_PROVIDER_DIR": str(folder / "provider"),
            "BUCKY_GATEWAY_USER": USER,
            "BUCKY_GATEWAY_PASSWORD": PASSWORD,
            **environment,
        },
        ready=http_ok(url + "/healthz"),
        address=url,
    )
    provider = Provider(folder, program, port)
    try:
        yield provider
    finally:
        provider.api.close()
        provider.anyone.close()
        provider.process.stop()


def raw_secret(value: bytes) -> str:
    """Return a secret's value as `faas-cli secret create --from-file` sends it."""
    return base64.b64encode(value).decode()

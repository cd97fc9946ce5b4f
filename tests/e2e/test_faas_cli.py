"""The real faas-cli against the real provider, from the repository's root, as an operator uses it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from bucky.runtime.ports import free_port
from local_provider.deployments import Deployment
from local_provider.stack_file import deployments, read_stack
from local_stack.servers import REPOSITORY, built
from tests.support.provider.provider_process import PASSWORD, USER, Provider, running_provider
from tests.support.waiting import eventually

pytestmark = pytest.mark.peer("faas-cli")

STACK = REPOSITORY / "openfaas" / "stack.yaml"
EXAMPLES = REPOSITORY / "openfaas" / "examples.yaml"
NAMES = {
    "parse-instance",
    "route-instance",
    "route-stable",
    "forward-instances",
    "commit-deliveries",
    "process-instances",
    "record-dead-letter",
}
SECRETS = ("store-access-key", "store-secret-key", "index-url")


class FaasCli:
    """faas-cli with a home folder of its own, logged in to one gateway."""

    def __init__(self, home: Path, gateway: str, folder: Path = REPOSITORY) -> None:
        self._home = home
        self._gateway = gateway
        self._folder = folder

    def __call__(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """Run a command; return what it printed, or fail when it ends with another code."""
        tool = built("faas-cli")
        assert tool is not None
        done = subprocess.run(
            (tool, *arguments),
            cwd=self._folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self._home),
                "OPENFAAS_CONFIG": str(self._home / "openfaas"),
                "OPENFAAS_URL": self._gateway,
            },
        )
        printed = done.stdout + done.stderr
        assert done.returncode == code, printed
        return printed

    def login(self, password: str = PASSWORD, code: int = 0) -> str:
        """Log in."""
        return self("login", "-u", USER, "--password-stdin", "-g", self._gateway, stdin=password, code=code)


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    """A fresh provider."""
    with running_provider(tmp_path) as running:
        yield running


@pytest.fixture
def faas(tmp_path: Path, provider: Provider) -> FaasCli:
    """faas-cli, logged in to the provider."""
    cli = FaasCli(tmp_path / "home", provider.url)
    cli.login()
    return cli


def test_login_checks_the_password(tmp_path: Path, provider: Provider) -> None:
    """A wrong password is told at login, not later."""
    cli = FaasCli(tmp_path / "home", provider.url)
    assert "either username or password is incorrect" in cli.login("wrong", code=1)
    assert f"credentials saved for {USER}" in cli.login()


def test_the_life_of_a_function(provider: Provider, faas: FaasCli) -> None:
    """Deploy, list, describe, invoke, logs, update and remove work as against OpenFaaS itself."""
    echo = ("deploy", "--image", "test/echo:1", "--name", "echo", "--env", f"HOLD={provider.folder / 'hold'}")
    command = f"python {provider.folder / 'echo.py'}"
    assert "202 Accepted" in faas(*echo, "--fprocess", command, "--annotation", "topic=a.b")
    provider.wait_available("echo", 1)
    listed = faas("list").splitlines()[-1].split()
    assert (listed[0], listed[2]) == ("echo", "1")
    described = faas("describe", "echo")
    assert "Ready" in described
    assert "topic : a.b" in described
    answer = json.loads(faas("invoke", "echo", "--query", "x=1", stdin="hello"))
    assert (answer["path"], answer["size"]) == ("/?x=1", 5)
    assert json.loads(faas("invoke", "echo", "-n", "openfaas-fn", stdin=""))["size"] == 0
    faas("invoke", "echo", "--method", "PUT", stdin="x")
    provider.call("/function/echo/print", content=b"a line of the function")
    eventually(lambda: "a line of the function" in faas("logs", "echo", "--tail=false"))
    assert "bucky-local" in faas("version", "--warn-update=false")
    assert "openfaas-fn" in faas("namespaces")
    assert "202 Accepted" in faas(*echo, "--fprocess", command, "--env", "COLOUR=red")
    eventually(lambda: json.loads(faas("invoke", "echo"))["environ"].get("COLOUR") == "red")
    faas("remove", "echo")
    assert "No such function" in faas("describe", "echo", code=1)
    assert "unexpected status code: 404" in faas("invoke", "echo", code=1)


def test_the_life_of_a_secret(faas: FaasCli, tmp_path: Path) -> None:
    """Secrets are created, listed by name, updated and removed; their values are never shown."""
    assert "202 Accepted" in faas("secret", "create", "index-url", "--from-literal", "s3cr3t")
    assert "already exists" in faas("secret", "create", "index-url", "--from-literal", "s3cr3t")
    (tmp_path / "value").write_text("other")
    faas("secret", "update", "index-url", "--from-file", str(tmp_path / "value"))
    listed = faas("secret", "list")
    assert "index-url" in listed
    assert "s3cr3t" not in listed
    faas("secret", "remove", "index-url")
    assert "index-url" not in faas("secret", "list")


def test_the_stack_file_deploys(provider: Provider, faas: FaasCli) -> None:
    """`faas-cli deploy -f openfaas/stack.yaml` deploys Bucky's functions, once their secrets are there."""
    refused = faas("deploy", "-f", str(STACK), code=1)
    assert "make it with `faas-cli secret create" in refused
    for name in SECRETS:
        faas("secret", "create", name, "--from-literal", "value")
    faas("deploy", "-f", str(STACK))
    assert {each["name"] for each in provider.api.get("/system/functions").json()} == NAMES
    forward = provider.status("forward-instances")
    assert forward["annotations"]["jetstream.partition"] == "subject"
    assert forward["envProcess"] == "python -m bucky.serve"
    faas("remove", "-f", str(STACK))
    assert provider.api.get("/system/functions").json() == []


def test_the_examples_deploy(provider: Provider, faas: FaasCli) -> None:
    """The functions that rules can call deploy as the how-to says, and answer what is no event of theirs."""
    faas("secret", "create", "deidentify-key", stdin="a key")
    faas("deploy", "-f", str(EXAMPLES))
    provider.wait_available("deidentify", 1)
    answer = provider.anyone.post("/function/deidentify", content=b"{}", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400


def test_faas_cli_and_bucky_up_deploy_the_same(tmp_path: Path) -> None:
    """Our reader of stack files sends what faas-cli sends, so both ways to deploy are one."""
    received: list[dict[str, Any]] = []

    class Capture(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    with HTTPServer(("127.0.0.1", free_port()), Capture) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        FaasCli(tmp_path, f"http://127.0.0.1:{server.server_port}")("deploy", "-f", str(STACK))
        server.shutdown()
    theirs = {each["service"]: Deployment.parse(json.dumps(each).encode()) for each in received}
    assert theirs == {each.service: each for each in deployments(STACK)}


@pytest.mark.parametrize("stack", [STACK, EXAMPLES], ids=["stack", "examples"])
def test_build_contexts_hold_what_the_handler_needs(tmp_path: Path, stack: Path) -> None:
    """`faas-cli build --shrinkwrap` gives contexts from which each handler can be imported, and nothing else."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("functions", "openfaas"):
        shutil.copytree(REPOSITORY / name, checkout / name, symlinks=True)
    shutil.copy(REPOSITORY / "template", checkout / "template", follow_symlinks=False)
    FaasCli(tmp_path, "", checkout)("build", "-f", f"openfaas/{stack.name}", "--shrinkwrap")
    for name, function in read_stack(stack).functions.items():
        context = checkout / "build" / name
        for file in ("Dockerfile", "requirements.txt", "assemble.sh", "function/functions/bucky/events.py"):
            assert (context / file).is_file(), file
        package = function.build_args["PACKAGE"]
        home = tmp_path / "home" / name
        home.mkdir(parents=True)
        subprocess.run(("sh", str(context / "assemble.sh"), str(context), package, str(home)), check=True)
        shutil.rmtree(context)
        handler = function.environment["BUCKY_HANDLER"]
        where = subprocess.run(
            (sys.executable, "-c", IMPORT_FROM, str(home), handler),
            env={"PATH": os.environ["PATH"]},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert where.returncode == 0, where.stderr


# Runs isolated from the checkout: its installation puts functions/ on the path, the image has only its home.
IMPORT_FROM = """
import importlib, sys
home, handler = sys.argv[1:]
sys.path[:] = [home] + [path for path in sys.path if path.endswith("site-packages") or "/lib/python" in path]
module = importlib.import_module(handler)
import bucky.serve.app
for name, loaded in sys.modules.items():
    if name.split(".")[0] in ("bucky", handler.split(".")[0]) and loaded.__file__:
        assert loaded.__file__.startswith(home + "/"), (name, loaded.__file__)
kinds = ("handle", "handle_batch", "process")
assert any(hasattr(module, kind) for kind in kinds), "no handler in " + handler
"""

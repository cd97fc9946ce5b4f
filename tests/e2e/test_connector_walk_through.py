"""The connector's README, followed to the letter: its files written, its commands run, its output compared."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from bucky.runtime.ports import free_port
from local_stack.servers import REPOSITORY

README = REPOSITORY / "openfaas" / "jetstream_connector" / "README.md"
_BLOCK = re.compile(r"^```(\w*) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def walk_through() -> list[tuple[str, str, str]]:
    """Return the section's blocks: language, file name if it is a file, content."""
    section = README.read_text().split("\n## Walk-through\n")[1].split("\n## ")[0]
    return [match.groups() for match in _BLOCK.finditer(section)]  # type: ignore[misc]


def on_free_ports(text: str, ports: dict[str, int]) -> str:
    """Return the text with other ports: those it names may be in use here."""
    return re.sub("|".join(ports), lambda match: str(ports[match[0]]), text)


def test_the_walk_through_does_what_it_says(tmp_path: Path) -> None:
    """Whoever follows the connector's README must see what it shows, down to the exit code."""
    ports = {port: free_port() for port in ("4222", "8082", "8102")}
    commands, expected = [], []
    for language, name, content in walk_through():
        if name:
            file = tmp_path / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(on_free_ports(content, ports))
        elif language == "sh":
            commands.append(on_free_ports(content, ports))
        else:
            expected += content.splitlines()
    start, publish, look, stop = commands
    # A person is slower than the last acknowledgement; a script need not be.
    settled = f"until curl -s http://127.0.0.1:{ports['8102']}/metrics | grep -q 'ack\"}} 3'; do sleep 0.1; done"
    commands = [start, publish, settled, look, stop]
    script = "set -e -m\n" + "\n".join(commands) + "\necho the connector ended well\n"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BUCKY_")}
    running = subprocess.Popen(
        ("bash", "-c", script),
        cwd=tmp_path,
        env={**environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = running.communicate(timeout=300)
    finally:
        end_session(running.pid)
    logs = {log.name: log.read_text()[-2000:] for log in tmp_path.glob("*.log")}
    assert running.returncode == 0, (output, logs)
    assert "the connector ended well" in output
    assert [line for line in expected if line not in output.splitlines()] == [], (output, logs)
    assert '"status":"ok"' in output
    assert "connector.stopped" in logs["connector.log"]


def end_session(leader: int) -> None:
    """End what the script may have left in the background: all processes of its session."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if session == leader and int(folder.name) != os.getpid():
            os.kill(int(folder.name), signal.SIGKILL)

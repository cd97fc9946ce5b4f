"""A network of a test's own, for peers that listen on every address and cannot be told otherwise."""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest


def run_alone(script: str, *arguments: object) -> Any:
    """Run a Python script where nobody else is, and return the JSON of its last line; skip where that cannot be."""
    unshare = shutil.which("unshare")
    alone = [str(unshare), *(() if os.geteuid() == 0 else ("--map-root-user",)), "--net"]
    if unshare is None or subprocess.run([*alone, "ip", "link", "set", "lo", "up"], check=False).returncode:
        pytest.skip("this system lets nobody make a network namespace")
    command = 'ip link set lo up && exec "$0" -c "$@"'
    ended = subprocess.run(
        [*alone, "sh", "-c", command, sys.executable, script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    return json.loads(ended.stdout.splitlines()[-1])

"""Which package may import which: the contracts in `pyproject.toml`, and that they notice."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("functions", "edge-scp", "openfaas", "infra/local")


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of a tree."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(root / source) for source in SOURCES)}
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_imports_keep_to_the_contracts() -> None:
    """Protects the house: a package is understood from those above it, never from those below."""
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "forbidden", "contract"),
    [
        ("functions/bucky/dicom/uids.py", "bucky.index", "The packages of bucky import downwards"),
        ("functions/bucky/errors.py", "bucky.settings", "The packages of bucky import downwards"),
        ("edge-scp/edge_scp/spool/entry.py", "edge_scp.upload", "The packages of the edge import downwards"),
        ("functions/route_instance/handler.py", "forward_instances.handler", "No function or process imports another"),
        ("functions/bucky/trace.py", "keeper.page", "No function or process imports another"),
        ("openfaas/jetstream_connector/message.py", "bucky.dicom.uids", "nothing of DICOM"),
    ],
)
def test_a_forbidden_import_is_noticed(tmp_path: Path, module: str, forbidden: str, contract: str) -> None:
    """A check that cannot fail protects nothing."""
    for source in SOURCES:
        shutil.copytree(
            ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__", "*.so", "express")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a") as file:
        file.write(f"\nimport {forbidden}\n")
    result = lint_imports(tmp_path)
    broken = [line for line in result.stdout.splitlines() if line.endswith("BROKEN")]
    assert result.returncode == 1, result.stdout
    assert any(contract in line for line in broken), result.stdout

"""`tools/build`: a program is built once for each user, and one that cannot be is named with what that means."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "tools" / "build"
NEEDED = ("bash", "chmod", "dirname", "ln", "mkdir", "mktemp", "mv", "rm", "env")


class Checkout:
    """A folder with the script in it, and a PATH on which there is no Go until one is put there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder / "checkout", folder / "path"
        (self.folder / "tools").mkdir(parents=True)
        self.path.mkdir()
        shutil.copy(SCRIPT, self.folder / "tools" / "build")
        for tool in NEEDED:
            found = shutil.which(tool)
            assert found, tool
            (self.path / tool).symlink_to(found)

    def go(self, script: str) -> None:
        """Put a Go on the PATH that does this."""
        go = self.path / "go"
        go.write_text(f"#!/usr/bin/env bash\n{script}\n")
        go.chmod(0o755)

    def build(self, tool: str) -> "subprocess.CompletedProcess[str]":
        """Run the script as make does."""
        return subprocess.run(
            (str(self.folder / "tools" / "build"), tool),
            env={"PATH": str(self.path), "XDG_CACHE_HOME": str(self.folder.parent / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout in which nothing was built."""
    return Checkout(tmp_path)


def test_without_go_the_user_is_told_what_is_done_instead(checkout: Checkout) -> None:
    """Setting up goes on without it; it must not look like a failure of everything."""
    done = checkout.build("versitygw")
    assert done.returncode == 1
    assert "Go is not installed" in done.stderr
    assert "Without it, new homes get SeaweedFS for their object store." in done.stderr


def test_a_build_that_fails_leaves_nothing(checkout: Checkout) -> None:
    """Half a program is none; the next try begins anew."""
    checkout.go('echo "no such module" >&2; touch "$GOBIN/versitygw"; exit 1')
    done = checkout.build("versitygw")
    assert done.returncode == 1
    assert "no such module" in done.stderr
    assert not list(checkout.folder.parent.rglob("versitygw"))


def test_what_was_built_once_is_only_linked(checkout: Checkout) -> None:
    """Another checkout of the same user, or the next `make setup`, needs no Go and no network."""
    checkout.go('printf "#!/bin/sh\\necho built" >"$GOBIN/versitygw"; chmod 755 "$GOBIN/versitygw"')
    assert checkout.build("versitygw").returncode == 0
    (checkout.path / "go").unlink()
    program = checkout.folder / ".cache" / "bin" / "versitygw"
    program.unlink()
    assert checkout.build("versitygw").returncode == 0
    assert subprocess.run((str(program),), capture_output=True, text=True, check=True).stdout == "built\n"


def test_an_unknown_tool_is_refused(checkout: Checkout) -> None:
    """A typing error is no build."""
    done = checkout.build("versity")
    assert (done.returncode, done.stderr) == (2, "usage: tools/build faas-cli|minio|versitygw\n")

"""Builds the edge's fast path (`edge-scp/express`) into the wheel, where there is a Rust that can."""

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_MODULE = "edge-scp/edge_scp/_express.abi3.so"


class ExpressBuildHook(BuildHookInterface[Any]):
    """Runs cargo. Without the fast path the edge serves everything in Python, and says so when it starts."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's
        """Build the module, or warn that there is none."""
        root = Path(self.root)
        module = root / _MODULE
        module.unlink(missing_ok=True)
        cargo = shutil.which("cargo")
        if cargo is None:
            self.app.display_warning("cargo is not installed: the edge is built without its fast path")
            return
        target = root / ".cache" / "express"
        command = [cargo, "build", "--release", "--locked", "--target-dir", str(target)]
        if subprocess.run(command, cwd=root / "edge-scp" / "express", check=False).returncode:
            self.app.display_warning("cargo failed: the edge is built without its fast path")
            return
        # Renamed into place: a process may have the old one mapped.
        fresh = module.with_suffix(".new")
        shutil.copyfile(target / "release" / "lib_express.so", fresh)
        fresh.rename(module)
        build_data["artifacts"].append(_MODULE)
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

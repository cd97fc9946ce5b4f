"""What the benchmark compiles: its C programs, and the parts of an edge that neither digests nor syncs."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-Wall", "-Wextra", "-pthread")


EXPRESS = SOURCES.parent / "edge-scp" / "express"


@dataclass(frozen=True)
class Bare:
    """What takes digests and syncs out of an edge (`bench/bare`): a native part, and a library to preload."""

    native_part: Path
    no_sync: Path

    @property
    def env(self) -> dict[str, str]:
        """Return the environment variables that put it in place."""
        return {
            "BENCH_BARE_NATIVE_PART": str(self.native_part),
            "LD_PRELOAD": str(self.no_sync),
            "PYTHONPATH": str(SOURCES / "bare"),
        }


@dataclass(frozen=True)
class Natives:
    """What was compiled; `sink` is None where OpenSSL's library is not there, `bare` where cargo is not."""

    sender: Path
    sink: Path | None
    bare: Bare | None


def build(folder: Path) -> Natives:
    """Compile into a folder; raise `SystemExit` in one sentence when there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("the benchmark's senders are C programs: install a C compiler (apt-get install gcc libc6-dev)")
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    sender, bare = _compiled(compiler, "sender", folder), _bare(compiler, folder)
    try:
        return Natives(sender, _compiled(compiler, "sink", folder, "-l:libcrypto.so.3"), bare)
    except subprocess.CalledProcessError:
        return Natives(sender, None, bare)


def _compiled(compiler: str, name: str, folder: Path, *options: str) -> Path:
    source = SOURCES / f"{name}.c"
    program = folder / Path(name).name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run((compiler, *FLAGS, "-o", str(program), str(source), *options), check=True)
    return program


def _bare(compiler: str, folder: Path) -> Bare | None:
    """Build the edge's native part from a copy of it, in which `bench/bare/sha2` stands for the crate of that name."""
    cargo = shutil.which("cargo")
    if cargo is None:
        return None
    copy, target = folder / "express", folder / "express-target"
    shutil.copytree(EXPRESS, copy, dirs_exist_ok=True)
    with (copy / "Cargo.toml").open("a") as manifest:
        manifest.write(f'\n[patch.crates-io]\nsha2 = {{ path = "{SOURCES / "bare" / "sha2"}" }}\n')
    subprocess.run((cargo, "build", "--quiet", "--release", "--target-dir", str(target)), cwd=copy, check=True)
    no_sync = _compiled(compiler, "bare/no_sync", folder, "-shared", "-fPIC", "-ldl")
    return Bare(target / "release" / "lib_express.so", no_sync)

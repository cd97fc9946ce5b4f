"""The benchmark's C programs, compiled when their source is newer."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-Wall", "-Wextra", "-pthread")


@dataclass(frozen=True)
class Natives:
    """The compiled programs; `sink` is None where OpenSSL's library is not there to link with."""

    sender: Path
    sink: Path | None


def build(folder: Path) -> Natives:
    """Compile into a folder; raise `SystemExit` in one sentence when there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("the benchmark's senders are C programs: install a C compiler (apt-get install gcc libc6-dev)")
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    sender = _compiled(compiler, "sender", folder, ())
    try:
        return Natives(sender, _compiled(compiler, "sink", folder, ("-l:libcrypto.so.3",)))
    except subprocess.CalledProcessError:
        return Natives(sender, None)


def _compiled(compiler: str, name: str, folder: Path, libraries: tuple[str, ...]) -> Path:
    source, program = SOURCES / f"{name}.c", folder / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run((compiler, *FLAGS, "-o", str(program), str(source), *libraries), check=True)
    return program

"""Having two DICOM files compared by a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from bucky.differences.model import Differences, PixelComparison

SECONDS = 120.0
_FAILED = Differences(
    False, ("", ""), (), PixelComparison.UNKNOWN, "they could not be compared: the decoder failed on them"
)


def compared(first: Path, second: Path, *, seconds: float = SECONDS) -> Differences:
    """Return how a second file differs from a first; what could not be compared is said, never guessed."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bucky.differences", str(first), str(second)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what a decoder prints may hold anything
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return replace(_FAILED, problem=f"they could not be compared within {seconds:g} s")
    if done.returncode:
        return _FAILED
    return Differences.from_data(json.loads(done.stdout))

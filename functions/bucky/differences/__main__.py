"""Compares two DICOM files in a process of its own: `python -m bucky.differences FIRST SECOND`.

What the decoders are given came from outside and they are not ours: one that crashes costs one comparison.
"""

import json
import os
import resource
import sys
from dataclasses import asdict
from pathlib import Path

from bucky.differences.files import compare_files

MAX_ADDRESS_SPACE = 3 * 1024**3


def main() -> None:
    """Print the differences as one JSON object; decoders that print do not reach it."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE))
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        first, second = sys.argv[1:3]
        json.dump(asdict(compare_files(Path(first), Path(second))), answer)


if __name__ == "__main__":
    main()

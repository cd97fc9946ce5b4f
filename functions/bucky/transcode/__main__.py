"""Converts for another process: one JSON object per line in, one per line out."""

import json
import os
import resource
import sys
from pathlib import Path
from typing import IO

from bucky.transcode import CannotTranscode
from bucky.transcode.conversion import transcode

MAX_ADDRESS_SPACE = 3 * 1024**3


def serve(orders: IO[str], answers: IO[str]) -> None:
    """Carry out each order, `{"source", "source_syntax", "target", "target_syntax"}`; answer `{"error"}`."""
    for line in orders:
        order = json.loads(line)
        error = ""
        try:
            with Path(order["source"]).open("rb") as source, Path(order["target"]).open("w+b") as target:
                transcode(source, order["source_syntax"], target, order["target_syntax"])
        except CannotTranscode as cannot:
            error = str(cannot)
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()


def main() -> None:
    """Serve until the other side closes; decoders that print do not reach the answers."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE))
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()

"""Coverage-guided fuzzing of the upper layer: `python -m tests.fuzz [seconds] [corpus folder]` (`make fuzz`).

Needs the dependency group `fuzz`. What it finds is kept as a line in `findings.py`, which is tested from then on.
"""

import logging
import sys
from pathlib import Path

import atheris
import structlog

with atheris.instrument_imports(include=["edge_scp.association"]):
    from tests.fuzz.conversation import converse, seeds


def main() -> None:
    """Fuzz for so many seconds."""
    seconds = sys.argv[1] if len(sys.argv) > 1 else "120"
    corpus = Path(sys.argv[2] if len(sys.argv) > 2 else ".cache/fuzz-upper-layer")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable()
    options = [f"-max_total_time={seconds}", "-max_len=2048", f"-artifact_prefix={corpus}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_conversation)
    atheris.Fuzz()


def one_conversation(script: bytes) -> None:
    """Hold one conversation."""
    converse(script)


if __name__ == "__main__":
    main()

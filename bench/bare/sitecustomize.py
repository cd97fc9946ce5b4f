"""Takes digests and syncs out of an edge, to measure what they cost. Put this folder on PYTHONPATH; for measuring only.

The native part is one that was built with `bench/bare/sha2`, whose digests cost nothing; `no_sync.c`, preloaded, makes
syncs do nothing. Here go Python's digests, and slots are written through the page cache.
"""

import hashlib
import importlib.util
import os
import sys
from typing import Any


class _NoDigest:
    digest_size = 32

    def update(self, data: object) -> None:
        pass

    def digest(self) -> bytes:
        return bytes(self.digest_size)

    def hexdigest(self) -> str:
        return self.digest().hex()

    def copy(self) -> "_NoDigest":
        return self


def _no_digest(data: object = b"", *, usedforsecurity: bool = True) -> _NoDigest:  # noqa: ARG001 - hashlib's
    return _NoDigest()


_open = os.open


def _open_cached(path: Any, flags: int, *arguments: Any, **more: Any) -> int:
    return _open(path, flags if flags & os.O_DSYNC else flags & ~os.O_DIRECT, *arguments, **more)


hashlib.sha256 = _no_digest  # type: ignore[assignment]
os.open = _open_cached

_spec = importlib.util.spec_from_file_location("edge_scp._express", os.environ["BENCH_BARE_NATIVE_PART"])
assert _spec is not None
assert _spec.loader is not None
_native = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_native)

import edge_scp  # noqa: E402 - after what it would import is replaced

sys.modules["edge_scp._express"] = _native
edge_scp._express = _native  # type: ignore[attr-defined]

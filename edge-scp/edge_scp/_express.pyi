"""The express lane's native code: `edge-scp/express`."""

from collections.abc import Callable, Sequence

class Context:
    def __init__(
        self, sop_class: str, transfer_syntax: str, implicit: bool, before: bytes, after: bytes, /
    ) -> None: ...

# Number, instances answered; command set, context id, ended, size; errno and reason; held, unsent, closed.
LeftFields = tuple[
    int, int, tuple[bytes, int, bool, int] | None, tuple[int, str | None] | None, bytes, bytes, int | None
]

def read_identity(data: bytes, implicit: bool) -> list[str] | None: ...

class Lane:
    def __init__(
        self,
        ready: int,
        ledger: tuple[int, int, int],
        board: tuple[int, int, int, int, int] | None,
        allowance: Callable[[int], int],
        *,
        max_pdu: int,
        write_back: bool,
        digest: bool,
    ) -> None: ...
    def use_trays(self, file: int, page: int, first: int, step: int, owner: int) -> None: ...
    def fileno(self) -> int: ...
    def enter(
        self,
        descriptor: int,
        caller: tuple[str, str],
        trace: tuple[str, str],
        contexts: Sequence[tuple[int, Context]],
    ) -> int: ...
    def leave(self, number: int) -> LeftFields | None: ...
    def serve(self, other: int, seconds: float | None) -> None: ...
    def news(self) -> tuple[list[LeftFields], int]: ...
    def kept(self) -> tuple[list[tuple[str, int]], int, list[float], bytes]: ...
    def progress(self, number: int) -> tuple[int, float, int] | None: ...
    def close(self) -> None: ...

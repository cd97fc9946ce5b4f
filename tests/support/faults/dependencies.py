"""The processes that run for long, what each depends on, and the faults that each must outlive: as a table."""

from dataclasses import dataclass

RECOVERS = "by itself"


@dataclass(frozen=True)
class Row:
    """A process and a server it depends on: what waits meanwhile, and where its page says that it is not well."""

    process: str
    dependency: str
    waits: str
    page: str


ROWS = (
    Row("edge (uploader)", "broker", "instances stay in the spool", "`broker` of the edge's page"),
    Row("edge (uploader)", "store", "instances stay in the spool", "`store` of the edge's page"),
    Row("connector", "broker", "events stay in the streams", "`trouble` of the connector's page"),
    Row("connector", "gateway", "events stay in the streams", "`trouble` of the connector's page"),
    Row("keeper", "broker", "studies become stable later", "`trouble` of the keeper's page"),
    Row("admin API", "broker", "dead letters and replays answer 503", "`broker` of `/api/health`"),
    Row("admin API", "store", "downloads answer 503", "`store` of `/api/health`"),
    Row("admin API", "gateway", "rehearsals answer 503", "`functions` of `/api/health`"),
)

FAULTS = {
    "closed": "every connection is ended, and new ones too, for a while",
    "half open": "connections stay open and nothing comes through any more; new ones alike",
    "restarted": "the server is killed, and started on the same data",
    "moved": "the server is at another address from now on",
    "refuses us": "another server answers there: a password that is wrong, then right again",
    "error line": "the server says `-ERR`, or answers what is no answer",
}


def markdown() -> str:
    """Return the tables of the reference page."""
    lines = ["| Process | Depends on | Meanwhile | Says so in | Afterwards |", "|---|---|---|---|---|"]
    lines += [f"| {row.process} | {row.dependency} | {row.waits} | {row.page} | {RECOVERS} |" for row in ROWS]
    lines += ["", "| Fault | What happens |", "|---|---|"]
    lines += [f"| {name} | {what} |" for name, what in FAULTS.items()]
    return "\n".join(lines) + "\n"

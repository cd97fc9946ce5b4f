"""The index's tables about deliveries. `migrations/` makes them; a contract test compares the two."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    String,
    Table,
    Text,
    text,
    true,
)

from bucky.index.column_types import UtcDateTime, metadata

# No foreign key to instances: what was delivered stays on record when an instance is deleted.
deliveries = Table(
    "deliveries",
    metadata,
    Column("delivery_id", String(64), primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("series_instance_uid", String(64), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("destination", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("rule_version", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("redriven_at", UtcDateTime),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("completed_at", UtcDateTime),
    Column("trace_id", String(32)),
    Column("priority", String(16), nullable=False, server_default="routine"),
    Column("morph_sha256", String(64)),  # of the changes that the rule asks for, if any
    Column("sent_sha256", String(64)),  # of the data set as a rule changed it, before any conversion
    Column("crosswalks", Text, nullable=False, server_default=""),  # the tables its changes were looked up in
    Column("waiting_since", UtcDateTime),  # where it waits since later than its request, or its redrive
    Column("due_at", UtcDateTime),  # when the keeper looks after it: no commitment yet, or to be sent again
    Column("sends", Integer, nullable=False, server_default="0"),  # how often the destination took it
    Column("commitment", Text, nullable=False, server_default=""),  # what is to be said of it
    Column("commitment_uid", String(64)),  # the transaction in which it is asked for
    Column("commitment_asked_at", UtcDateTime),  # when the destination agreed to answer that
    Column("commitment_asks", Integer, nullable=False, server_default="0"),
    # Of what is given to a function: instance, series or study, and how many of its instances, with which digest.
    Column("unit", String(16)),
    Column("unit_sha256", String(64)),
    Column("unit_instances", Integer),
    Column("unanswered_sha256", String(64)),  # of the data set that was sent whole, and had no answer
    Index("deliveries_requested_at", "requested_at", "delivery_id"),
    Index("deliveries_state", "state", "requested_at"),
    Index("deliveries_destination", "destination", "state"),
    Index("deliveries_study", "study_instance_uid"),
    Index("deliveries_sha256", "sha256"),
)


for _name in ("due_at", "commitment_uid"):
    Index(
        f"deliveries_{_name}",
        deliveries.c[_name],
        sqlite_where=text(f"{_name} IS NOT NULL"),
        postgresql_where=text(f"{_name} IS NOT NULL"),
    )

# Which instances of a series or study are given to a function.
delivery_members = Table(
    "delivery_members",
    metadata,
    Column("delivery_id", String(64), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Index("delivery_members_sha256", "sha256"),
)


# What a function made, so that it can be told of again by who cannot know whether it was told of.
delivery_results = Table(
    "delivery_results",
    metadata,
    Column("delivery_id", String(64), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("stored", JSON, nullable=False),
)


# What became of a delivery before what its row says now; repetitions of one failure are one row, counted.
delivery_steps = Table(
    "delivery_steps",
    metadata,
    Column("step_id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("delivery_id", String(64), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("first_at", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    Column("times", Integer, nullable=False),
    Index("delivery_steps_delivery", "delivery_id", "step_id"),
)


# Which instances the rules have been asked about; version 0 is for those from before this was kept.
routings = Table(
    "routings",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("rule_version", Integer, nullable=False),
    Column("destinations", Integer, nullable=False),
    Column("routed_at", UtcDateTime, nullable=False),
    Column("matched", Boolean, nullable=False, server_default=true()),  # whether any rule did
)
Index(
    "routings_unmatched",
    routings.c.routed_at,
    sqlite_where=text("matched = 0"),
    postgresql_where=text("NOT matched"),
)

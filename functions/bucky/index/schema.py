"""The index's tables. `migrations/` makes them; a contract test compares the two."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    text,
)

from bucky.index.column_types import ProcessedBy, UtcDateTime, metadata

studies = Table(
    "studies",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("patient_id", Text),
    Column("issuer_of_patient_id", Text),
    Column("patient_name", Text),
    Column("patient_name_key", Text),  # case-folded, for searching
    Column("patient_birth_date", Text),
    Column("patient_sex", Text),
    Column("study_date", Text),  # YYYYMMDD, or nothing when the value is no date
    Column("study_time", Text),
    Column("accession_number", Text),
    Column("study_id", Text),
    Column("study_description", Text),
    Column("referring_physician_name", Text),
    Column("first_received_at", UtcDateTime, nullable=False),
    Column("last_instance_at", UtcDateTime, nullable=False),  # when the index last got a new instance
    Column("patient_count", Integer, nullable=False, server_default="0"),  # of `study_patients`
    Index("studies_patient_id", "patient_id"),
    Index("studies_patient_name_key", "patient_name_key"),
    Index("studies_study_date", "study_date"),
    Index("studies_accession_number", "accession_number"),
    Index("studies_last_instance_at", "last_instance_at"),
)

Index(
    "studies_several_patients",
    studies.c.patient_count,
    sqlite_where=text("patient_count > 1"),
    postgresql_where=text("patient_count > 1"),
)

# Every patient that a study's instances name: searches look here.
study_patients = Table(
    "study_patients",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("patient_key", String(64), primary_key=True),  # SHA-256 of ID, issuer and name; or nothing
    Column("patient_id", Text),
    Column("issuer_of_patient_id", Text),
    Column("patient_name", Text),
    Column("patient_name_key", Text),
    Column("patient_birth_date", Text),
    Column("patient_sex", Text),
    Index("study_patients_patient_id", "patient_id"),
    Index("study_patients_patient_name_key", "patient_name_key"),
)

# The key has both UIDs: senders exist that use one series UID in two studies.
series = Table(
    "series",
    metadata,
    Column(
        "study_instance_uid",
        String(64),
        ForeignKey("studies.study_instance_uid", name="series_studies", deferrable=True, initially="DEFERRED"),
        primary_key=True,
    ),
    Column("series_instance_uid", String(64), primary_key=True),
    Column("modality", Text),
    Column("series_number", BigInteger),
    Column("series_description", Text),
    Column("series_date", Text),
    Column("series_time", Text),
    Column("body_part_examined", Text),
    Column("protocol_name", Text),
    Column("station_name", Text),
    Column("instance_count", Integer, nullable=False),
    Column("quarantined_count", Integer, nullable=False),
    Index("series_modality", "modality"),
)

instances = Table(
    "instances",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("study_instance_uid", String(64), nullable=False),
    Column("series_instance_uid", String(64), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("bucket", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("calling_aet", Text, nullable=False),
    Column("called_aet", Text, nullable=False),
    Column("source_address", Text, nullable=False),
    Column("association_id", Text, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("indexed_at", UtcDateTime, nullable=False),
    Column("instance_number", BigInteger),
    Column("rows", BigInteger),
    Column("columns", BigInteger),
    Column("number_of_frames", BigInteger),
    Column("quarantined", Boolean, nullable=False),
    Column("header", LargeBinary, nullable=False),  # zlib of the DICOM JSON model (PS3.18 Annex F)
    Column("header_error", Text),
    Column("trace_id", String(32)),
    Column("listener", Text, nullable=False, server_default=""),
    Column("stored_at", UtcDateTime),  # when the store had it; unknown for what was indexed before this was kept
    Column("processed", ProcessedBy),
    Column("decision", Integer),  # the number of the decision that set it aside; none while a conflict is open
    Column("examined_version", Integer),  # of the routing whose conflict rules did not decide it
    Index(
        "instances_header_error",
        "study_instance_uid",
        sqlite_where=text("header_error IS NOT NULL"),
        postgresql_where=text("header_error IS NOT NULL"),
    ),
    ForeignKeyConstraint(
        ["study_instance_uid", "series_instance_uid"],
        ["series.study_instance_uid", "series.series_instance_uid"],
        name="instances_series",
        deferrable=True,
        initially="DEFERRED",
    ),
    Index("instances_series", "study_instance_uid", "series_instance_uid", "instance_number"),
    Index("instances_received_at", "received_at", "sha256"),
)
Index(
    "instances_current",
    instances.c.sop_instance_uid,
    unique=True,
    sqlite_where=text("quarantined = 0"),
    postgresql_where=text("NOT quarantined"),
)
Index(
    "instances_quarantined",
    instances.c.received_at,
    sqlite_where=text("quarantined = 1"),
    postgresql_where=text("quarantined"),
)


# One row for each study, with an empty series UID, and one for each series: whether it is still arriving.
arrivals = Table(
    "arrivals",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("series_instance_uid", String(64), primary_key=True),
    Column("last_instance_at", UtcDateTime, nullable=False),
    Column("expected_count", BigInteger),  # (0020,1208) or (0020,1209), where a sender says so
    Column("revision", Integer, nullable=False),  # how often it was stable
    Column("quiet_seconds", Float, nullable=False),  # the longest quiet told of since the last instance, or 0
    Column("open", Boolean, nullable=False),  # whether a longer quiet is still waited for
)
Index(
    "arrivals_open",
    arrivals.c.last_instance_at,
    sqlite_where=text('"open" = 1'),
    postgresql_where=text('"open"'),
)

# Each time a study or series was stable; `published_at` is empty until the broker has the event.
revisions = Table(
    "revisions",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("series_instance_uid", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("quiet_seconds", Float, primary_key=True),
    Column("stable_at", UtcDateTime, nullable=False),
    Column("reason", Text, nullable=False),
    Column("event", JSON, nullable=False),
    Column("counts", JSON, nullable=False),  # instances by series UID, for what changes next
    Column("trace_id", String(32)),
    Column("published_at", UtcDateTime),
)
Index(
    "revisions_unpublished",
    revisions.c.stable_at,
    sqlite_where=text("published_at IS NULL"),
    postgresql_where=text("published_at IS NULL"),
)

# What was decided about bytes that came under a SOP Instance UID that was taken; append-only, the last one holds.
# Each says all that follows: which bytes are current, and which others need no decision, by their digests.
decisions = Table(
    "decisions",
    metadata,
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("verdict", String(16), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("other_sha256", String(64), nullable=False),  # what was current until then
    Column("current_sha256", String(64), nullable=False),
    Column("settled", JSON, nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("series_instance_uid", String(64), nullable=False),
    Column("decided_at", UtcDateTime, nullable=False),
    Column("author", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("carried_out_at", UtcDateTime),  # when the bucket had it, and what follows was requested
    Index("decisions_study", "study_instance_uid"),
    Index("decisions_sha256", "sha256"),
    Index("decisions_current_sha256", "current_sha256"),
)
Index(
    "decisions_not_carried_out",
    decisions.c.decided_at,
    sqlite_where=text("carried_out_at IS NULL"),
    postgresql_where=text("carried_out_at IS NULL"),
)

# How far `bucky reindex` has come, so that it goes on after it was killed.
reindexings = Table(
    "reindexings",
    metadata,
    Column("bucket", Text, primary_key=True),
    Column("started_at", UtcDateTime, nullable=False),
)
reindexed_studies = Table(
    "reindexed_studies",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
)

# Append-only: the row with the greatest version is in force.
routing_versions = Table(
    "routing_versions",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("author", Text, nullable=False),
    Column("document", JSON, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
)

# One row for each destination with a cap: until when its bandwidth is given out, in Unix time.
bandwidth = Table(
    "bandwidth",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("free_at", Double, nullable=False),
)

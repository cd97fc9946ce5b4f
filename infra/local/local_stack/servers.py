"""The servers Bucky stands on, as programs: nats-server, Versity S3 Gateway, SeaweedFS, MinIO, PostgreSQL."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from local_stack.process import ProcessFailed, Program, exits_with_0, http_ok
from local_stack.read_only import ReadOnlyWatch, free_bytes, refuses_writes

REPOSITORY = Path(__file__).resolve().parents[3]
HOST = "127.0.0.1"
NOBODY = 65534
SYSTEM_PATH = "/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin"


def installed(tool: str) -> str:
    """Return the path of a tool from this environment's own folder, or from PATH."""
    beside = Path(sys.executable).parent / tool
    found = str(beside) if beside.exists() else shutil.which(tool)
    if found is None:
        raise ProcessFailed(f"{tool} is not installed; run `make setup`")
    return found


def built(tool: str) -> str | None:
    """Return the path of a tool that `tools/build` made, or that the system has."""
    cached = REPOSITORY / ".cache" / "bin" / tool
    return str(cached) if cached.exists() else shutil.which(tool, path=SYSTEM_PATH)


def nats_server(data: Path, port: int, monitor_port: int, user: str, password: str) -> Program:
    """Return nats-server with JetStream, syncing every message to disk before it acknowledges."""
    monitor = f"http://{HOST}:{monitor_port}"
    return Program(
        name="nats-server",
        argv=(
            installed("nats-server"),
            "--config",
            str(REPOSITORY / "infra" / "nats" / "nats-server.conf"),
            "--port",
            str(port),
        ),
        env={
            # Parsed as a value of the configuration: a comma would end it.
            "BUCKY_NATS_STORE": json.dumps(str(data), ensure_ascii=False),
            "BUCKY_NATS_MONITOR": f'"{HOST}:{monitor_port}"',
            "BUCKY_NATS_USER": user,
            "BUCKY_NATS_PASSWORD": f'"{password}"',
        },
        ready=http_ok(f"{monitor}/healthz"),
        stuck=ReadOnlyWatch(refuses_writes(monitor), lambda: free_bytes(data)).is_due,
        address=f"nats://{HOST}:{port}",
    )


def seaweedfs(
    data: Path, s3_port: int, console_port: int, internal_ports: tuple[int, ...], access: str, secret: str
) -> Program:
    """Return SeaweedFS with its S3 API and admin console; `internal_ports` are eight further free ports."""
    data.mkdir(parents=True, exist_ok=True)
    ports = dict(
        zip(
            (
                "master.port",
                "master.port.grpc",
                "volume.port",
                "volume.port.grpc",
                "filer.port",
                "filer.port.grpc",
                "s3.port.grpc",
                "admin.port.grpc",
            ),
            internal_ports,
            strict=True,
        )
    )
    return Program(
        name="object-store",
        argv=(
            installed("weed"),
            "-logtostderr=true",
            "-v=0",
            "mini",
            f"-dir={data}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            f"-s3.port={s3_port}",
            f"-admin.port={console_port}",
            *(f"-{name}={port}" for name, port in ports.items()),
            # It drains for ten seconds by default; here its only callers are stopped before it.
            "-volume.preStopSeconds=0",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            "-webdav=false",
            "-master.telemetry=false",
        ),
        # The console's password comes by environment: an argument would show in the process list.
        env={
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "WEED_ADMIN_USER": "admin",
            "WEED_ADMIN_PASSWORD": secret,
        },
        ready=http_ok(f"http://{HOST}:{s3_port}/healthz", any_status=True),
        address=f"http://{HOST}:{s3_port}",
    )


def minio(executable: str, data: Path, port: int, console_port: int, access: str, secret: str) -> Program:
    """Return a MinIO server."""
    data.mkdir(parents=True, exist_ok=True)
    return Program(
        name="object-store",
        argv=(
            executable,
            "server",
            str(data),
            "--address",
            f"{HOST}:{port}",
            "--console-address",
            f"{HOST}:{console_port}",
        ),
        env={
            "MINIO_ROOT_USER": access,
            "MINIO_ROOT_PASSWORD": secret,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        },
        ready=http_ok(f"http://{HOST}:{port}/minio/health/live"),
        address=f"http://{HOST}:{port}",
    )


def versitygw(
    executable: str,
    data: Path,
    port: int,
    console_port: int,
    access: str,
    secret: str,
    *arguments: str,
) -> Program:
    """Return a Versity S3 Gateway over a folder: a bucket is a folder in it, an object a file."""
    data.mkdir(parents=True, exist_ok=True)
    return Program(
        name="object-store",
        argv=(
            executable,
            f"--port={HOST}:{port}",
            f"--webui={HOST}:{console_port}",
            "--webui-no-tls",
            "--health=/health",
            "--quiet",
            "--keep-alive",
            *arguments,
            "posix",
            # An object's ETag is made of the checksum it came with, which is compared anyway, instead of an MD5.
            "--data-integrity-etag",
            str(data),
        ),
        env={"ROOT_ACCESS_KEY_ID": access, "ROOT_SECRET_ACCESS_KEY": secret},
        ready=http_ok(f"http://{HOST}:{port}/health"),
        address=f"http://{HOST}:{port}",
    )


def postgresql(data: Path, port: int, password: str) -> Program:
    """Return a PostgreSQL server with the superuser `bucky`; makes its cluster at first.

    PostgreSQL refuses to run as root, so root hands it to the `nobody` user.
    """
    folder = _postgresql_folder()
    as_other = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups") if os.geteuid() == 0 else ()
    if not (data / "PG_VERSION").exists():
        data.mkdir(parents=True, mode=0o700)
        password_file = data.parent / "postgresql-password"
        password_file.write_text(password)
        if as_other:
            os.chown(data, NOBODY, NOBODY)
            os.chown(password_file, NOBODY, NOBODY)
        made = subprocess.run(
            (
                *as_other,
                str(folder / "initdb"),
                f"--pgdata={data}",
                "--username=bucky",
                "--auth=scram-sha-256",
                f"--pwfile={password_file}",
                "--encoding=UTF8",
                "--locale=C",
            ),
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        password_file.unlink()
        if made.returncode != 0:
            raise ProcessFailed(f"initdb failed: {made.stderr.strip()}")
    return Program(
        name="postgresql",
        argv=(
            *as_other,
            str(folder / "postgres"),
            "-D",
            str(data),
            "-p",
            str(port),
            "-h",
            HOST,
            "-k",
            str(data),
            "-c",
            "max_connections=200",
        ),
        # The port opens before the server takes connections.
        ready=exits_with_0(str(folder / "pg_isready"), "-q", "-h", HOST, "-p", str(port)),
        address=f"postgresql://{HOST}:{port}",
    )


def _postgresql_folder() -> Path:
    on_path = shutil.which("postgres")
    if on_path:
        return Path(on_path).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if debian:
        return debian[-1].parent
    raise ProcessFailed("PostgreSQL is not installed; run `make test-peers`")

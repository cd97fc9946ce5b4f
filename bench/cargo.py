"""What the senders send: synthetic instances of one series, each with its own SOP Instance UID.

An instance is a head (everything up to its pixel data) and a body (the pixel data, one block repeated), so that
gigabytes can be sent and checked without being held.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context

from bucky.dicom.part10 import IMPLEMENTATION_CLASS_UID, FileMeta, file_header

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MULTIFRAME_WORD = "1.2.840.10008.5.1.4.1.1.7.3"
UID_ROOT = "2.25."
UID_DIGITS = 24
BLOCK_BYTES = 1022
_PLACEHOLDER = UID_ROOT + "1" * UID_DIGITS
_SERIES = "2.25.1975"


@dataclass(frozen=True)
class Cargo:
    """Instances of one size, ready to send; sizes in bytes."""

    sop_class_uid: str
    head: bytes
    block: bytes
    body_bytes: int

    @property
    def data_set_bytes(self) -> int:
        """Return the size of one data set."""
        return len(self.head) + self.body_bytes

    @property
    def head_uid_at(self) -> int:
        """Return where in the head the changing digits of the SOP Instance UID are."""
        return self.head.index(_PLACEHOLDER.encode()) + len(UID_ROOT)

    def head_of(self, uid: str) -> bytes:
        """Return the head of the instance with this SOP Instance UID."""
        return self.head.replace(_PLACEHOLDER.encode(), uid.encode())

    def body(self, start: int, size: int) -> bytes:
        """Return a part of the body."""
        phase = start % BLOCK_BYTES
        repeated = self.block * ((phase + size) // BLOCK_BYTES + 1)
        return repeated[phase : phase + size]

    def write_for_sender(self, folder: Path) -> list[str]:
        """Write what `sender` reads, and return the arguments that describe it."""
        folder.mkdir(parents=True, exist_ok=True)
        command = _store_command(self.sop_class_uid)
        for name, content in {
            "associate": _association_request(self.sop_class_uid),
            "command": command,
            "head": self.head,
            "block": self.block,
        }.items():
            (folder / name).write_bytes(content)
        command_uid_at = command.index(_PLACEHOLDER.encode()) + len(UID_ROOT)
        named = {"cargo": folder, "body": self.body_bytes, "command-uid": command_uid_at, "head-uid": self.head_uid_at}
        return [text for name, value in named.items() for text in (f"--{name}", str(value))]

    def write_files(self, folder: Path, count: int, prefix: str) -> list[Path]:
        """Write instances as DICOM files, for senders that read files."""
        folder.mkdir(parents=True, exist_ok=True)
        body = self.body(0, self.body_bytes)
        paths = []
        for number in range(count):
            uid = UID_ROOT + prefix + str(number).zfill(UID_DIGITS - len(prefix))
            header = file_header(FileMeta(self.sop_class_uid, uid, ExplicitVRLittleEndian))
            paths.append(folder / f"{number:06d}.dcm")
            paths[-1].write_bytes(header + self.head_of(uid) + body)
        return paths


def cargo(data_set_bytes: int) -> Cargo:
    """Return synthetic instances of about this size: CT images, and multi-frame ones past 4 MiB."""
    rows = 512 if data_set_bytes >= 512 * 1024 else 100
    frames = max(1, round(data_set_bytes / (rows * rows * 2)))
    body_bytes = rows * rows * 2 * frames
    sop_class = CT_IMAGE if frames == 1 else MULTIFRAME_WORD
    head = _encoded(_header(sop_class, rows, frames), implicit=False)
    head += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, body_bytes)
    return Cargo(sop_class, head, Random(1975).randbytes(BLOCK_BYTES), body_bytes)


def _header(sop_class: str, rows: int, frames: int) -> Dataset:
    header = Dataset()
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.SOPClassUID = sop_class
    header.SOPInstanceUID = _PLACEHOLDER
    header.StudyDate = header.SeriesDate = header.ContentDate = "20261120"
    header.StudyTime = header.ContentTime = "120000"
    header.AccessionNumber = "BENCH"
    header.Modality = "CT" if frames == 1 else "OT"
    header.Manufacturer = "Synthetic"
    header.PatientName = "Bench^Synthetic"
    header.PatientID = "BENCH"
    header.PatientBirthDate = ""
    header.PatientSex = "O"
    header.StudyInstanceUID = generate_uid(entropy_srcs=[_SERIES, "study"])
    header.SeriesInstanceUID = generate_uid(entropy_srcs=[_SERIES, "series"])
    header.StudyID = header.SeriesNumber = header.InstanceNumber = "1"
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    if frames > 1:
        header.NumberOfFrames = frames
    header.Rows = header.Columns = rows
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = 0
    return header


def _encoded(data_set: Dataset, *, implicit: bool) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, data_set)
    return bytes(buffer.getvalue())


def _store_command(sop_class: str) -> bytes:
    command = Dataset()
    command.AffectedSOPClassUID = sop_class
    command.CommandField = 0x0001
    command.MessageID = 1
    command.Priority = 2
    command.CommandDataSetType = 1
    command.AffectedSOPInstanceUID = _PLACEHOLDER
    encoded = _encoded(command, implicit=True)
    return struct.pack("<HHII", 0, 0, 4, len(encoded)) + encoded


def _association_request(sop_class: str) -> bytes:
    request = A_ASSOCIATE()
    request.application_context_name = "1.2.840.10008.3.1.1.1"
    request.calling_ae_title, request.called_ae_title = "BENCH", "BUCKY"
    context = build_context(sop_class, ExplicitVRLittleEndian)
    context.context_id = 1
    request.presentation_context_definition_list = [context]
    length = MaximumLengthNotification()
    length.maximum_length_received = 16384
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    request.user_information = [length, implementation]
    return bytes(A_ASSOCIATE_RQ(request).encode())

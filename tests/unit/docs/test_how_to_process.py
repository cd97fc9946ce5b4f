"""What the how-to page about functions tells people to write works as it stands there."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom

from bucky.routing.document import Routing
from local_stack.servers import REPOSITORY
from tests.support.dicom.sample_instances import SAMPLE

PAGE = (REPOSITORY / "docs" / "how-to" / "process-with-a-function.md").read_text()


def block(language: str) -> str:
    """Return the page's first block in a language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_rules_are_valid() -> None:
    """The routing on the page can be applied."""
    assert Routing.from_yaml(block("yaml")).functions() == {"deidentify"}


def test_the_function_makes_the_same_of_the_same() -> None:
    """The function on the page makes new instances, and a repeated call makes the same ones."""
    namespace: dict[str, Any] = {}
    exec(block("python"), namespace)  # noqa: S102 - it is our own page
    uid = "1.3.6.1.4.1.5962.1.3.1.1.20040119072730.12322"
    instance = SimpleNamespace(read=lambda: pydicom.dcmread(Path(SAMPLE)), sha256="a" * 64, series_instance_uid=uid)
    given = SimpleNamespace(instances=[instance], rule="r", parameters={"description": "copy"})
    first, again = (list(namespace["process"](given, None)) for _ in range(2))
    assert first == again
    assert first[0].SeriesDescription == "copy"
    assert first[0].SOPInstanceUID == first[0].file_meta.MediaStorageSOPInstanceUID != instance.read().SOPInstanceUID

"""Reading functions from a stack file: what is right in it, and one sentence for whatever is wrong."""

from pathlib import Path

import pytest

from bucky.text.documents import MOST_BYTES
from jetstream_connector.discovery import DirectoryUnavailable, FunctionSubscription, StackFileDirectory
from local_provider.stack_file import deployments
from local_stack.servers import REPOSITORY

GOOD = """
provider: {name: openfaas}
functions:
  one: {image: x, annotations: {topic: orders.paid, jetstream.batch-size: 7}}
  two: {image: y}
  three:
"""


async def test_functions_and_their_annotations_are_read(tmp_path: Path) -> None:
    """Each function is found with what it asks for; a number needs no quotes, as where it is deployed."""
    path = tmp_path / "stack.yaml"
    path.write_text(GOOD)
    assert await StackFileDirectory(path).functions() == [
        FunctionSubscription(name="one", annotations={"topic": "orders.paid", "jetstream.batch-size": "7"}),
        FunctionSubscription(name="two"),
        FunctionSubscription(name="three"),
    ]


async def test_our_own_stack_file_says_the_same_to_connector_and_provider() -> None:
    """A function is called for what it was deployed with, whoever reads the file."""
    path = REPOSITORY / "openfaas" / "stack.yaml"
    found = {one.name: dict(one.annotations or {}) for one in await StackFileDirectory(path).functions()}
    assert found == {one.service: dict(one.annotations) for one in deployments(path)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the whole of it"),
        (b"functions: [", "not valid YAML"),
        (b"- one\n- two\n", "the whole of it"),
        (b"provider: {name: openfaas}\n", "functions: Field required"),
        (b"functions:\n", "functions: "),
        (b"functions: {}\n", "functions: "),
        (b"functions: [one]\n", "functions: "),
        (b"functions: {one: [x]}\n", "functions.one"),
        (b"functions: {one: {annotations: {topic: [a, b]}}}\n", "functions.one.annotations.topic"),
        (b"functions: {one: {annotations: topic}}\n", "functions.one.annotations"),
        (b"functions: {1: {}}\n", "functions.1"),
        (b"functions:\n  one: {}\n  two: {}\n  one: {}\n", "lines 2 and 4: the key 'one' stands there twice"),
        (b"functions: {one: {annotations: {topic: a, topic: b}}}\n", "the key 'topic' stands there twice"),
        (b"functions: {one: {image: \xfc}}\n", "not UTF-8"),
        (b"#" * (MOST_BYTES + 1), "larger than"),
    ],
)
async def test_a_stack_file_that_is_wrong_is_told_in_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    """The file is named, and the place in it; what cannot be understood is never taken for no functions at all."""
    path = tmp_path / "stack.yaml"
    path.write_bytes(content)
    with pytest.raises(DirectoryUnavailable) as raised:
        await StackFileDirectory(path).functions()
    assert said in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_a_stack_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A wrong path, and a folder, are told as such."""
    for path, said in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(DirectoryUnavailable, match=f"{path} cannot be read: {said}"):
            await StackFileDirectory(path).functions()

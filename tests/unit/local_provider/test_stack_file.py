"""Reading stack files, and our own stack file's promises."""

import re
import tomllib
from pathlib import Path

import pytest

from bucky.errors import SettingsError
from bucky.settings import PREFIX, Settings, secret_file_name
from jetstream_connector.annotations import parse
from local_provider.stack_file import deployments, read_stack
from local_stack.servers import REPOSITORY

STACK = REPOSITORY / "openfaas" / "stack.yaml"
REQUIREMENTS = REPOSITORY / "openfaas" / "template" / "bucky-python" / "requirements.txt"
MINIMAL = """
provider: {name: openfaas}
functions:
  one: {lang: dockerfile, fprocess: "cat", image: "${PREFIX:-here}/one:${TAG}", skip_build: true, x-note: ours}
"""


def write(folder: Path, text: str) -> Path:
    """Write a stack file; return its path."""
    path = folder / "stack.yaml"
    path.write_text(text)
    return path


def test_variables_are_filled_in(tmp_path: Path) -> None:
    """One stack file serves every registry: defaults hold unless the environment says otherwise."""
    path = write(tmp_path, MINIMAL)
    assert deployments(path)[0].image == "here/one:"
    assert deployments(path, {"PREFIX": "there", "TAG": "2"})[0].image == "there/one:2"
    assert deployments(path)[0].env_process == "cat"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("functions: [", "not valid YAML"),
        ("provider: {name: faas}\nfunctions: {a: {}}", "provider.name"),
        ("provider: {name: openfaas}\nfunctions: {}", "functions"),
        ("provider: {name: openfaas}\nfunctions: {a: {anotations: {topic: x}}}", "anotations"),
        ("provider: {name: openfaas}\nfunctions: {a: {}}\nfunctions: {b: {}}", "lines 2 and 3"),
        ("provider: {name: openfaas, gatway: x}\nfunctions: {a: {}}", "gatway"),
        ("provider: {name: openfaas}\nfunctions: {a: {lang: cobol}}", "no template cobol"),
        ("provider: {name: openfaas}\nfunctions: {a: {lang: ../cobol}}", "not the name of a template"),
        ("provider: {name: openfaas}\nfunctions: {a: {lang: /etc}}", "not the name of a template"),
        ("provider: {name: openfaas}\nfunctions: {a: {lang: '..'}}", "not the name of a template"),
        ('provider: {name: openfaas}\nfunctions: {a: {lang: "a\\0"}}', "not the name of a template"),
        (f"provider: {{name: openfaas}}\nfunctions: {{a: {{lang: {'a' * 300}}}}}", "not the name of a template"),
        ("provider: {name: openfaas}\nfunctions: {A_b: {}}", "service"),
        ("provider: {name: openfaas}\nfunctions: {../a: {}}", "service"),
        (f"provider: {{name: openfaas}}\nfunctions: {{{'a' * 64}: {{}}}}", "service"),
        ("provider: {name: openfaas}\nfunctions: {a: {secrets: [../b]}}", "secrets"),
        ('provider: {name: openfaas}\nfunctions: {a: {secrets: ["b\\0"]}}', "secrets"),
        ("provider: {name: openfaas}\nfunctions: {a: {environment: {X: [1]}}}", "environment.X"),
        ("provider: {name: openfaas}\nfunctions: {a: {environment_file: [x]}}", "environment_file"),
        ("provider: {name: openfaas}\nfunctions: {a: {image: '${X/a/b}'}}", "only ${NAME}"),
    ],
)
def test_a_wrong_stack_file_is_told_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    """What is wrong with a stack file is named, with the file, before anything is deployed."""
    with pytest.raises(SettingsError) as error:
        deployments(write(tmp_path, text))
    assert says in str(error.value)
    assert "stack.yaml" in str(error.value)


def test_a_stack_file_that_cannot_be_read_is_told_in_one_sentence(tmp_path: Path) -> None:
    """None, a folder, and one that is no text are said by name, and are no traceback."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"provider: {name: openfaas}\nfunctions: {a: {image: \xfc}}")
    for name, says in (("none.yaml", "No such file"), ("folder", "Is a directory"), ("latin.yaml", "not UTF-8")):
        with pytest.raises(SettingsError, match=f"{name}.*{says}"):
            deployments(tmp_path / name)


def test_our_functions_ask_only_for_what_there_is() -> None:
    """A secret is a setting's secret, a variable is a setting, and the connector understands each annotation."""
    secrets = {secret_file_name(field) for field in Settings.secret_fields()}
    for deployment in deployments(STACK):
        assert set(deployment.secrets) <= secrets
        assert {name.removeprefix(PREFIX).lower() for name in deployment.env_vars} <= set(Settings.model_fields)
        assert parse(deployment.annotations) is not None
        assert deployment.env_process == "python -m bucky.serve"


def test_our_functions_are_where_the_stack_file_says() -> None:
    """Handler folder, package and handler module of a function name the same place."""
    for name, function in read_stack(STACK).functions.items():
        package = name.replace("-", "_")
        assert function.handler == f"./functions/{package}"
        assert (REPOSITORY / function.handler / "handler.py").is_file()
        assert function.build_args == {"PACKAGE": package}
        assert function.environment["BUCKY_HANDLER"] == f"{package}.handler"


def test_images_install_the_locked_versions() -> None:
    """What functions run in containers is what was tested: `tools/lock-functions` was run after `uv lock`."""
    lock = tomllib.loads((REPOSITORY / "uv.lock").read_text())
    packages = {package["name"]: package for package in lock["package"]}
    bucky = packages["bucky"]
    wanted = [*bucky["dependencies"], *bucky["optional-dependencies"]["functions"]]
    closure: set[str] = set()
    while wanted:
        name = wanted.pop()["name"]
        if name not in closure:
            closure.add(name)
            extras = packages[name].get("optional-dependencies", {})
            wanted += packages[name].get("dependencies", []) + [each for extra in extras.values() for each in extra]
    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", REQUIREMENTS.read_text(), re.MULTILINE))
    assert {each["name"] for each in bucky["optional-dependencies"]["functions"]} <= set(pinned)
    assert set(pinned) <= closure
    assert pinned == {name: packages[name]["version"] for name in pinned}

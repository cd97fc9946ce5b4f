"""YAML and JSON that people write are read whole, or refused with the line."""

import pytest

from bucky.text.documents import MOST_BYTES, MOST_VALUES, InvalidDocument, read_json, read_yaml

NINES = [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 12)]
BILLION = "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]", *NINES])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: []\ndestinations: []\nrules: []\n", "lines 1 and 3: the key 'rules'"),
        ("rules:\n  - when: {equals: A, equals: B}\n", "line 2: the key 'equals'"),
        ("a: 1\n'a': 2\n", "lines 1 and 2"),
        ("True: 1\ntrue: 2\n", "lines 1 and 2"),
        ("b: &b {p: 1}\nc: {<<: *b, <<: *b}\n", "line 2"),
        ("- &a [x, *a]\n", "line 1: an alias stands inside"),
        (BILLION, "with its aliases written out"),
        ("[" * 100_000, "nested more than 64 deep"),
        ("{a: " * 65 + "1" + "}" * 65, "nested more than 64 deep"),
        ("x: [" + "a," * (2 * MOST_VALUES) + "]", f"more than {MOST_VALUES} values"),
        ("#" * (MOST_BYTES + 1), "larger than 2 MiB"),
        ("a: !!int " + "9" * 5000, "line 1: not valid YAML"),
        ("a: 1\nb: !!timestamp 2026-02-30\n", "line 2: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "another document"),
        ("? [a]\n: 1\n", "line 1: a key is a list"),
        ("a: !!python/object/apply:os.system [x]\n", "line 1: not valid YAML"),
        ("a: \0", "not valid YAML"),
        ("a: \ud800", "not valid YAML"),
        ("rules: {", "not valid YAML"),
    ],
)
def test_yaml_that_can_be_misread_is_refused_with_the_line(text: str, said: str) -> None:
    """Nothing a person wrote may be dropped silently, and no file may take the machine's memory."""
    with pytest.raises(InvalidDocument) as error:
        read_yaml(text)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# a comment\n", None),
        ("a: [1, x]\nb: {c: null}\n", {"a": [1, "x"], "b": {"c": None}}),
        (
            "a: &a {p: 1, q: 2}\nb: {<<: *a, p: 3}\nc: *a\n",
            {"a": {"p": 1, "q": 2}, "b": {"p": 3, "q": 2}, "c": {"p": 1, "q": 2}},
        ),
        ("1: a\n'1': b\n", {1: "a", "1": "b"}),
        ("[0, 7, -3, 20250101100000, 1.5, -0.25, 2.0]", [0, 7, -3, 20250101100000, 1.5, -0.25, 2.0]),
        (
            "[0123, 0x1f, 0o17, 1_000, +5, 12:30, 1.50, 1e5, .5, .inf]",
            ["0123", "0x1f", "0o17", "1_000", "+5", "12:30", "1.50", "1e5", ".5", ".inf"],
        ),
        ("[" + "9" * 30 + "]", ["9" * 30]),
        ("[true, False, YES, no, on, Off, y]", [True, False, "YES", "no", "on", "Off", "y"]),
        ("[2026-02-30, 2025-01-01, 2025-01-01 10:00:00, =]", ["2026-02-30", "2025-01-01", "2025-01-01 10:00:00", "="]),
        ("[null, ~, Null, none]", [None, None, None, "none"]),
    ],
)
def test_yaml_that_says_one_thing_is_read(text: str, value: object) -> None:
    """Anchors, merge keys and keys of different types are YAML, and stay so."""
    assert read_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"rules": [],\n"rules": []}', "lines 1 and 2: the key 'rules'"),
        ('{"a": [{"b": 1,\n"b": 2}]}', "lines 1 and 2: the key 'b'"),
        ('{"a": 1, "\\u0061": 2}', "line 1: the key 'a'"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": "\\ud800"}', "half a character"),
        (b'{"a": "\xff"}', "UTF-8"),
        ("[" * 100_000, "too deep"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{\n"a": }', "line 2"),
        ('{"a":\n["x\\u0000"]}', "line 2: a text has a NUL"),
        ('{"a\\u0000": 1}', "line 1: a text has a NUL"),
        ("", "line 1"),
    ],
)
def test_json_that_can_be_misread_is_refused(text: str | bytes, said: str) -> None:
    """What an API body or a setting says twice, or cannot say, must not be guessed at."""
    with pytest.raises(InvalidDocument) as error:
        read_json(text)
    assert said in str(error.value)


def test_json_that_says_one_thing_is_read() -> None:
    """A key inside a text, or in another object, is no repetition."""
    text = (
        '\ufeff{"a": "{\\"b\\": 1, \\"b\\": 2}", "c": [{"a": 1}, {"a": "\\ud83d\\ude00"}], "d": "\\\\u0000"}'.encode()
    )
    assert read_json(text) == {"a": '{"b": 1, "b": 2}', "c": [{"a": 1}, {"a": "😀"}], "d": r"\u0000"}

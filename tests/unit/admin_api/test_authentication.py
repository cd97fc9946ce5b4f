"""Who may ask the admin API."""

import base64

import pytest

from admin_api.authentication import Authenticator, is_cross_site
from bucky.errors import SettingsError

KEY = "the-right-key"


def basic(user: str, password: str) -> str:
    """Return an Authorization header of the Basic scheme."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": KEY},
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"authorization": basic("admin", KEY)},
        {"x-api-key": "wrong", "authorization": f"Bearer {KEY}"},
    ],
)
def test_the_key_opens_in_each_way_a_client_can_send_it(headers: dict[str, str]) -> None:
    """Programs, tools and browsers must all get in with the one key."""
    assert Authenticator(KEY).accepts(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": KEY + "x"},
        {"x-api-key": KEY[:-1]},
        {"x-api-key": KEY.upper()},
        {"x-api-key": "ÿ" * 13},
        {"authorization": KEY},
        {"authorization": "Bearer "},
        {"authorization": f"Digest {KEY}"},
        {"authorization": basic("root", KEY)},
        {"authorization": basic("admin", "")},
        {"authorization": "Basic not-base64!"},
        {"authorization": "Basic " + base64.b64encode(b"\xff\xfe").decode()},
        {"authorization": "Basic"},
    ],
)
def test_nothing_else_opens(headers: dict[str, str]) -> None:
    """A wrong, cut, empty or garbled credential must be refused and must not raise."""
    assert not Authenticator(KEY).accepts(headers)


def test_an_empty_key_is_refused_at_start() -> None:
    """A process without a key would let anybody in."""
    with pytest.raises(SettingsError, match="BUCKY_API_KEY is empty"):
        Authenticator("")


@pytest.mark.parametrize(
    ("headers", "method", "refused"),
    [
        ({"sec-fetch-site": "cross-site"}, "POST", True),
        ({"sec-fetch-site": "same-site"}, "DELETE", True),
        ({"sec-fetch-site": "same-origin"}, "POST", False),
        ({"sec-fetch-site": "none"}, "POST", False),
        ({"sec-fetch-site": "cross-site"}, "GET", False),
        ({"origin": "https://evil.example"}, "POST", True),
        ({"origin": "null"}, "PUT", True),
        ({"origin": "http://["}, "POST", True),
        ({"origin": "https://[::1]:x"}, "POST", True),
        ({"origin": ""}, "POST", True),
        ({"origin": "https://localhost:8443"}, "POST", False),
        ({"origin": "https://localhost:3000"}, "POST", True),
        ({}, "POST", False),
    ],
)
def test_a_foreign_page_cannot_use_a_browsers_remembered_password(
    headers: dict[str, str], method: str, refused: bool
) -> None:
    """A browser that once asked for the key sends it along for any page; changes must not follow."""
    assert is_cross_site(headers, method, "localhost:8443") is refused

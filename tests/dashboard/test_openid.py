"""Login by OpenID Connect, at a provider in a process of its own."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from litestar import Litestar
from litestar.testing import TestClient

from engine.dashboard import openid as openid_login
from engine.dashboard.app import create_dashboard
from engine.errors import BadInput
from engine.service.access.keys_file import read_keys_file
from engine.settings import Settings
from tests.dashboard.openid_provider import CLIENT, SECRET

SHOP = Path(__file__).resolve().parents[2] / "experiments"
OWN = "http://127.0.0.1:9"
"""The address of the dashboard, at which nothing listens: tests pass on what a browser would send there."""
KEYS = [{"name": "anna", "role": "admin", "key": "ak-openid-admin"}]
ROLES = {"view": ["everyone"], "operate": ["growth"], "admin": ["platform"]}
Client = TestClient[Litestar]


class ProviderProcess:
    def __init__(self, issuer: str) -> None:
        self.issuer = issuer

    def set(self, **change: Any) -> None:
        httpx.post(f"{self.issuer}/set", json=change).raise_for_status()

    def log_in(self, address: str, account: str) -> str:
        """The address that the provider sends the browser of this account back to."""
        assert httpx.get(address).status_code == 200, address
        return httpx.post(address, data={"account": account}).headers["location"]


@pytest.fixture(scope="module")
def process() -> Iterator[ProviderProcess]:
    command = [sys.executable, str(Path(__file__).with_name("openid_provider.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout
        yield ProviderProcess(started.stdout.readline().strip())
        started.terminate()


@pytest.fixture
def provider(process: ProviderProcess) -> Iterator[ProviderProcess]:
    yield process
    process.set(alg="RS256", sign="own", has_names=True, claims={}, document={})


def openid(provider: ProviderProcess, **other: Any) -> dict[str, Any]:
    own = {"client_id": CLIENT, "client_secret": SECRET, "address": OWN, "title": "the shop's accounts"}
    return {"issuer": provider.issuer, "roles": ROLES, **own, **other}


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, provider: ProviderProcess) -> Settings:
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump({"keys": KEYS, "openid": openid(provider)}))
    experiments = shutil.copytree(SHOP, tmp_path / "experiments")
    return Settings(experiments=experiments, data=tmp_path / "data", redis=redis_url, api_keys=keys)


@contextmanager
def visitor(settings: Settings) -> Iterator[Client]:
    with TestClient(create_dashboard(settings), raise_server_exceptions=False) as client:
        client.follow_redirects = False
        yield client


def log_in(client: Client, provider: ProviderProcess, account: str, target: str = "/") -> httpx.Response:
    begun = client.get("/login/openid", params={"next": target})
    assert begun.status_code == 303, begun.text
    return client.get(provider.log_in(begun.headers["location"], account).removeprefix(OWN))


def role_of(client: Client) -> str:
    """What the person may do, by what the pages let them."""
    if client.get("/").status_code != 200:
        return "none"
    page = client.get("/experiments/checkout_layout").text
    may_switch, may_erase = (
        "Pause on all servers" in page,
        "notify.yaml needs" not in client.get("/editor?file=notify.yaml").text,
    )
    return "admin" if may_erase else "operate" if may_switch else "view"


@pytest.mark.parametrize(("account", "role"), [("anna", "admin"), ("olga", "operate"), ("vera", "view")])
def test_an_account_gets_the_most_that_its_groups_may(
    settings: Settings, provider: ProviderProcess, account: str, role: str
) -> None:
    with visitor(settings) as client:
        assert "Log in with the shop&#39;s accounts" in client.get("/login").text
        done = log_in(client, provider, account, "/experiments?q=x")
        assert (done.status_code, done.headers["location"]) == (303, "/experiments?q=x")
        cookies = done.headers.get_list("set-cookie")
        assert all("HttpOnly" in one and "SameSite=lax" in one for one in cookies)
        assert role_of(client) == role
        assert f"{account}@example.org" in client.get("/").text


def test_both_algorithms_and_a_new_key_are_accepted(settings: Settings, provider: ProviderProcess) -> None:
    with visitor(settings) as client:
        for change in ({"alg": "ES256"}, {"rotate": True}, {"alg": "RS256"}):
            provider.set(**change)
            assert log_in(client, provider, "vera").status_code == 303, change
            client.cookies.clear()


def test_a_key_that_the_provider_withdrew_ends_with_the_discovery_document(
    settings: Settings, provider: ProviderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with visitor(settings) as client:
        assert log_in(client, provider, "vera").status_code == 303
        provider.set(rotate=True, sign="withdrawn")
        client.cookies.clear()
        monkeypatch.setattr(openid_login, "DISCOVERY_SECONDS", -1.0)
        refused = log_in(client, provider, "vera")
        assert refused.status_code == 401
        assert "signed by a key that the provider does not publish" in refused.text
        provider.set(sign="own")
        assert log_in(client, provider, "vera").status_code == 303


def test_of_several_keys_without_a_name_each_is_tried(settings: Settings, provider: ProviderProcess) -> None:
    provider.set(has_names=False)
    with visitor(settings) as client:
        for change in ({}, {"rotate": True}, {"alg": "ES256"}):
            provider.set(**change)
            assert log_in(client, provider, "vera").status_code == 303, change
            client.cookies.clear()
        provider.set(alg="RS256", sign="stranger")
        refused = log_in(client, provider, "vera")
        assert refused.status_code == 401
        assert "signed by a key that the provider does not publish" in refused.text


FORGED = {
    "not signed": {"sign": "none"},
    "signed by the public key": {"sign": "hmac"},
    "signed by a stranger": {"sign": "stranger"},
    "of another issuer": {"claims": {"iss": "https://elsewhere.example"}},
    "for another client": {"claims": {"aud": "another"}},
    "for two clients, issued to the other": {"claims": {"aud": [CLIENT, "another"], "azp": "another"}},
    "for two clients, issued to nobody": {"claims": {"aud": [CLIENT, "another"]}},
    "expired": {"claims": {"exp": int(time.time()) - 3600}},
    "of the future": {"claims": {"iat": int(time.time()) + 360_000}},
    "of another login": {"claims": {"nonce": "another"}},
    "without a nonce": {"claims": {"nonce": None}},
    "without an end": {"claims": {"exp": None}},
    "without a subject": {"claims": {"sub": None}},
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_a_token_that_is_not_for_this_login_is_refused(
    settings: Settings, provider: ProviderProcess, change: dict[str, Any]
) -> None:
    provider.set(**change)
    with visitor(settings) as client:
        done = log_in(client, provider, "anna")
        assert done.status_code == 401
        assert 'role="alert"' in done.text
        assert client.get("/").status_code == 303


def test_only_the_browser_that_began_a_login_ends_it_and_once(settings: Settings, provider: ProviderProcess) -> None:
    with visitor(settings) as client:
        begun = client.get("/login/openid").headers["location"]
        back = provider.log_in(begun, "anna").removeprefix(OWN)
        mine = client.cookies["counterpoint_login"]
        client.get("/login/openid")
        second = client.cookies["counterpoint_login"]  # of another login in the same browser

        def come_back(address: str, cookie: str) -> int:
            client.cookies.clear()
            return client.get(address, headers={"cookie": f"counterpoint_login={cookie}"}).status_code

        for cookie in ("", second, "e30.00", f"{mine}0"):
            assert come_back(back, cookie) == 401
        assert come_back(back.replace("state=", "state=x"), mine) == 401
        assert come_back(back.replace("iss=http", "iss=https"), mine) == 401
        assert come_back(back, mine) == 303
        assert client.get("/").status_code == 200
        assert come_back(back, mine) == 401  # the code was used


def test_a_login_that_fails_says_why_and_what_to_do(settings: Settings, provider: ProviderProcess) -> None:
    with visitor(settings) as client:

        def reason(account: str = "anna", become: tuple[str, str] = ("", "")) -> str:
            begun = client.get("/login/openid").headers["location"]
            back = provider.log_in(begun, account).removeprefix(OWN).replace(*become)
            return client.get(back).text.partition('role="alert"')[2].partition("</p>")[0]

        found = {
            "more than 10 minutes ago; log in again, in one tab": reason(become=("state=", "state=x")),
            "compare openid.issuer with the provider": reason(become=("iss=http", "iss=https")),
            "(access_denied); log in again with an account that may": reason("mallory"),
            "was used before, or is too old; log in again": reason(become=("code=", "code=x")),
        }
        provider.set(claims={"nonce": "another"})
        found["of another login (nonce); log in again"] = reason()
        provider.set(sign="nothing")
        found["gave no ID token (no reason); log in again"] = reason()
        assert {why: text for why, text in found.items() if why.lower() not in text.lower()} == {}


def test_who_has_no_role_or_is_not_let_in_reads_why(settings: Settings, provider: ProviderProcess) -> None:
    with visitor(settings) as client:
        refused = log_in(client, provider, "nina")
        assert refused.status_code == 403
        assert "nina@example.org has no role here" in refused.text
        refused = log_in(client, provider, "mallory")
        assert refused.status_code == 403
        assert "(access_denied)" in refused.text
        provider.set(claims={"email_verified": False, "email": "anna@example.org"})
        assert log_in(client, provider, "vera").status_code == 303
        assert "id-vera" in client.get("/").text
        assert log_in(client, provider, "vera", "//evil.example").headers["location"] == "/"


@pytest.mark.parametrize("verified", [None, False, "true", 1])
def test_an_address_that_is_not_verified_has_no_role_by_it(
    settings: Settings, provider: ProviderProcess, verified: object
) -> None:
    assert settings.api_keys
    by_email = {"claim": "email", "roles": {"admin": ["anna@example.org"]}}
    settings.api_keys.write_text(yaml.safe_dump({"keys": KEYS, "openid": openid(provider, **by_email)}))
    with visitor(settings) as client:
        provider.set(claims={"email": "anna@example.org", "email_verified": verified})
        refused = log_in(client, provider, "nina")
        assert refused.status_code == 403
        assert "(email_verified); verify it there" in refused.text
        assert role_of(client) == "none"
        provider.set(claims={"email_verified": True})
        assert log_in(client, provider, "anna").status_code == 303
        assert role_of(client) == "admin"
        client.cookies.clear()
        assert "none of the values of email is in openid.roles" in log_in(client, provider, "vera").text


def test_sessions_end_when_the_roles_change(settings: Settings, provider: ProviderProcess) -> None:
    assert settings.api_keys
    with visitor(settings) as client:
        log_in(client, provider, "anna")
        cookie = {"cookie": f"counterpoint_session={client.cookies['counterpoint_session']}"}
    for other, status in (({}, 200), ({"roles": {"view": ["everyone"]}}, 303)):
        settings.api_keys.write_text(yaml.safe_dump({"keys": KEYS, "openid": openid(provider, **other)}))
        with visitor(settings) as client:
            assert client.get("/", headers=cookie).status_code == status
    settings.api_keys.write_text(yaml.safe_dump({"keys": KEYS}))
    with visitor(settings) as client:
        assert client.get("/", headers=cookie).status_code == 303
        assert client.get("/login/openid").status_code == 404


@pytest.mark.parametrize(
    ("change", "other", "reason"),
    [
        ({"document": {"issuer": "https://elsewhere.example"}}, {}, "its discovery document is of"),
        ({"document": {"token_endpoint": "http://login.example/token"}}, {}, "is not https"),
        ({}, {"client_secret": "another"}, "check client_id and client_secret"),
        ({}, {"issuer": "http://127.0.0.1:9"}, "http://127.0.0.1:9/.well-known/openid-configuration"),
    ],
)
def test_a_provider_that_fails_leaves_the_login_by_key(
    settings: Settings, provider: ProviderProcess, change: dict[str, Any], other: dict[str, Any], reason: str
) -> None:
    assert settings.api_keys
    provider.set(**change)
    settings.api_keys.write_text(yaml.safe_dump({"keys": KEYS, "openid": openid(provider, **other)}))
    with visitor(settings) as client:
        answer = client.get("/login/openid")
        if answer.status_code == 303:
            answer = client.get(provider.log_in(answer.headers["location"], "anna").removeprefix(OWN))
        assert answer.status_code == 502
        assert reason in answer.text
        assert "log in with a key" in answer.text


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ({"issuer": "http://login.example.org"}, "sends what logs in unencrypted; use https"),
        ({"address": "http://dashboard.example.org"}, "sends what logs in unencrypted; use https"),
        ({"scopes": ["email"]}, "lacks 'openid'"),
        ({"roles": {"owner": ["x"]}}, "owner"),
        ({"roles": {}}, "roles"),
        ({"client_secret": 12345678}, "client_secret"),
    ],
)
def test_a_wrong_section_is_refused_with_its_place(
    tmp_path: Path, provider: ProviderProcess, other: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump({"keys": KEYS, "openid": openid(provider, **other)}))
    with pytest.raises(BadInput) as refused:
        read_keys_file(path)
    assert "openid." in str(refused.value)
    assert problem in str(refused.value)
    assert "12345678" not in str(refused.value)


def test_without_an_address_only_this_machine_logs_in(settings: Settings, provider: ProviderProcess) -> None:
    assert settings.api_keys
    spec = openid(provider)
    del spec["address"]
    settings.api_keys.write_text(yaml.safe_dump({"keys": KEYS, "openid": spec}))
    with visitor(settings) as client:
        assert client.get("/login/openid", headers={"host": "evil.example"}).status_code == 421
        begun = client.get("/login/openid", headers={"host": "127.0.0.1:9"})
        assert "redirect_uri=http%3A%2F%2F127.0.0.1%3A9%2Flogin" in begun.headers["location"]


@pytest.mark.parametrize(
    ("address", "header", "is_secure"),
    [
        ("https://counterpoint.example.org", {}, True),
        (OWN, {}, False),
        (OWN, {"x-forwarded-proto": "https"}, True),
    ],
)
def test_cookies_are_secure_where_browsers_come_by_https(
    settings: Settings, provider: ProviderProcess, address: str, header: dict[str, str], *, is_secure: bool
) -> None:
    assert settings.api_keys
    settings.api_keys.write_text(yaml.safe_dump({"keys": KEYS, "openid": openid(provider, address=address)}))
    with visitor(settings) as client:
        client.headers.update(header)
        page = client.get("/login")
        token = page.text.partition('name="token" value="')[2].partition('"')[0]
        session = {"cookie": page.headers["set-cookie"].partition(";")[0]}
        form = {"token": token, "theme": "dark", "key": KEYS[0]["key"]}
        set_by = [
            page,
            client.get("/login/openid"),
            client.post("/theme", data=form, headers=session),
            client.post("/login", data=form, headers=session),
        ]
        cookies = [cookie for answer in set_by for cookie in answer.headers.get_list("set-cookie")]
        names = {cookie.partition("=")[0] for cookie in cookies}
        assert names == {"counterpoint_session", "counterpoint_login", "theme"}
        assert {"; Secure" in cookie for cookie in cookies} == {is_secure}


def test_claims_may_be_nested_or_a_single_text(settings: Settings, provider: ProviderProcess) -> None:
    assert settings.api_keys
    for claim, claims in (
        ("realm_access.roles", {"realm_access": {"roles": ["growth"]}}),
        ("https://shop.example/role", {"https://shop.example/role": "growth"}),
    ):
        provider.set(claims=claims)
        settings.api_keys.write_text(yaml.safe_dump({"keys": KEYS, "openid": openid(provider, claim=claim)}))
        with visitor(settings) as client:
            assert log_in(client, provider, "nina").status_code == 303
            assert role_of(client) == "operate"

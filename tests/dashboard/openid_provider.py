"""A small OpenID provider over HTTP, for tests: `python openid_provider.py` prints its issuer and serves until it ends.

It checks what a real one checks: the client and its secret, the callback, that a code is used once, and the code
verifier. `POST /set` takes JSON and changes what it issues: `alg`, `claims` that replace those of the token (null
removes one), `sign` (`own`, `stranger`, `none`, `hmac`, `withdrawn`, `nothing`), `rotate` to sign by a new key, which
withdraws the one before, `has_names` (false: several keys without names), and fields of its `document`.
"""

import hashlib
import hmac
import json
import secrets
import sys
import time
from base64 import b64decode, urlsafe_b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CLIENT, SECRET = "counterpoint", "a secret: of 100 % strength"
GROUPS = {"anna": ["everyone", "platform"], "olga": ["growth"], "vera": ["everyone"], "nina": []}
PAGE = """<!doctype html><html lang="en"><title>Provider</title><h1>Who are you?</h1>
<form method="post" action="/authorize?{query}">
<label>Account <input name="account"></label><button>Allow</button></form>
"""


def make_key(alg: str) -> Any:
    return ec.generate_private_key(ec.SECP256R1()) if alg == "ES256" else rsa.generate_private_key(65537, 2048)


class Provider(BaseHTTPRequestHandler):
    keys: ClassVar[dict[str, Any]] = {alg: (alg, make_key(alg)) for alg in ("RS256", "ES256")}
    """Of each algorithm the id of its key, and the key."""
    withdrawn: ClassVar[dict[str, Any]] = {}
    stranger = make_key("RS256")
    unused = make_key("RS256")
    codes: ClassVar[dict[str, dict[str, str]]] = {}
    alg, sign, has_names = "RS256", "own", True
    claims: ClassVar[dict[str, Any]] = {}
    document: ClassVar[dict[str, Any]] = {}

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/.well-known/openid-configuration":
            places = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks"}
            own = {name: f"{self.issuer}/{path}" for name, path in places.items()}
            self.answer({"issuer": self.issuer, **own, **self.document})
        elif url.path == "/jwks":
            named = [self.public(alg, kid, key) for alg, (kid, key) in self.keys.items()]
            nameless = [self.public("RS256", "", self.unused), *named] if not self.has_names else []
            for one in nameless:
                del one["kid"]
            self.answer({"keys": nameless or named})
        elif url.path == "/favicon.ico":
            self.answer("", 200, "image/x-icon")
        elif url.path == "/authorize" and self.is_asked_well(dict(parse_qsl(url.query))):
            self.answer(PAGE.format(query=url.query.replace("&", "&amp;")), kind="text/html")
        else:
            self.answer({"error": "invalid_request"}, 400)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        url = urlsplit(self.path)
        if url.path == "/set":
            self.set(json.loads(body))
        elif url.path == "/authorize":
            self.allow(dict(parse_qsl(url.query)), dict(parse_qsl(body))["account"])
        else:
            self.issue(dict(parse_qsl(body)))

    def set(self, change: dict[str, Any]) -> None:
        if change.pop("rotate", False):
            Provider.withdrawn = self.keys
            Provider.keys = {alg: (f"{alg}-{time.time_ns()}", make_key(alg)) for alg in self.keys}
        for name, value in change.items():
            setattr(Provider, name, value)
        self.answer({})

    def is_asked_well(self, query: dict[str, str]) -> bool:
        return (
            query["client_id"] == CLIENT
            and query["response_type"] == "code"
            and query["code_challenge_method"] == "S256"
            and len(query["code_challenge"]) == 43
            and "openid" in query["scope"].split()
            and urlsplit(query["redirect_uri"]).path == "/login/openid/done"
        )

    def allow(self, query: dict[str, str], account: str) -> None:
        if account not in GROUPS:
            back = {"error": "access_denied", "state": query["state"]}
        else:
            back = {"code": secrets.token_urlsafe(16), "state": query["state"], "iss": self.issuer}
            self.codes[back["code"]] = {**query, "account": account}
        self.send_response(303)
        self.send_header("location", f"{query['redirect_uri']}?{urlencode(back)}")
        self.end_headers()

    def issue(self, form: dict[str, str]) -> None:
        scheme, _, pair = self.headers.get("authorization", "").partition(" ")
        user, _, password = b64decode(pair).decode().partition(":")
        if (scheme, unquote(user), unquote(password)) != ("Basic", CLIENT, SECRET):
            self.answer({"error": "invalid_client"}, 401)
            return
        asked = self.codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = urlsafe_b64encode(digest).decode().rstrip("=")
        if not asked or asked["redirect_uri"] != form["redirect_uri"] or asked["code_challenge"] != challenge:
            self.answer({"error": "invalid_grant"}, 400)
            return
        token = {} if self.sign == "nothing" else {"id_token": self.token(asked)}
        self.answer({"access_token": "x", "token_type": "Bearer"} | token)

    def token(self, asked: dict[str, str]) -> str:
        now, account = int(time.time()), asked["account"]
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": f"id-{account}",
            "iat": now,
            "exp": now + 300,
        }
        claims |= {"nonce": asked["nonce"], "email": f"{account}@example.org", "groups": GROUPS[account]} | self.claims
        claims = {name: value for name, value in claims.items() if value is not None}
        kid, key = (self.withdrawn if self.sign == "withdrawn" else self.keys)[self.alg]
        if self.sign == "none":
            return jwt.encode(claims, None, "none", {"kid": kid})
        if self.sign == "hmac":  # by the public key, which everyone has
            public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            head = urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": kid}).encode()).rstrip(b"=")
            signed = head + b"." + urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
            signature = urlsafe_b64encode(hmac.digest(public, signed, "sha256")).rstrip(b"=")
            return (signed + b"." + signature).decode()
        header = {"kid": kid} if self.has_names else None
        return jwt.encode(claims, self.stranger if self.sign == "stranger" else key, self.alg, header)

    def public(self, alg: str, kid: str, key: Any) -> dict[str, Any]:
        made: dict[str, Any] = jwt.get_algorithm_by_name(alg).to_jwk(key.public_key(), as_dict=True)
        return made | {"kid": kid, "use": "sig"}

    def answer(self, body: Any, status: int = 200, kind: str = "application/json") -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the name is the library's
        pass


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()

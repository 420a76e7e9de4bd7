"""Read tokens: valid ones are accepted, and every kind of forgery is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from tracker.api.auth import SCOPES, Access, AccessKey, mint_token
from tracker.errors import ConfigInvalid, TokenInvalid

NOW = 1_790_000_000_000_000
S = NOW // 1_000_000
SECRET = "a-read-secret-of-at-least-thirty-two-bytes"
HS = AccessKey("main", "HS256", SECRET)


def pems(private: Any) -> tuple[str, str]:
    pem = serialization.Encoding.PEM
    return (
        private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo).decode(),
        private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode(),
    )


RSA_PUBLIC, RSA_PRIVATE = pems(rsa.generate_private_key(65537, 2048))
ED_PUBLIC, ED_PRIVATE = pems(ed25519.Ed25519PrivateKey.generate())
RS = AccessKey("rs", "RS256", None, RSA_PUBLIC, RSA_PRIVATE)
ED = AccessKey("ed", "EdDSA", None, ED_PUBLIC, ED_PRIVATE)


def access(*keys: AccessKey, **more: Any) -> Access:
    return Access(keys or [HS], now=lambda: NOW, **more)


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forged(header: dict[str, Any], claims: dict[str, Any], secret: str = SECRET) -> str:
    """A token with exactly this header, always signed with HMAC."""
    signed = f"{part(header)}.{part(claims)}"
    signature = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def claims(**more: Any) -> dict[str, Any]:
    return {
        name: value for name, value in ({"exp": S + 60, "scope": "read:sessions"} | more).items() if value is not ...
    }


def token(key: str = SECRET, header: dict[str, Any] | None = None, **more: Any) -> str:
    return forged({"alg": "HS256", "typ": "JWT"} | (header or {}), claims(**more), key)


def refusal(authenticator: Access, sent: str | None, cookie: str | None = None) -> str:
    with pytest.raises(TokenInvalid) as caught:
        authenticator.authorize(sent, cookie)
    message = str(caught.value)
    assert SECRET not in message
    if sent and len(sent.split(".")[-1]) > 20:
        assert sent.split(".")[-1] not in message
    return message


@pytest.mark.parametrize("key", [HS, RS, ED], ids=lambda key: key.algorithm)
def test_a_minted_token_gives_its_scopes_and_sources(key: AccessKey) -> None:
    minted = mint_token(
        key, scopes=["read:sessions", "read:records"], sources=["ov", "lk"], expires_s=60, now=NOW, subject="ann"
    )
    reader = access(HS, RS, ED).authorize(f"Bearer {minted}")
    assert reader.subject == "ann"
    assert reader.scopes == {"read:sessions", "read:records"}
    assert reader.sources == ("ov", "lk")
    assert reader.has_scope("read:records")
    assert not reader.has_scope("admin")
    assert reader.sees("ov")
    assert not reader.sees("rec")
    assert jwt.get_unverified_header(minted)["kid"] == key.id


def test_admin_includes_every_scope_and_a_token_without_sources_sees_all() -> None:
    reader = access().authorize("Bearer " + mint_token(HS, scopes=["admin"], sources=None, expires_s=60, now=NOW))
    assert all(reader.has_scope(scope) for scope in SCOPES)
    assert reader.sources is None
    assert reader.sees("anything")


def test_a_private_key_alone_can_verify_too() -> None:
    alone = AccessKey("rs", "RS256", None, None, RSA_PRIVATE)
    assert access(alone).authorize("Bearer " + mint_token(RS, scopes=["admin"], sources=None, expires_s=60, now=NOW))


def test_without_a_kid_every_key_of_that_algorithm_is_tried() -> None:
    other = AccessKey("other", "HS256", "another-secret-of-at-least-thirty-two-bytes")
    assert access(other, HS, RS).authorize(f"Bearer {token()}").subject == ""
    assert access().authorize(f"bearer {token()}").has_scope("read:sessions")


@pytest.mark.parametrize(
    "header",
    [{"kid": "nobody"}, {"kid": 7}, {"kid": ["main"]}, {"kid": ""}, {"kid": "rs"}, {"crit": ["exp"]}, {"alg": "none"},
     {"alg": "None"}, {"alg": "HS512"}, {"alg": "RS256"}, {"alg": None}, {"alg": ["HS256"]}, {"alg": "hs256"}],
)  # fmt: skip
def test_a_header_with_another_type_or_algorithm_is_refused(header: dict[str, Any]) -> None:
    refusal(access(HS, RS), f"Bearer {token(header=header)}")


def test_a_token_without_signature_is_refused() -> None:
    for algorithm in ("none", "NONE", "HS256"):
        refusal(access(), f"Bearer {part({'alg': algorithm})}.{part(claims())}.")


def test_a_token_signed_with_the_public_key_as_secret_is_refused() -> None:
    for header in ({"alg": "HS256"}, {"alg": "HS256", "kid": "rs"}, {"alg": "RS256", "kid": "rs"}):
        for secret in (RSA_PUBLIC, RSA_PUBLIC.strip()):
            refusal(access(RS), f"Bearer {forged(header, claims(), secret)}")
            refusal(access(RS, HS), f"Bearer {forged(header, claims(), secret)}")


def test_another_key_or_changed_claims_are_refused() -> None:
    refusal(access(), f"Bearer {token(key='another-secret-of-at-least-thirty-two-bytes')}")
    header, _, signature = token().split(".")
    refusal(access(), f"Bearer {header}.{part(claims(scope='admin'))}.{signature}")
    refusal(access(RS), "Bearer " + mint_token(ED, scopes=["admin"], sources=None, expires_s=60, now=NOW))


@pytest.mark.parametrize(
    "changed",
    [{"exp": ...}, {"exp": S - 60}, {"exp": None}, {"exp": str(S + 60)}, {"exp": True}, {"exp": 1e300}, {"exp": float("inf")},
     {"exp": float("nan")}, {"exp": [S + 60]}, {"nbf": S + 61}, {"iat": S + 61}, {"iat": "now"}, {"scope": ["admin"]},
     {"scope": None}, {"sources": "ov"}, {"sources": None}, {"sources": [1]}, {"sources": {"ov": 1}}],
)  # fmt: skip
def test_invalid_claims_are_refused(changed: dict[str, Any]) -> None:
    refusal(access(), f"Bearer {token(**changed)}")


@pytest.mark.parametrize(
    "changed", [{"exp": S - 59}, {"exp": S + 0.5}, {"nbf": S + 60}, {"iat": S + 60}, {"iat": S - 10**8}]
)
def test_clocks_may_differ_by_a_minute(changed: dict[str, Any]) -> None:
    assert access().authorize(f"Bearer {token(**changed)}")


def test_the_given_clock_is_used() -> None:
    past = Access([HS], now=lambda: 0)
    refusal(past, f"Bearer {token(iat=S)}")
    assert past.authorize(f"Bearer {token(exp=1)}")


def test_audience_and_issuer_are_checked_when_configured() -> None:
    authenticator = access(HS, audience="tracker", issuer="house")
    good = mint_token(HS, scopes=["admin"], sources=None, expires_s=60, now=NOW, audience="tracker", issuer="house")
    assert authenticator.authorize(f"Bearer {good}")
    assert authenticator.authorize(f"Bearer {token(aud=['x', 'tracker'], iss='house')}")
    for changed in (
        {}, {"aud": "tracker"}, {"iss": "house"}, {"aud": "other", "iss": "house"}, {"aud": "tracker", "iss": "x"},
        {"aud": ["x"], "iss": "house"}, {"aud": "tracker", "iss": ["house"]}, {"aud": {"tracker": 1}, "iss": "house"},
    ):  # fmt: skip
        refusal(authenticator, f"Bearer {token(**changed)}")
    assert access().authorize(f"Bearer {token(aud='anybody', iss='anybody')}")


@pytest.mark.parametrize(
    "sent", [None, "", "Bearer", "Bearer ", "Basic dTpw", "x", "Bearer a.b", "Bearer a.b.c", "Bearer " + "a" * 20_000, "Bearer é.é.é",
             "Bearer " + "." * 50, "Bearer \x00", "Bearer bnVsbA.bnVsbA.bnVsbA", "Bearer " + part([1]) + "." + part([1]) + ".YQ"],
)  # fmt: skip
def test_text_that_is_no_token_is_refused(sent: str | None) -> None:
    refusal(access(), sent)
    refusal(access(), sent, "a cookie")


def test_a_payload_that_is_not_an_object_is_refused() -> None:
    for payload in ([1], "text", 1, None):
        refusal(access(), "Bearer " + forged({"alg": "HS256"}, payload))  # type: ignore[arg-type]


def test_a_one_time_link_works_once_and_exists_only_without_keys() -> None:
    authenticator = access()
    assert authenticator.one_time_link() is None
    with pytest.raises(TokenInvalid):
        authenticator.redeem_code("")
    alone = Access([], now=lambda: NOW)
    link, other = alone.one_time_link(), alone.one_time_link()
    assert link is not None
    assert other != link
    path, _, code = link.partition("=")
    assert path == "/open?code"
    assert len(base64.urlsafe_b64decode(code + "=")) == 32
    cookie = alone.redeem_code(code)
    reader = alone.authorize(None, cookie)
    assert reader.sources is None
    assert all(reader.has_scope(scope) for scope in SCOPES)
    for again in (code, cookie, "", "\ud800"):
        with pytest.raises(TokenInvalid):
            alone.redeem_code(again)
    refusal(alone, None)
    refusal(alone, None, code)
    refusal(alone, f"Bearer {token()}", None)
    refusal(Access([], now=lambda: NOW), None, cookie)


def test_a_link_beside_keys_must_be_requested_and_does_not_override_tokens() -> None:
    authenticator = access()
    link = authenticator.one_time_link(even_with_keys=True)
    assert link is not None
    refusal(authenticator, None, "guessed")
    cookie = authenticator.redeem_code(link.partition("=")[2])
    assert authenticator.authorize(None, cookie).has_scope("admin")
    assert not authenticator.authorize(f"Bearer {token()}", cookie).has_scope("admin"), (
        "the header is used before the cookie"
    )
    with pytest.raises(TokenInvalid):
        authenticator.redeem_code(link.partition("=")[2])
    authenticator.end_session(cookie)
    refusal(authenticator, None, cookie)


def test_the_error_names_a_key_that_cannot_sign() -> None:
    for key in (
        AccessKey("k", "HS256"),
        AccessKey("k", "RS256", None, RSA_PUBLIC),
        AccessKey("k", "EdDSA", SECRET),
        AccessKey("k", "RS256", None, None, "no pem"),
    ):
        with pytest.raises(ConfigInvalid, match="'k'"):
            mint_token(key, scopes=["admin"], sources=None, expires_s=60, now=NOW)
    for scopes in ([], ["read:everything"]):
        with pytest.raises(ConfigInvalid, match="scope"):
            mint_token(HS, scopes=scopes, sources=None, expires_s=60, now=NOW)


def test_a_key_that_cannot_verify_is_found_at_the_start() -> None:
    for key in (
        AccessKey("k", "HS256"),
        AccessKey("k", "RS256"),
        AccessKey("k", "RS256", None, "no pem"),
        AccessKey("k", "EdDSA", None, None, "no pem"),
    ):
        with pytest.raises(ConfigInvalid, match="'k'"):
            access(key)
    with pytest.raises(ConfigInvalid, match="twice"):
        access(HS, HS)


def test_keys_are_never_printed() -> None:
    from rich.pretty import pretty_repr

    for key in (HS, RS, ED):
        for shown in (repr(key), str(key), pretty_repr(key), f"{[key]}"):
            assert key.id in shown
            assert SECRET not in shown
            assert "PRIVATE" not in shown


def test_a_cookie_with_a_token_gives_no_more_than_the_token() -> None:
    authenticator = access()
    good = mint_token(HS, scopes=["read:sessions"], sources=["ov"], expires_s=60, now=NOW)
    everything = mint_token(HS, scopes=["admin"], sources=None, expires_s=60, now=NOW)
    assert authenticator.authorize(None, good) == authenticator.authorize(f"Bearer {good}")
    assert authenticator.authorize(f"Bearer {good}", everything).sources == ("ov",)
    refusal(authenticator, "Bearer wrong", everything)
    for cookie in (
        "",
        "wrong",
        f"Bearer {good}",
        mint_token(HS, scopes=["admin"], sources=None, expires_s=-120, now=NOW),
    ):
        refusal(authenticator, None, cookie)


def test_a_session_of_a_link_that_was_signed_out_is_refused() -> None:
    alone = Access([], now=lambda: NOW)
    link = alone.one_time_link()
    assert link is not None
    cookie = alone.redeem_code(link.partition("=")[2])
    assert alone.authorize(None, cookie)
    alone.end_session(cookie)
    alone.end_session("never opened")
    refusal(alone, None, cookie)

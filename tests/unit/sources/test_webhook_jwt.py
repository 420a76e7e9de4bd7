"""The signed token: every attack is refused next to the delivery it imitates, and nothing but a rejection is raised."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paths import SAMPLES
from tracker.errors import DeliveryRejected, KeyUnknown, SignatureMismatch, SignatureMissing, SignatureStale
from tracker.sources.webhook_jwt import LEEWAY_S, unverified_header, verify_jwt, matching_secret


NOW = 1_786_000_000
KEY, SECRET = "APIdevFixture01", "a-secret-of-this-test-only"
KEYS = {KEY: SECRET, "APIother": "zweites-Geheimnis-é"}
BODY = b'{"event":"room_started","room":{"sid":"RM_1"}}'
HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}

Json = dict[str, Any]


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def named(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def claimed(body: bytes = BODY, **other: Any) -> Json:
    """LiveKit's claims for a body; `other` replaces claims, None removes one."""
    fields = {"iss": KEY, "nbf": NOW, "iat": NOW, "exp": NOW + 300, "sha256": named(body)} | other
    return {name: value for name, value in fields.items() if value is not None}


def made(
    claims: object, *, secret: str = SECRET, alg: Any = "HS256", by: str | None = None, header: Json | None = None
) -> str:
    """A token made by hand, so that it can be wrong in any way. `by`: the hash that is really used."""
    head = {"typ": "JWT", "alg": alg} | (header or {})
    signed = f"{base64url(json.dumps(head).encode())}.{base64url(json.dumps(claims).encode())}"
    digest = hmac.digest(secret.encode(), signed.encode(), HASHES[by or alg])
    return f"{signed}.{base64url(digest)}"


def verified(token: str, body: bytes = BODY, *, now: float = NOW, keys: dict[str, str] = KEYS) -> str:
    return verify_jwt(token, keys=keys, body=body, received_at=int(now * 1_000_000))


GOOD = made(claimed())


# --- what is accepted ------------------------------------------------------------------------------------------------


def test_a_token_for_these_bytes_gives_its_issuer() -> None:
    assert verified(GOOD) == KEY


def test_the_issuer_selects_the_secret_so_that_keys_can_rotate() -> None:
    assert verified(made(claimed(iss="APIother"), secret=KEYS["APIother"])) == "APIother"
    with pytest.raises(SignatureMismatch):
        verified(made(claimed(iss="APIother"), secret=SECRET))


@pytest.mark.parametrize("vendor", ["livekit", "plugnmeet"])
def test_every_signed_sample_verifies_at_its_time(vendor: str) -> None:
    for line in (SAMPLES / f"{vendor}-signed.jsonl").read_bytes().splitlines():
        sample = json.loads(line)
        headers = sample["headers"]
        token = headers.get("Authorization") or headers["Hash-Token"]
        body = sample["body_text"].encode()
        assert verified(token, body, now=sample["now"], keys={sample["key"]: sample["secret"]}) == sample["key"]


def test_nbf_and_iat_may_be_absent() -> None:
    assert verified(made(claimed(nbf=None, iat=None))) == KEY


def test_a_fraction_of_a_second_is_a_time_too() -> None:
    assert verified(made(claimed(exp=NOW + 0.5))) == KEY


@pytest.mark.parametrize("secret", ["secret", "x" * 200, "Ключ"])
def test_secrets_may_have_any_length(secret: str) -> None:
    assert verified(made(claimed(), secret=secret), keys={KEY: secret}) == KEY


def test_the_clock_of_this_machine_is_not_used() -> None:
    long_ago = 1_000_000_000
    assert abs(time.time() - long_ago) > 300
    token = made(claimed(nbf=long_ago, iat=long_ago, exp=long_ago + 300))
    assert verified(token, now=long_ago) == KEY


@pytest.mark.parametrize("body", [b"", b"\n {} \n", b"\xff\xfe\x00", "é\u2028".encode(), b"x" * 100_000])
def test_a_token_can_name_any_bytes(body: bytes) -> None:
    assert verified(made(claimed(body)), body) == KEY


# --- attacks, each beside what it imitates ---------------------------------------------------------------------------


def test_no_token_is_a_missing_signature() -> None:
    with pytest.raises(SignatureMissing, match="API key and secret"):
        verified("")


UNSIGNED = GOOD.rpartition(".")[0] + "."


ALGORITHMS = {
    "none, unsigned": made(claimed(), alg="none", by="HS256").rpartition(".")[0] + ".",
    "none, signed": made(claimed(), alg="none", by="HS256"),
    "None": made(claimed(), alg="None", by="HS256"),
    "hs256": made(claimed(), alg="hs256", by="HS256"),
    "HS384": made(claimed(), alg="HS384"),
    "HS512": made(claimed(), alg="HS512"),
    "RS256 with the secret as key": made(claimed(), alg="RS256", by="HS256"),
    "ES256": made(claimed(), alg="ES256", by="HS256"),
    "EdDSA": made(claimed(), alg="EdDSA", by="HS256"),
    "no name": made(claimed(), alg=None, by="HS256"),
    "a list": made(claimed(), alg=["HS256"], by="HS256"),
    "HS256 named, HS512 used": made(claimed(), by="HS512"),
}


@pytest.mark.parametrize("token", ALGORITHMS.values(), ids=list(ALGORITHMS))
def test_any_algorithm_but_hs256_is_refused(token: str) -> None:
    assert verified(GOOD) == KEY
    with pytest.raises(SignatureMismatch):
        verified(token)


DIGEST = hashlib.sha256(BODY).digest()
BODY_CLAIMS = {
    "missing": None,
    "empty": "",
    "hex": DIGEST.hex(),
    "unpadded": named(BODY).rstrip("="),
    "padded twice": named(BODY) + "=",
    "wrapped": named(BODY)[:20] + "\n" + named(BODY)[20:],
    "of other bytes": named(BODY + b"\n"),
    "of nothing": named(b""),
    "sha512": base64.b64encode(hashlib.sha512(BODY).digest()).decode(),
    "a number": 7,
    "true": True,
    "a list": [named(BODY)],
    "an object": {"sha256": named(BODY)},
    "non-ASCII": "é" * 44,
    "a lone surrogate": "\ud800" * 44,
}


@pytest.mark.parametrize("claim", BODY_CLAIMS.values(), ids=list(BODY_CLAIMS))
def test_only_the_padded_base64_of_these_bytes_names_them(claim: object) -> None:
    assert verified(made(claimed())) == KEY
    with pytest.raises(SignatureMismatch):
        verified(made(claimed(sha256=claim)))


def test_base64_of_another_alphabet_is_refused() -> None:
    body = next(b"%d" % n for n in range(99) if "/" in named(b"%d" % n) or "+" in named(b"%d" % n))
    assert verified(made(claimed(body)), body) == KEY
    with pytest.raises(SignatureMismatch):
        verified(made(claimed(body, sha256=named(body).replace("/", "_").replace("+", "-"))), body)


def test_a_participants_join_token_with_the_same_key_is_refused() -> None:
    join: Json = {
        "iss": KEY, "sub": "user-alice", "nbf": NOW, "exp": NOW + 21_600, "name": "Alice",
        "video": {"roomJoin": True, "room": "daily-standup"},
    }  # fmt: skip
    with pytest.raises(SignatureMismatch, match="not a webhook token"):
        verified(made(join))
    assert verified(made(join | {"sha256": named(BODY)})) == KEY


@pytest.mark.parametrize(
    "changed", [BODY + b"\n", b" " + BODY, BODY.replace(b"RM_1", b"RM_2"), BODY.replace(b",", b", "), b""]
)
def test_a_changed_body_is_refused(changed: bytes) -> None:
    assert verified(GOOD) == KEY
    with pytest.raises(SignatureMismatch, match="changed the body"):
        verified(GOOD, changed)


@pytest.mark.parametrize(
    ("claims", "now", "late"),
    [
        ({"exp": NOW}, NOW + LEEWAY_S - 0.001, NOW + LEEWAY_S),
        ({"nbf": NOW, "iat": None}, NOW - LEEWAY_S, NOW - LEEWAY_S - 0.001),
        ({"nbf": None, "iat": NOW}, NOW - LEEWAY_S, NOW - LEEWAY_S - 0.001),
    ],
    ids=["expired", "not yet", "issued in the future"],
)
def test_a_token_is_valid_from_a_minute_before_to_a_minute_after_its_time(
    claims: Json, now: float, late: float
) -> None:
    token = made(claimed(**claims))
    assert verified(token, now=now) == KEY
    with pytest.raises(SignatureStale, match="clocks"):
        verified(token, now=late)


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["1786000300", "", True, [NOW], {}, float("nan"), float("inf"), 10**400, -(10**400)])
def test_a_time_that_is_no_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(SignatureMismatch, match=name):
        verified(made(claimed(**{name: value})))


def test_a_token_that_never_expires_is_refused() -> None:
    with pytest.raises(SignatureMismatch, match="exp"):
        verified(made(claimed(exp=None)))


def test_a_null_exp_is_refused_like_a_missing_one() -> None:
    with pytest.raises(SignatureMismatch, match="exp"):
        verified(made(claimed() | {"exp": None}))


def test_an_unknown_issuer_is_distinguished_from_a_wrong_secret() -> None:
    with pytest.raises(KeyUnknown, match="`keys`"):
        verified(made(claimed(iss="APIsomebody")))
    with pytest.raises(SignatureMismatch):
        verified(made(claimed(), secret="of somebody else"))


@pytest.mark.parametrize("issuer", [None, "", 7, ["APIdevFixture01"], {"a": 1}])
def test_a_token_without_an_issuer_is_refused(issuer: object) -> None:
    with pytest.raises(SignatureMismatch, match="issuer"):
        verified(made(claimed(iss=issuer)))


def test_an_empty_secret_verifies_nothing() -> None:
    with pytest.raises(KeyUnknown):
        verified(made(claimed(), secret=""), keys={KEY: ""})


def test_without_keys_every_token_is_refused() -> None:
    with pytest.raises(KeyUnknown):
        verified(GOOD, keys={})


def test_a_changed_claim_breaks_the_signature() -> None:
    head, _, signature = GOOD.split(".")
    forged = f"{head}.{base64url(json.dumps(claimed(exp=NOW + 9_999)).encode())}.{signature}"
    with pytest.raises(SignatureMismatch):
        verified(forged)


@pytest.mark.parametrize("claims", [[], [1], "text", 7, None, True])
def test_claims_that_are_not_an_object_are_refused(claims: object) -> None:
    with pytest.raises(SignatureMismatch):
        verified(made(claims))


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"]}, {"b64": False, "crit": ["b64"]}, {"kid": 7}, {"zip": "DEF", "crit": ["zip"]}]
)
def test_headers_that_would_change_the_rules_are_refused(header: Json) -> None:
    with pytest.raises(SignatureMismatch):
        verified(made(claimed(), header=header))


GARBAGE = {
    "Bearer": f"Bearer {GOOD}",
    "bearer": f"bearer {GOOD}",
    "Basic": "Basic T1BFTlZJRFVBUFA6c2VjcmV0",
    "a space": " ",
    "led by a space": f" {GOOD}",
    "a newline": f"{GOOD}\n",
    "quoted": f'"{GOOD}"',
    "padded": f"{GOOD}=",
    "two parts": GOOD.rpartition(".")[0],
    "unsigned": UNSIGNED,
    "four parts": f"{GOOD}.x",
    "five parts (JWE)": f"{GOOD}.x.y",
    "dots": "..",
    "a word": "garbage",
    "non-ASCII": f"é{GOOD}",
    "non-ASCII digits": "٣.٣.٣",
    "a lone surrogate": f"\udce9{GOOD}",
    "NUL": f"{GOOD}\x00",
    "header no base64": "a." + GOOD.partition(".")[2],
    "header no JSON": f"{base64url(b'no')}.{GOOD.partition('.')[2]}",
    "header no object": f"{base64url(b'[]')}.{GOOD.partition('.')[2]}",
    "header not UTF-8": f"{base64url(bytes([255, 254, 253]))}.{GOOD.partition('.')[2]}",
    "header nested deeply": f"{base64url(b'[' * 100_000)}.e.e",
    "header of a huge number": f"{base64url(b'9' * 5_000)}.e.e",
    "claims nested deeply": f"{GOOD.partition('.')[0]}.{base64url(b'[' * 100_000)}.e",
    "claims not UTF-8": f"{GOOD.partition('.')[0]}.{base64url(bytes([255, 254, 253]))}.e",
}


@pytest.mark.parametrize("token", GARBAGE.values(), ids=list(GARBAGE))
def test_anything_but_a_bare_token_is_refused(token: str) -> None:
    assert verified(GOOD) == KEY
    with pytest.raises(SignatureMismatch):
        verified(token)


@pytest.mark.parametrize(
    "token", [*GARBAGE.values(), *ALGORITHMS.values(), made(claimed(exp=1)), made(claimed(iss="nobody"))]
)
def test_a_rejection_repeats_neither_the_token_nor_a_secret(token: str) -> None:
    with pytest.raises(DeliveryRejected) as refused:
        verified(token)
    words = str(refused.value)
    assert not any(secret in words for secret in KEYS.values())
    assert not any(part in words for part in token.split(".") if len(part) > 20)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


# --- whatever comes --------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CLAIM = st.sampled_from(["iss", "exp", "nbf", "iat", "sha256", "sub", "aud", "jti", "alg", "crit", "kid"])
PARTS = st.text(st.characters(codec=None), max_size=40) | st.binary(max_size=40).map(base64url)


@settings(max_examples=200, deadline=None)
@given(token=PARTS | st.lists(PARTS, min_size=2, max_size=5).map(".".join))
def test_arbitrary_text_raises_nothing_but_a_rejection(token: str) -> None:
    unverified_header(token)
    with pytest.raises(DeliveryRejected):
        verified(token)


@settings(max_examples=200, deadline=None)
@given(
    claims=JSON | st.dictionaries(CLAIM, JSON, max_size=4).map(lambda some: claimed() | some),
    head=st.dictionaries(CLAIM, JSON, max_size=2),
)
def test_arbitrary_claims_under_a_good_signature_verify_or_are_rejected(claims: object, head: Json) -> None:
    try:
        issuer = verified(made(claims, header=head))
    except DeliveryRejected:
        return
    assert isinstance(claims, dict)
    assert (issuer, claims["sha256"]) == (KEY, named(BODY))
    assert claims["exp"] > NOW - LEEWAY_S


LONG_SECRET = "a secret PyJWT has no doubts about: long enough"
IGNORED = {f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}


@settings(max_examples=300, deadline=None)
@given(
    claims=st.dictionaries(CLAIM, JSON, max_size=2).map(lambda some: claimed() | some),
    head=st.dictionaries(st.sampled_from(["typ", "kid", "alg", "crit", "b64", "zip"]), JSON, max_size=2),
    at=st.integers(0, 400),
    to=st.sampled_from("AZaz09-_.="),
    spoiled=st.booleans(),
)
def test_pyjwt_accepts_every_token_that_is_accepted_here(
    claims: Json, head: Json, at: int, to: str, spoiled: bool
) -> None:
    token = made(claims, secret=LONG_SECRET, header=head)
    if spoiled:
        token = token[:at] + to + token[at + 1 :]
    try:
        verified(token, keys={KEY: LONG_SECRET})
    except DeliveryRejected:
        return
    decoded = jwt.decode(token, LONG_SECRET, algorithms=["HS256"], options=IGNORED)  # pyright: ignore[reportArgumentType]
    assert (decoded["iss"], decoded["sha256"]) == (KEY, named(BODY))


@settings(max_examples=100, deadline=None)
@given(
    more=st.dictionaries(st.sampled_from(["sub", "aud", "jti", "name", "video"]), JSON, max_size=4),
    secret=st.text(min_size=32),
)
def test_tokens_of_pyjwt_for_these_bytes_are_accepted_here(more: Json, secret: str) -> None:
    try:
        token = jwt.encode(claimed() | more, secret, algorithm="HS256")
    except (TypeError, ValueError, jwt.PyJWTError):
        return  # text that PyJWT refuses, or a key that it takes for a public one
    assert verified(token, keys={KEY: secret}) == KEY


def test_a_signature_has_only_one_valid_encoding() -> None:
    spare = next(letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
                 if letter != GOOD[-1] and base64.urlsafe_b64decode(GOOD[-43:-1] + letter + "=")
                 == base64.urlsafe_b64decode(GOOD[-43:] + "="))  # fmt: skip
    with pytest.raises(SignatureMismatch):
        verified(GOOD[:-1] + spare)


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, len(GOOD) - 1), to=st.sampled_from("ABCxyz019-_.= "))
def test_a_token_with_one_letter_changed_is_rejected(at: int, to: str) -> None:
    changed = GOOD[:at] + to + GOOD[at + 1 :]
    if changed == GOOD:
        return
    with pytest.raises(DeliveryRejected):
        verified(changed)


# --- a fixed secret --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "index"),
    [
        ("one", 0),
        ("zwei-é", 1),
        ("", None),
        ("on", None),
        ("one ", None),
        ("ONE", None),
        ("\udce9", None),
        ("zwei-e", None),
    ],
)
def test_the_matching_secret_is_given_by_its_index(offered: str, index: int | None) -> None:
    assert matching_secret(offered, ("one", "zwei-é", "")) == index

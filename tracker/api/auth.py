"""Who may read: bearer tokens (JWT) verified with the configured keys, or a link that works once.

    Authorization: Bearer <jwt>   `kid` in the header names the key; without it, every key of that algorithm is tried.
                                  A key's algorithm is fixed: the token's `alg` is compared with it, never followed.
    Cookie: tracker_session       the same JWT, set by signing in; or the session of an opened one-time link. If both are
                                  sent, the header counts: a cookie never widens a token.

The clock is passed in: PyJWT's own time checks are off, and `exp`, `nbf` and `iat` are compared with `now()`.
Messages say what is wrong with a token and never contain any part of it.

LIMIT: sessions of opened links are kept in memory; after a restart a new link is needed.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from jwt.types import Options

from tracker.api.signed_out import SignedOutSessions
from tracker.config.schema import AccessKey
from tracker.errors import ConfigInvalid, TokenInvalid

SCOPES = ("read:sessions", "read:records", "admin")
"""All scopes; `admin` includes the others."""

LEEWAY_S = 60
"""Tolerated clock difference between the host that mints tokens and this one, in seconds."""

MAX_TOKEN_BYTES = 16_384
MAX_SECONDS = 1e12

Claims = dict[str, Any]

_SIGNATURE_ONLY: Options = {
    "verify_signature": True, "verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False,
    "verify_iss": False, "verify_sub": False, "verify_jti": False,
}  # fmt: skip


class Reader(msgspec.Struct, frozen=True, eq=False):
    """Who sends a request, and what they may read. `sources` None: all sources.

    `expires_at`: when the token expires (µs; None: never). `session`: digest of the cookie that signed the reader in.
    Readers are equal if they may read the same, by whatever proof.
    """

    subject: str
    scopes: frozenset[str]
    sources: tuple[str, ...] | None = None
    expires_at: int | None = None
    session: bytes | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reader) and self._rights() == other._rights()

    def __hash__(self) -> int:
        return hash(self._rights())

    def _rights(self) -> tuple[str, frozenset[str], tuple[str, ...] | None]:
        return self.subject, self.scopes, self.sources

    def has_scope(self, scope: str) -> bool:
        """Whether the token has `scope`, or `admin`."""
        return scope in self.scopes or "admin" in self.scopes

    def sees(self, source: str) -> bool:
        """Whether this reader may see `source`."""
        return self.sources is None or source in self.sources


_LOCAL_READER = Reader("local", frozenset(SCOPES), None)


class Access:
    """Checks tokens and one-time links. `now` gives µs since the epoch.

    Raises `ConfigInvalid` for a key that cannot verify, or a key id used twice.
    """

    def __init__(
        self,
        keys: Sequence[AccessKey],
        *,
        audience: str | None = None,
        issuer: str | None = None,
        now: Callable[[], int],
        signed_out: SignedOutSessions | None = None,
    ) -> None:
        self._keys = {key.id: (key, _verification_key(key)) for key in keys}
        if len(self._keys) != len(keys):
            raise ConfigInvalid("access.keys: an id is used twice: give each key its own id")
        self._audience = audience
        self._issuer = issuer
        self._now = now
        # Digests only, so that the time of a comparison says nothing about the code itself.
        self._codes: set[bytes] = set()
        self._opened: set[bytes] = set()
        self._ended: set[bytes] = set()
        """Sessions of opened links that were signed out."""
        self._signed_out = SignedOutSessions() if signed_out is None else signed_out

    def authorize(self, authorization: str | None, cookie: str | None = None) -> Reader:
        """The reader. `authorization` is the value of the header, `cookie` that of `tracker_session`.

        Raises `TokenInvalid`, which says what is wrong with the token.
        """
        if authorization is None:
            if cookie is not None and (digest := _digest(cookie)) in self._opened:
                return msgspec.structs.replace(_LOCAL_READER, session=digest)
            if self._keys and cookie:
                if _digest(cookie) in self._signed_out:
                    raise TokenInvalid("this session was signed out: sign in again")
                return msgspec.structs.replace(self._read(cookie), session=_digest(cookie))
            if not self._keys:
                raise TokenInvalid(
                    "open the one-time link that the server printed when it started, or configure [access] keys"
                )
            raise TokenInvalid("send `Authorization: Bearer <token>`; `tracker token` mints one")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise TokenInvalid("the Authorization header must have the form `Bearer <token>`")
        return self._read(token.strip())

    def _read(self, token: str) -> Reader:
        claims = self._claims(token)
        self._check_times(claims)
        self._check_names(claims)
        return _reader_from_claims(claims)

    @property
    def has_keys(self) -> bool:
        """Whether tokens can be verified; without keys only the one-time link works."""
        return bool(self._keys)

    def one_time_link(self, *, even_with_keys: bool = False) -> str | None:
        """The path of a link that works once and gives all scopes; None if keys are configured, unless `even_with_keys`."""
        if self._keys and not even_with_keys:
            return None
        code = secrets.token_urlsafe(32)
        self._codes.add(_digest(code))
        return f"/open?code={code}"

    def redeem_code(self, code: str) -> str:
        """Exchange the code of a link, once, for a value of the cookie `tracker_session`. Raises `TokenInvalid`."""
        try:
            self._codes.remove(_digest(code))
        except KeyError:
            raise TokenInvalid("this link is unknown or was used before: restart the server for a new one") from None
        opened = secrets.token_urlsafe(32)
        self._opened.add(_digest(opened))
        return opened

    def begin_session(self, token: str) -> None:
        """Sign in with a token, perhaps again after its session was signed out. Raises `TokenInvalid`."""
        self._read(token)
        self._signed_out.discard(_digest(token))

    def end_session(self, cookie: str) -> None:
        """Sign a session out: its cookie is refused from now on. A token in a header stays valid until it expires."""
        try:
            expires_at = self.authorize(None, cookie).expires_at
        except TokenInvalid:
            return
        digest = _digest(cookie)
        if digest in self._opened:  # no token: it is not valid any more
            self._opened.discard(digest)
            self._ended.add(digest)
            return
        self._signed_out.add(digest, expires_at, self._now() - LEEWAY_S * 1_000_000)

    def seconds_left(self, reader: Reader) -> float:
        """How long a reader may go on reading one stream: until the token expires, or the session is signed out.

        0 or less: no longer. The leeway is for clocks that differ when a token is new; a stream that began has none.
        """
        if reader.session is not None and (reader.session in self._signed_out or reader.session in self._ended):
            return 0.0
        return math.inf if reader.expires_at is None else (reader.expires_at - self._now()) / 1_000_000

    def _claims(self, token: str) -> Claims:
        """The claims of a token signed with one of the configured keys."""
        if not self._keys:
            raise TokenInvalid("this server has no read keys: open the one-time link, or configure [access] keys")
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenInvalid("the token is too long")
        for key, verification_key in self._candidates(token):
            try:
                with warnings.catch_warnings():
                    # PyJWT warns about short secrets; whether to use one is the operator's decision.
                    warnings.simplefilter("ignore")
                    return jwt.decode(token, verification_key, algorithms=[key.algorithm], options=_SIGNATURE_ONLY)
            except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
                continue
        raise TokenInvalid("no key of this server verifies the token, or it is not a JWT with claims")

    def _candidates(self, token: str) -> Iterable[tuple[AccessKey, Any]]:
        try:
            header: Mapping[str, Any] = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise TokenInvalid("the token is not a JWT") from None
        if "crit" in header:
            raise TokenInvalid("the token requires extensions (crit) that Tracker does not support")
        kid: object = header.get("kid")
        if kid is not None:
            found = self._keys.get(kid) if isinstance(kid, str) else None
            if found is None:
                raise TokenInvalid("the token names a key (kid) that is not configured")
            candidates = [found]
        else:
            candidates = list(self._keys.values())
        matching = [found for found in candidates if found[0].algorithm == header.get("alg")]
        if not matching:
            raise TokenInvalid("the token's algorithm differs from that of its key")
        return matching

    def _check_times(self, claims: Claims) -> None:
        now = self._now() / 1_000_000
        expires = _claimed_time(claims, "exp")
        if expires is None:
            raise TokenInvalid("the token has no expiry (exp): mint one that expires")
        if expires + LEEWAY_S <= now:
            raise TokenInvalid("the token has expired: mint a new one")
        for name in ("nbf", "iat"):
            begins = _claimed_time(claims, name)
            if begins is not None and begins - LEEWAY_S > now:
                raise TokenInvalid(f"the token is from the future ({name}): synchronise the clocks of both hosts")

    def _check_names(self, claims: Claims) -> None:
        if self._audience is not None:
            found: object = claims.get("aud")
            audiences = cast("list[object]", found) if isinstance(found, list) else [found]
            if self._audience not in audiences:
                raise TokenInvalid("the token is for another audience (aud)")
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise TokenInvalid("the token is from another issuer (iss)")


def mint_token(
    key: AccessKey,
    *,
    scopes: Sequence[str],
    sources: Sequence[str] | None,
    expires_s: int,
    now: int,
    subject: str = "tracker",
    audience: str | None = None,
    issuer: str | None = None,
) -> str:
    """A token for `scopes`, limited to `sources` (None: all), valid for `expires_s` seconds from `now` (µs).

    Raises `ConfigInvalid` if the key cannot sign, or a scope is not in `SCOPES`.
    """
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise ConfigInvalid(
            f"scope: {', '.join(map(repr, unknown)) or 'none given'}: the scopes are {', '.join(SCOPES)}"
        )
    signing = key.secret if key.algorithm == "HS256" else key.private_key
    if not signing:
        what = "secret" if key.algorithm == "HS256" else "private key (private_key_file)"
        raise ConfigInvalid(f"access key {key.id!r} cannot sign: it has no {what}")
    seconds = now // 1_000_000
    claims: Claims = {"sub": subject, "iat": seconds, "exp": seconds + expires_s, "scope": " ".join(scopes)}
    claims |= {} if sources is None else {"sources": list(sources)}
    claims |= {} if audience is None else {"aud": audience}
    claims |= {} if issuer is None else {"iss": issuer}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return jwt.encode(claims, signing, algorithm=key.algorithm, headers={"kid": key.id})
    except (jwt.PyJWTError, ValueError, TypeError):
        raise ConfigInvalid(f"access key {key.id!r} cannot sign: it is not a {key.algorithm} key") from None


def _verification_key(key: AccessKey) -> Any:
    """The key for PyJWT. It is prepared once here, so that a bad key is found at start."""
    if key.algorithm == "HS256":
        if not key.secret:
            raise ConfigInvalid(f"access key {key.id!r}: HS256 needs a secret")
        text = key.secret
    else:
        text = key.public_key or _public_key(key)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            jwt.get_algorithm_by_name(key.algorithm).prepare_key(text)
    except (jwt.PyJWTError, ValueError, TypeError):
        raise ConfigInvalid(f"access key {key.id!r}: it is not a key that {key.algorithm} can verify with") from None
    return text


def _public_key(key: AccessKey) -> str:
    if not key.private_key:
        raise ConfigInvalid(f"access key {key.id!r}: {key.algorithm} needs a public key (public_key_file)")
    try:
        private = serialization.load_pem_private_key(key.private_key.encode(), password=None)
    except (ValueError, TypeError):
        raise ConfigInvalid(f"access key {key.id!r}: its private key is not a PEM key without a password") from None
    pem = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return private.public_key().public_bytes(*pem).decode()


def _reader_from_claims(claims: Claims) -> Reader:
    scope: object = claims.get("scope", "")
    if not isinstance(scope, str):
        raise TokenInvalid("the token's scope is not a text of scopes separated by spaces")
    sources: object = claims.get("sources", _ALL)
    if sources is _ALL:
        narrowed = None
    elif isinstance(sources, list) and all(isinstance(name, str) for name in cast("list[object]", sources)):
        narrowed = tuple(cast("list[str]", sources))
    else:
        # A limit that cannot be read must not become no limit.
        raise TokenInvalid("the token's sources are not a list of names")
    expires = _claimed_time(claims, "exp")
    expires_at = None if expires is None else round(expires * 1_000_000)
    return Reader(str(claims.get("sub", "")), frozenset(scope.split()), narrowed, expires_at)


_ALL = object()


def _claimed_time(claims: Claims, name: str) -> float | None:
    found: object = claims.get(name)
    if found is None:
        return None
    # Bounded, so that the arithmetic never sees an infinity or a number of a thousand digits.
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) < MAX_SECONDS:
        raise TokenInvalid(f"the token's {name} is not a time in seconds")
    return float(found)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()

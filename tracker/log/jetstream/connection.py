"""Connecting to NATS: who we are, with TLS or not at all, and what to change in config.toml where we are not let in.

Servers are tried again and again, as a network does come back. Where as many attempts as there are servers were refused for
what no waiting mends (a certificate, a password), it is told at once. Told is which key to look at, never what it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import nats.errors
import nkeys
import structlog
from nats.aio.client import Client

CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 0.2
RECONNECT_SECONDS: Any = 0.25  # the driver says whole seconds, and sleeps for what it is given
PENDING_BYTES = 256 * 1024 * 1024
JWT = b"BEGIN NATS USER JWT"
STRANGERS = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE", "ACCESS_DENIED")
"""In the alerts of a server that does not take our certificate."""
LOCKED_OUT = ("authorization violation", "authentication expired", "authentication revoked")

_log = structlog.get_logger("stream")


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the stream, what it has to be, and which `node` this is; `key`: of its checkpoints. Secrets are never printed."""

    servers: tuple[str, ...]
    stream: str
    node: str
    replicas: int
    key: str = ""
    credentials_file: Path | None = None
    user: str | None = None
    password: str | None = None
    token: str | None = None
    nkey_seed_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __repr__(self) -> str:
        return f"StreamSettings({self.stream!r}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich prints, in tracebacks too."""
        return [("stream", self.stream)]

    @property
    def is_encrypted(self) -> bool:
        """Whether nothing may be said to a server but over TLS."""
        return bool(self.tls_ca or self.tls_cert or any(each.startswith("tls://") for each in self.servers))

    @property
    def identity(self) -> str:
        """The keys of config.toml that say who we are."""
        if self.user is not None:
            return "jetstream.user, password_file (or password_env)"
        if self.token is not None:
            return "jetstream.token_file (or token_env)"
        files = [key for key in ("credentials_file", "nkey_seed_file") if getattr(self, key) is not None]
        return f"jetstream.{files[0]}" if files else ""


class PlaintextForbidden(nats.errors.Error):
    """A server that offers no TLS, where we say nothing without."""


class Connection(Client):
    """The driver's client, which says nothing in clear where TLS is wanted: whoever is in between could take it away."""

    is_encrypted = False

    def _connect_command(self) -> bytes:
        # The first that is said. The driver goes over to TLS before it, where the server asks for that.
        if self.is_encrypted and not self._server_info.get("tls_required"):
            raise PlaintextForbidden
        return super()._connect_command()


class AsyncErrors:
    """What the driver complains of: each reason once, until there is a connection again.

    `denied` is asked first: whether it is the answer to a question that somebody waits for.
    """

    def __init__(self, settings: StreamSettings, denied: Callable[[str], bool]) -> None:
        self._settings = settings
        self._denied = denied
        self._is_open = False
        self.is_trying = True
        self._refusals = 0
        self.said: list[str] = []
        self.refused: str | None = None
        """Why no waiting mends it."""

    async def noted(self, error: Exception) -> None:
        """The driver's `error_cb`."""
        text = str(error) or type(error).__name__
        if self._denied(text):
            return
        advice = explain_failure(error, self._settings)
        if advice is not None:
            self.refused = advice
            self._refusals += 1
            if self._refusals >= len(self._settings.servers) and self.is_trying:
                raise OSError(advice)  # out of `connect`, where the driver would try again
        reason = advice or text
        if reason not in self.said:
            self.said.append(reason)
            if self._is_open:
                _log.warning("NATS", reason=reason)

    def connected(self) -> None:
        """There is a connection; from now on what is heard is logged."""
        self._is_open, self.is_trying = True, False
        self.said.clear()


async def connect(client: Connection, settings: StreamSettings, heard: AsyncErrors, **callbacks: Any) -> None:
    """Connect. Raises `OSError` that says why not, `nats.errors.Error`, `ValueError`."""
    logging.getLogger("asyncio").addFilter(_without_eof)
    options = _options(settings)
    client.is_encrypted = settings.is_encrypted
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await client.connect(
                list(settings.servers), name=f"tracker {settings.node}", error_cb=heard.noted, max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_SECONDS, connect_timeout=2, ping_interval=2, max_outstanding_pings=2,
                pending_size=PENDING_BYTES, **callbacks, **options,
            )  # fmt: skip
    except TimeoutError:
        await _let_go(client, heard)
        raise OSError(heard.refused or "; ".join(heard.said) or "nobody answers") from None
    except nkeys.NkeysError as error:
        raise OSError(f"the seed of jetstream.nkey_seed_file: {error}") from None
    except BaseException:
        await _let_go(client, heard)
        raise
    heard.connected()


async def _let_go(client: Connection, heard: AsyncErrors) -> None:
    """Close what is half open. After a handshake that failed the driver would wait for its end for ever."""
    heard.is_trying = False
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await client.close()


def explain_failure(error: Exception, settings: StreamSettings) -> str | None:
    """What to change in config.toml; None for what may mend by itself."""
    text = str(error).lower()
    if isinstance(error, PlaintextForbidden):
        return "the server offers no TLS, and nothing is said to it without: tls {} in nats-server.conf, or no jetstream.tls_ca"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _why_not_trusted(error, settings)
    if isinstance(error, ssl.SSLError) and any(each in (error.reason or "") for each in STRANGERS):
        if settings.tls_cert is None:
            return "the server wants a certificate of this node: name it as jetstream.tls_cert, and jetstream.tls_key"
        return f"the server does not take the certificate of jetstream.tls_cert ({error.reason})"
    if any(each in text for each in LOCKED_OUT):
        if not settings.identity:
            return "the server asks who we are: write jetstream.user and password_file, or another way to say it"
        return f"the server does not let us in: check {settings.identity}"
    return None


def _why_not_trusted(error: ssl.SSLCertVerificationError, settings: StreamSettings) -> str:
    found = error.verify_message
    if "not valid for" in found:
        return f"the certificate of the server is for another name ({found.rstrip('.')}): check jetstream.servers"
    if "issuer" in found or "self-signed" in found:
        named = "it names another authority" if settings.tls_ca else "name the authority that signed it"
        return f"the certificate of the server is not trusted ({found}): check jetstream.tls_ca, {named}"
    return f"the certificate of the server is not good ({found}): jetstream.tls_ca"


def _options(settings: StreamSettings) -> dict[str, Any]:
    """How the driver is told who we are. Raises `OSError` naming the key whose file is none."""
    options: dict[str, Any] = {
        "user_credentials": settings.credentials_file and str(settings.credentials_file),
        "nkeys_seed": settings.nkey_seed_file and str(settings.nkey_seed_file),
        "user": settings.user,
        "password": settings.password,
        "token": settings.token,
    }
    if settings.credentials_file is not None and JWT not in settings.credentials_file.read_bytes():
        raise OSError("the file of jetstream.credentials_file holds no credentials of NATS")
    if settings.is_encrypted:
        options["tls"] = _context(settings)
    return {key: value for key, value in options.items() if value is not None}


def _context(settings: StreamSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca)
    except OSError as error:
        raise OSError(f"the file of jetstream.tls_ca holds no certificate ({error.strerror})") from None
    if settings.tls_cert is not None:
        try:
            context.load_cert_chain(settings.tls_cert, settings.tls_key, password=_no_password)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror
            raise OSError(
                f"jetstream.tls_cert and jetstream.tls_key are no certificate and its key ({reason})"
            ) from None
    return context


def _no_password() -> str:
    """Of an encrypted key: it would be asked for on the terminal."""
    return ""


def _without_eof(record: logging.LogRecord) -> bool:
    """What asyncio says of the driver's reader each time a server ends a TLS connection: nothing is to be done."""
    return "eof_received" not in str(record.msg)


def without_secret(server: str) -> str:
    """The address of a server."""
    return server.rpartition("@")[2]

"""Connecting to NATS: authentication, TLS, and what to change in config.toml where the servers refuse us.

Servers are tried again and again, because networks come back. When as many attempts as there are servers failed for a reason
that waiting does not fix (a certificate, a password), connecting fails at once. The error names the key to check, never its
value.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import Any

import nats.errors
import nkeys
import structlog
from nats.aio.client import Client

from tracker.config.jetstream import JetstreamConfig

CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 0.2
RECONNECT_SECONDS: Any = 0.25  # the driver declares int, and sleeps for any number
PENDING_BYTES = 256 * 1024 * 1024
JWT = b"BEGIN NATS USER JWT"
CERTIFICATE_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE", "ACCESS_DENIED")
"""Parts of the TLS alerts with which a server rejects our certificate."""
AUTHENTICATION_ERRORS = ("authorization violation", "authentication expired", "authentication revoked")
"""Texts of the NATS protocol: while connecting, the driver passes them on in a plain `nats.errors.Error`."""

_log = structlog.get_logger("stream")


class PlaintextForbidden(nats.errors.Error):
    """The server offers no TLS, but the configuration requires it."""


class Connection(Client):
    """The driver's client. It sends nothing in plain text where TLS is required, as an attacker could strip TLS."""

    requires_tls = False

    def _connect_command(self) -> bytes:
        # The first bytes sent. The driver switches to TLS before them where the server asks for it.
        if self.requires_tls and not self._server_info.get("tls_required"):
            raise PlaintextForbidden
        return super()._connect_command()


class AsyncErrors:
    """Collects the errors that the driver reports in the background; logs each reason once a connection.

    `denied` is called first: it returns True for an error that answers a pending request.
    """

    def __init__(self, config: JetstreamConfig, denied: Callable[[str], bool]) -> None:
        self._config = config
        self._denied = denied
        self._is_open = False
        self.is_trying = True
        self._refusals = 0
        self.reasons: list[str] = []
        self.refused: str | None = None
        """What to change in config.toml, where waiting does not help."""

    async def report(self, error: Exception) -> None:
        """The driver's `error_cb`."""
        text = str(error) or type(error).__name__
        if self._denied(text):
            return
        advice = explain_failure(error, self._config)
        if advice is not None:
            self.refused = advice
            self._refusals += 1
            if self._refusals >= len(self._config.servers) and self.is_trying:
                raise OSError(advice)  # out of `connect`, where the driver would try again
        reason = advice or text
        if reason not in self.reasons:
            self.reasons.append(reason)
            if self._is_open:
                _log.warning("NATS", reason=reason)

    def connected(self) -> None:
        """There is a connection: from now on errors are logged."""
        self._is_open, self.is_trying = True, False
        self.reasons.clear()


async def connect(client: Connection, config: JetstreamConfig, errors: AsyncErrors, **callbacks: Any) -> None:
    """Connect. Raises `OSError` with the reason, `nats.errors.Error` or `ValueError`."""
    logging.getLogger("asyncio").addFilter(_without_eof)
    options = _options(config)
    client.requires_tls = config.requires_tls
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await client.connect(
                list(config.servers), name=f"tracker {config.node}", error_cb=errors.report, max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_SECONDS, connect_timeout=2, ping_interval=2, max_outstanding_pings=2,
                pending_size=PENDING_BYTES, **callbacks, **options,
            )  # fmt: skip
    except TimeoutError:
        await _close(client, errors)
        raise OSError(errors.refused or "; ".join(errors.reasons) or "no server answers") from None
    except nkeys.NkeysError as error:
        raise OSError(f"the seed of jetstream.nkey_seed_file: {error}") from None
    except BaseException:
        await _close(client, errors)
        raise
    errors.connected()


async def _close(client: Connection, errors: AsyncErrors) -> None:
    """Close a half-open connection. After a failed handshake the driver would wait for its end for ever."""
    errors.is_trying = False
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await client.close()


def explain_failure(error: Exception, config: JetstreamConfig) -> str | None:
    """What to change in config.toml; None for errors that may pass by themselves."""
    text = str(error).lower()
    if isinstance(error, PlaintextForbidden):
        return (
            "the server offers no TLS, but it is required: write tls {} in nats-server.conf, or remove jetstream.tls_ca"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_certificate(error, config)
    if isinstance(error, ssl.SSLError) and any(each in (error.reason or "") for each in CERTIFICATE_ALERTS):
        if config.tls_cert is None:
            return "the server asks for a certificate of this node: set jetstream.tls_cert and jetstream.tls_key"
        return f"the server rejects the certificate of jetstream.tls_cert ({error.reason})"
    if any(each in text for each in AUTHENTICATION_ERRORS):
        if not config.identity_keys:
            return "the server requires authentication: set jetstream.user and password_file, or another way to authenticate"
        return f"the server rejects this node: check {config.identity_keys}"
    return None


def _explain_certificate(error: ssl.SSLCertVerificationError, config: JetstreamConfig) -> str:
    found = error.verify_message
    if "not valid for" in found:
        return f"the certificate of the server is for another name ({found.rstrip('.')}): check jetstream.servers"
    if "issuer" in found or "self-signed" in found:
        advice = "it names another authority" if config.tls_ca else "name the authority that signed it"
        return f"the certificate of the server is not trusted ({found}): check jetstream.tls_ca, {advice}"
    return f"the certificate of the server is not valid ({found}): check jetstream.tls_ca"


def _options(config: JetstreamConfig) -> dict[str, Any]:
    """The driver's options for authentication and TLS. Raises `OSError` naming the key whose file is not what it should be."""
    options: dict[str, Any] = {
        "user_credentials": config.credentials_file and str(config.credentials_file),
        "nkeys_seed": config.nkey_seed_file and str(config.nkey_seed_file),
        "user": config.user,
        "password": config.password,
        "token": config.token,
    }
    if config.credentials_file is not None and JWT not in config.credentials_file.read_bytes():
        raise OSError("the file of jetstream.credentials_file holds no NATS credentials")
    if config.requires_tls:
        options["tls"] = _tls_context(config)
    return {key: value for key, value in options.items() if value is not None}


def _tls_context(config: JetstreamConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.tls_ca)
    except OSError as error:
        raise OSError(f"the file of jetstream.tls_ca holds no certificate ({error.strerror})") from None
    if config.tls_cert is not None:
        try:
            context.load_cert_chain(config.tls_cert, config.tls_key, password=_no_password)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror
            raise OSError(
                f"jetstream.tls_cert and jetstream.tls_key are not a certificate and its key ({reason})"
            ) from None
    return context


def _no_password() -> str:
    """No password for an encrypted key: OpenSSL would ask for it on the terminal."""
    return ""


def _without_eof(record: logging.LogRecord) -> bool:
    """Drop what asyncio logs about the driver's reader each time a server ends a TLS connection: it is harmless."""
    return "eof_received" not in str(record.msg)


def without_credentials(server: str) -> str:
    """The address of a server without user and password."""
    return server.rpartition("@")[2]

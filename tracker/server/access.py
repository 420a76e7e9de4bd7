"""Builds the check of read tokens from `[access]`."""

from __future__ import annotations

from tracker.api.auth import Access, AccessKey
from tracker.config.load import AccessKeyConfig, Config
from tracker.domain import clock


def build_access(config: Config) -> Access:
    """The check of read tokens, with every configured key."""
    keys = [access_key(key) for key in config.access.keys]
    return Access(keys, audience=config.access.audience, issuer=config.access.issuer, now=clock.now)


def access_key(key: AccessKeyConfig) -> AccessKey:
    """One configured key."""
    return AccessKey(
        id=key.id, algorithm=key.algorithm, secret=key.secret, public_key=key.public_key, private_key=key.private_key
    )

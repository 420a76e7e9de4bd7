"""Senders that sign nothing and show a secret in a fixed header.

LIMIT: the header proves that the sender knows the secret, not that the body is unchanged: anybody who reads one request can
forge others. Use TLS and a network allow-list as well.
"""

from __future__ import annotations

from abc import abstractmethod

from tracker.domain.deliveries import Delivery, Verified
from tracker.errors import SignatureMismatch, SignatureMissing
from tracker.sources.contract import SourceSettings
from tracker.sources.webhook_jwt import matching_secret
from tracker.sources.webhook_source import WebhookSource


class SecretHeaderSource(WebhookSource):
    """One deployment; the header `settings.header` must hold one of `settings.secrets`."""

    def __init__(self, settings: SourceSettings) -> None:
        super().__init__(settings)
        self.header = settings.header
        self._secrets = tuple(secret for secret in settings.secrets if secret)

    @property
    @abstractmethod
    def setting(self) -> str:
        """Where the sender's administrator sets the header."""

    @property
    @abstractmethod
    def example(self) -> str:
        """What to set it to, without a secret."""

    def verify(self, delivery: Delivery) -> Verified:
        """See `Source.verify`. The proof holds the index of the secret that matched, never its value."""
        offered = delivery.headers.get(self.header.lower())
        if offered is None:
            raise SignatureMissing(f"the header {self.header} is missing: set {self.setting} to {self.example}")
        key = matching_secret(offered.strip(" \t"), self._secrets)
        if key is None:
            raise SignatureMismatch(
                f"the header {self.header} does not hold a secret of source {self.name}:"
                f" compare {self.setting} with config.toml"
            )
        return self.verified(delivery, {"scheme": "header", "header": self.header, "key": key})

"""The keys that sign, cosign and verify checkpoints, as `[evidence]` and `[jetstream]` name them.

On one machine the node signs. In a cluster one node signs (`jetstream.signs`), the others cosign.
"""

from __future__ import annotations

from tracker.config.load import Config
from tracker.errors import ConfigInvalid
from tracker.evidence.signing_key import create_key, read_cosigners, read_key, read_verifiers
from tracker.log.merkle.cosignature import CosignerKey
from tracker.log.merkle.note import Signer, Verifier
from tracker.log.sqlite.trust import TrustedKeys


def create_signing_key(config: Config) -> Verifier | None:
    """Create this node's key file. None when there is one already; it is left as it is. Raises `ConfigInvalid`."""
    return create_key(config.evidence.key_file, _key_name(config))


def signer(config: Config) -> Signer | None:
    """The key that signs checkpoints; None without a key file, or where another node signs. Raises `ConfigInvalid`."""
    return None if _cosigns(config) else read_key(config.evidence.key_file, config.evidence.origin)


def cosigner(config: Config) -> Signer | None:
    """The key that cosigns another node's checkpoints; None without a key file, or where this node signs.

    Raises `ConfigInvalid`.
    """
    return read_key(config.evidence.key_file, _key_name(config)) if _cosigns(config) else None


def bundle_signer(config: Config) -> Signer | None:
    """This node's own key, which signs the bundles it makes; None without a readable one."""
    try:
        return signer(config) or cosigner(config)
    except ConfigInvalid:
        return None


def bundle_keys(config: Config) -> list[Verifier]:
    """The public keys of checkpoints in a bundle: all that can be read. Raises `ConfigInvalid` for `former_keys`."""
    try:
        return verifiers(config)
    except ConfigInvalid:
        return former_verifiers(config)


def cosigner_keys(config: Config) -> list[CosignerKey]:
    """The public keys of the cosigning nodes, including this one. Raises `ConfigInvalid`."""
    own = cosigner(config)
    return [*read_cosigners(config.evidence.cosigner_keys), *([] if own is None else [CosignerKey.from_signer(own)])]


def public_key(config: Config) -> str | None:
    """The verifier key that belongs to this node's own key; None without a key. Raises `ConfigInvalid`."""
    signing, cosigning = signer(config), cosigner(config)
    if signing is not None:
        return str(signing.verifier)
    return None if cosigning is None else str(CosignerKey.from_signer(cosigning))


def verifiers(config: Config) -> list[Verifier]:
    """Every public key that may have signed a checkpoint of this log: the present one first. Raises `ConfigInvalid`."""
    present = signer(config)
    former = former_verifiers(config)
    return former if present is None else [present.verifier, *former]


def former_verifiers(config: Config) -> list[Verifier]:
    """The public keys under `evidence.former_keys`. Raises `ConfigInvalid`."""
    return read_verifiers(config.evidence.former_keys)


def trusted_keys(config: Config) -> TrustedKeys:
    """All configured public keys of signers and cosigners. Raises `ConfigInvalid`."""
    return TrustedKeys(verifiers(config), cosigner_keys(config))


def _cosigns(config: Config) -> bool:
    return config.log.engine == "jetstream" and not config.jetstream.signs


def _key_name(config: Config) -> str:
    return f"{config.evidence.origin}/{config.jetstream.node}" if _cosigns(config) else config.evidence.origin

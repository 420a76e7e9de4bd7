"""A node can authenticate with a token, the seed of an NKey, a credentials file of `nsc`, or user and password."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import nkeys
import pytest

from tests.contracts.log_contract import delivery
from tests.support.server import READ_KEY, SECRETS
from tests.support.nats_tls import TlsServer
from tracker.server import stores
from tracker.config.load import load
from tracker.demo.show import config_text

NKEYS: Any = nkeys  # the package has no types
TOKEN = "a-token-of-this-test"
LIMITS = (
    "subs",
    "data",
    "payload",
    "imports",
    "exports",
    "conn",
    "leaf",
    "mem_storage",
    "disk_storage",
    "streams",
    "consumer",
)


class Key:
    """An NKey with its seed; `prefix` is its kind."""

    def __init__(self, prefix: int) -> None:
        self.seed: bytes = NKEYS.encode_seed(os.urandom(32), prefix)
        self._pair = NKEYS.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode()

    def jwt(self, subject: Key, **claims: Any) -> str:
        """A JWT about another key, signed by this one, in the form that NATS reads."""
        parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, {
            "jti": subject.public, "iat": 1, "iss": self.public, "name": "x", "sub": subject.public,
            "nats": {"version": 2} | claims,
        })  # fmt: skip
        signed_part = ".".join(unpadded(json.dumps(each).encode()) for each in parts)
        return f"{signed_part}.{unpadded(self._pair.sign(signed_part.encode()))}"


def unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def by_token(folder: Path) -> tuple[str, str]:
    """The server's configuration, and the lines of the node's configuration."""
    (folder / "token").write_text(f"{TOKEN}\n")
    return f'authorization {{ token: "{TOKEN}" }}', 'token_file = "token"'


def by_seed(folder: Path) -> tuple[str, str]:
    user = Key(nkeys.PREFIX_BYTE_USER)
    (folder / "seed").write_bytes(user.seed + b"\n")
    return f"authorization {{ users: [ {{ nkey: {user.public} }} ] }}", 'nkey_seed_file = "seed"'


def by_credentials(folder: Path) -> tuple[str, str]:
    operator, user = Key(nkeys.PREFIX_BYTE_OPERATOR), Key(nkeys.PREFIX_BYTE_USER)
    account, system = Key(nkeys.PREFIX_BYTE_ACCOUNT), Key(nkeys.PREFIX_BYTE_ACCOUNT)
    (folder / "node.creds").write_text(
        f"-----BEGIN NATS USER JWT-----\n{account.jwt(user, type='user', subs=-1, data=-1, payload=-1)}\n"
        "------END NATS USER JWT------\n\n************************* IMPORTANT *************************\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    account_jwt = operator.jwt(account, type="account", limits=dict.fromkeys(LIMITS, -1) | {"wildcards": True})
    # Without limits the account would have no JetStream.
    preloaded = f"{account.public}: {account_jwt}\n{system.public}: {operator.jwt(system, type='account')}"
    return (
        f"operator: {operator.jwt(operator, type='operator')}\nsystem_account: {system.public}\n"
        f"resolver: MEMORY\nresolver_preload {{\n{preloaded}\n}}",
        'credentials_file = "node.creds"',
    )


def by_password(folder: Path) -> tuple[str, str]:
    (folder / "password").write_text("/#?@:%$\n")
    return 'authorization { user: "a b", password: "/#?@:%$" }', 'user = "a b"\npassword_file = "password"'


@pytest.mark.parametrize("way", [by_token, by_seed, by_credentials, by_password])
async def test_a_node_connects_with(way: Any, tmp_path: Path) -> None:
    server, ours = way(tmp_path)
    async with TlsServer(tmp_path / "nats", f"max_payload: 8MB\n{server}") as nats:
        config = tmp_path / "config.toml"
        config.write_text(
            config_text(tmp_path, SECRETS, READ_KEY, 0).replace('"sqlite"', '"jetstream"')
            + f'[jetstream]\nservers = ["nats://{nats.url}"]\nreplicas = 1\nnode = "a"\n{ours}\n'
        )
        loaded = load(config, {})
        await stores.create_log(loaded)
        async with stores.appending_log(loaded) as log:
            assert (await log.append(delivery("1"))).position == 1

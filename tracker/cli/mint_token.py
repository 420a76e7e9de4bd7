"""`tracker token`: mints a read token and prints it alone."""

from __future__ import annotations

import argparse

from tracker.api.auth import SCOPES, mint_token
from tracker.cli.arguments import Subparsers, add_command
from tracker.cli.output import print_line
from tracker.config.load import Config
from tracker.config.values import micros
from tracker.domain import clock
from tracker.errors import ConfigInvalid


def add_to(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(subparsers, "token", run, "Mint a token for reading and print it alone.")
    parser.add_argument(
        "--scope",
        action="append",
        default=[],
        required=True,
        help="read:sessions, read:records or admin; may be repeated",
    )
    parser.add_argument(
        "--source", action="append", default=[], metavar="NAME", help="only this source; may be repeated"
    )
    parser.add_argument("--expires", default="1d", help="like 90s, 12h or 30d; default 1d")
    parser.add_argument("--subject", default="tracker", help="who the token is for (claim `sub`)")
    parser.add_argument("--key", metavar="ID", help="the key of [access] that signs; default: the first that can")


def run(arguments: argparse.Namespace) -> int:
    """Mint the token. Raises `ConfigInvalid` for an unknown scope, source or key."""
    config: Config = arguments.config
    scopes = [scope for option in arguments.scope for scope in option.split()]
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown:
        raise ConfigInvalid(f"--scope: {unknown[0]!r} is unknown; known are {', '.join(SCOPES)}")
    for name in arguments.source:
        config.source(name)
    keys = [key for key in config.access.keys if arguments.key in {None, key.id}]
    if not keys:
        wanted = "key" if arguments.key is None else f"key with id {arguments.key!r}"
        raise ConfigInvalid(
            f"access.keys: there is no {wanted}: add one to {config.path}, see docs/reference/configuration.md"
        )
    # RS256 and EdDSA keys may be public keys only.
    signing = next((key for key in keys if key.secret or key.private_key), keys[0])
    print_line(
        mint_token(
            signing,
            scopes=scopes,
            sources=arguments.source or None,
            expires_s=max(1, micros(arguments.expires, "--expires") // 1_000_000),
            now=clock.now(),
            subject=arguments.subject,
            audience=config.access.audience,
            issuer=config.access.issuer,
        )
    )
    return 0

"""A cluster of three NATS servers with deploy/nats/compose.conf; only addresses and the store are replaced."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.support.paths import DEPLOY
from tests.support.cluster import Cluster

PASSWORDS = {user: f"{user}-password-of-this-test" for user in ("maker", "tracker", "operator")}


class DeployedCluster(Cluster):
    """A `Cluster` with the shipped configuration, with the users `maker`, `tracker` and `operator` and their `PASSWORDS`."""

    def write_config(self, number: int, home: Path) -> Path:
        client, monitor, route = self._ports[number]
        text = (DEPLOY / "nats" / "compose.conf").read_text("utf-8")
        (routes,) = re.findall(r"routes: \[.*\]", text)
        for written, here in (
            ("port: 4222", f'listen: "127.0.0.1:{client}"'),
            ('http: "0.0.0.0:8222"', f'http: "127.0.0.1:{monitor}"'),
            ("store_dir: /data", f'store_dir: "{self.store(number)}"'),
            ("port: 6222", f'listen: "127.0.0.1:{route}"'),
            (str(routes), f"routes: [{self.routes()}]"),
        ):
            assert text.count(written) == 1, written
            text = text.replace(written, here)
        path = home / "compose.conf"
        path.write_text(text, "utf-8")
        shutil.copy(DEPLOY / "nats" / "accounts.conf", home)
        (home / "passwords.conf").write_text(passwords(), "utf-8")
        return path


def passwords() -> str:
    """The text of passwords.conf: the example with its placeholders replaced."""
    text = (DEPLOY / "nats" / "passwords.example.conf").read_text("utf-8")
    for user, password in PASSWORDS.items():
        assert f'{user.upper()}_PASSWORD: "replace-me-{user}"' in text
        text = text.replace(f"replace-me-{user}", password)
    return text

"""Not being let in is told in one line that names the key of config.toml to look at, and never a secret."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.server import READ_KEY, SECRETS, Running
from tests.support.nats_tls import ACCOUNTS, PASSWORD, Authority, TlsServer, tls
from tracker.demo.show import config_text
from tracker.errors import LogUnavailable
from tracker.log.jetstream.log import JetstreamLog
from tracker.log.jetstream.validation import join_stream
from tracker.config.jetstream import JetstreamConfig
from tracker.log.jetstream.stream import Stream
from tracker.log.sqlite.replica import Replica

WRONG = "a-password-that-nobody-may-see"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    ours, others = Authority(folder, "ca"), Authority(folder, "other")
    ours.issue("server", "IP:127.0.0.1")
    ours.issue("elsewhere", "DNS:elsewhere.example")
    ours.issue("client", "DNS:node-a")
    others.issue("stranger", "DNS:node-a")
    (folder / "nothing").write_text("nothing")
    return folder


def settings(server: TlsServer, certificates: Path, **changed: Any) -> JetstreamConfig:
    """Good ones, with these changed; a text for a file is its name."""
    given: dict[str, Any] = {"user": "node", "password": PASSWORD, "tls_ca": "ca.pem", "scheme": "tls"} | changed
    for key in ("tls_ca", "tls_cert", "tls_key", "credentials_file"):
        if given.get(key):
            given[key] = certificates / given[key]
    return JetstreamConfig(
        servers=(f"{given.pop('scheme')}://{server.url}",), stream="s", node="a", replicas=1, **given
    )


async def told(server: TlsServer, certificates: Path, **changed: Any) -> str:
    """What an operator reads, within a moment."""
    began = time.monotonic()
    with pytest.raises(LogUnavailable) as raised:
        stream = await Stream.open(settings(server, certificates, **changed))
        try:
            await stream.create("x")
        finally:
            await stream.close()
    said = str(raised.value)
    assert time.monotonic() - began < 5
    assert WRONG not in said
    assert PASSWORD not in said
    assert "\n" not in said
    return said


NOBODY: dict[str, Any] = {"user": None, "password": None}


async def test_whoever_is_not_let_in_is_told_where_to_look(certificates: Path, tmp_path: Path) -> None:
    async with TlsServer(tmp_path / "nats", tls(certificates) + ACCOUNTS) as server:
        for changed, words in (
            ({"tls_ca": "other.pem"}, "check jetstream.tls_ca, it names another authority"),
            ({"tls_ca": None}, "check jetstream.tls_ca, name the authority that signed it"),
            ({"tls_ca": None, "scheme": "nats"}, "check jetstream.tls_ca, name the authority that signed it"),
            ({"tls_ca": "nothing"}, "the file of jetstream.tls_ca holds no certificate"),
            ({"tls_cert": "client.pem", "tls_key": "stranger-key.pem"}, "jetstream.tls_cert and jetstream.tls_key are no"),
            ({"password": WRONG}, "check jetstream.user, password_file"),
            ({**NOBODY, "token": WRONG}, "check jetstream.token_file"),
            ({**NOBODY, "credentials_file": "nothing"}, "the file of jetstream.credentials_file holds no NATS credentials"),
            (NOBODY, "the server requires authentication: set jetstream.user"),
            ({"user": "outside"}, "the account of this node has no JetStream: use another jetstream.user"),
            ({"user": "mute"}, "(jetstream.user, password_file (or password_env)) may not publish to $JS.API.STREAM.CREATE.s"),
        ):  # fmt: skip
            assert words in await told(server, certificates, **changed), changed
        await (await Stream.open(settings(server, certificates))).close()


async def test_whoever_may_not_hear_the_answers_is_told_so(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker.log.jetstream.stream.REQUEST_SECONDS", 1.0)
    async with TlsServer(tmp_path / "nats", tls(certificates) + ACCOUNTS) as server:
        assert "may not subscribe to _inbox" in await told(server, certificates, user="deaf")


async def test_a_node_that_may_not_read_the_stream_says_once_which_right_it_lacks(
    certificates: Path, tmp_path: Path
) -> None:
    async with TlsServer(tmp_path / "nats", tls(certificates) + ACCOUNTS) as server:
        for user, right in (("readerless", "CREATE"), ("unread", "MSG.NEXT")):
            chosen = settings(server, certificates, user=user)
            path = tmp_path / f"{user}.db"
            await Replica.init(path, log_id=await join_stream(chosen, "x"), stream="s")
            with capture_logs() as logged:
                log = await JetstreamLog.open(path, chosen)
                for _ in range(60):  # within seconds, on a busy machine later; and then never again
                    await asyncio.sleep(0.5)
                    if "may not publish" in str(logged):
                        break
                await asyncio.sleep(3)
                with pytest.raises(
                    LogUnavailable, match=rf"may not publish to .JS.API.CONSUMER.{right}.s.\*: give it its rights"
                ):
                    await log.check_writable()
                await log.close()
            assert str(logged).count("may not publish") == 1, logged
            assert "permissions violation" not in str(logged)


async def test_a_server_that_asks_for_certificates_wants_one_of_its_authority(
    certificates: Path, tmp_path: Path
) -> None:
    async with TlsServer(tmp_path / "nats", tls(certificates, asks=True) + ACCOUNTS) as server:
        assert (
            "the server asks for a certificate of this node: set jetstream.tls_cert and jetstream.tls_key"
            in await told(server, certificates)
        )
        strange = await told(server, certificates, tls_cert="stranger.pem", tls_key="stranger-key.pem")
        assert "the server rejects the certificate of jetstream.tls_cert (TLS" in strange
        ours = settings(server, certificates, tls_cert="client.pem", tls_key="client-key.pem")
        await (await Stream.open(ours)).close()


async def test_a_server_with_another_name_is_not_believed(certificates: Path, tmp_path: Path) -> None:
    async with TlsServer(tmp_path / "nats", tls(certificates, certificate="elsewhere") + ACCOUNTS) as server:
        assert "is for another name" in await told(server, certificates)


@pytest.mark.parametrize("changed", [{}, {"scheme": "nats"}, {"tls_ca": None}])
async def test_nothing_is_said_in_clear_to_a_server_that_offers_no_tls_where_tls_is_wanted(
    certificates: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    async with TlsServer(tmp_path / "nats", ACCOUNTS) as server:
        assert "the server offers no TLS" in await told(server, certificates, **changed)
        await (await Stream.open(settings(server, certificates, scheme="nats", tls_ca=None))).close()


async def test_the_commands_say_it_in_one_line(certificates: Path, tmp_path: Path) -> None:
    async with TlsServer(tmp_path / "nats", tls(certificates) + ACCOUNTS) as server:
        secret = tmp_path / "password"
        secret.write_text(WRONG)
        table = [
            "[jetstream]", f'servers = ["tls://{server.url}"]', "replicas = 1", 'user = "node"', 'stream = "s"',
            f'password_file = "{secret}"', f'tls_ca = "{certificates}/ca.pem"', "",
        ]  # fmt: skip
        single = config_text(tmp_path, SECRETS, READ_KEY, 0)
        running = Running(tmp_path, config=single.replace('"sqlite"', '"jetstream"') + "\n".join(table))
        secret.write_text(PASSWORD)
        assert (await running.run("init"))[0] == 0
        secret.write_text(WRONG)
        fresh, one = tmp_path / "fresh", tmp_path / "one"
        fresh.mkdir()
        one.mkdir()
        alone = Running(one)
        assert (await alone.run("init"))[0] == 0
        other = Running(
            fresh, config=running.config.read_text().replace(str(tmp_path / "log.db"), str(fresh / "log.db"))
        )
        for command in (other.run("init"), running.run("serve"), running.run("copy", "--to", str(alone.config))):
            code, _, stderr = await command
            assert code == 1, stderr
            last = [line for line in stderr.splitlines() if line]
            assert len(last) == 1, stderr
            assert "the server rejects this node: check jetstream.user, password_file" in last[0]
            assert WRONG not in stderr

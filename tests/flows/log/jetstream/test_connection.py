"""A failed connection is reported in one line that names the key of config.toml to check, and never a secret."""

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
    """Valid settings with these changes; files are given by name."""
    options: dict[str, Any] = {"user": "node", "password": PASSWORD, "tls_ca": "ca.pem", "scheme": "tls"} | changed
    for key in ("tls_ca", "tls_cert", "tls_key", "credentials_file"):
        if options.get(key):
            options[key] = certificates / options[key]
    return JetstreamConfig(
        servers=(f"{options.pop('scheme')}://{server.url}",), stream="s", node="a", replicas=1, **options
    )


async def error_of(server: TlsServer, certificates: Path, **changed: Any) -> str:
    """The error message of a connection attempt: one line without secrets, within seconds."""
    began = time.monotonic()
    with pytest.raises(LogUnavailable) as raised:
        stream = await Stream.open(settings(server, certificates, **changed))
        try:
            await stream.create("x")
        finally:
            await stream.close()
    message = str(raised.value)
    assert time.monotonic() - began < 5
    assert WRONG not in message
    assert PASSWORD not in message
    assert "\n" not in message
    return message


NOBODY: dict[str, Any] = {"user": None, "password": None}


async def test_a_refused_connection_names_the_setting_to_check(certificates: Path, tmp_path: Path) -> None:
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
            assert words in await error_of(server, certificates, **changed), changed
        await (await Stream.open(settings(server, certificates))).close()


async def test_a_user_that_may_not_subscribe_to_answers_gets_an_error(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker.log.jetstream.stream.REQUEST_SECONDS", 1.0)
    async with TlsServer(tmp_path / "nats", tls(certificates) + ACCOUNTS) as server:
        assert "may not subscribe to _inbox" in await error_of(server, certificates, user="deaf")


async def test_a_node_that_may_not_read_the_stream_logs_the_missing_right_once(
    certificates: Path, tmp_path: Path
) -> None:
    async with TlsServer(tmp_path / "nats", tls(certificates) + ACCOUNTS) as server:
        for user, right in (("readerless", "CREATE"), ("unread", "MSG.NEXT")):
            chosen = settings(server, certificates, user=user)
            path = tmp_path / f"{user}.db"
            await Replica.init(path, log_id=await join_stream(chosen, "x"), stream="s")
            with capture_logs() as logged:
                log = await JetstreamLog.open(path, chosen)
                for _ in range(60):  # usually within seconds; later on a busy machine
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


async def test_a_server_that_requires_certificates_refuses_those_of_another_authority(
    certificates: Path, tmp_path: Path
) -> None:
    async with TlsServer(tmp_path / "nats", tls(certificates, asks=True) + ACCOUNTS) as server:
        assert (
            "the server asks for a certificate of this node: set jetstream.tls_cert and jetstream.tls_key"
            in await error_of(server, certificates)
        )
        strange = await error_of(server, certificates, tls_cert="stranger.pem", tls_key="stranger-key.pem")
        assert "the server rejects the certificate of jetstream.tls_cert (TLS" in strange
        ours = settings(server, certificates, tls_cert="client.pem", tls_key="client-key.pem")
        await (await Stream.open(ours)).close()


async def test_a_server_with_a_certificate_for_another_name_is_refused(certificates: Path, tmp_path: Path) -> None:
    async with TlsServer(tmp_path / "nats", tls(certificates, certificate="elsewhere") + ACCOUNTS) as server:
        assert "is for another name" in await error_of(server, certificates)


@pytest.mark.parametrize("changed", [{}, {"scheme": "nats"}, {"tls_ca": None}])
async def test_a_server_without_tls_gets_no_clear_text_when_tls_is_required(
    certificates: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    async with TlsServer(tmp_path / "nats", ACCOUNTS) as server:
        assert "the server offers no TLS" in await error_of(server, certificates, **changed)
        await (await Stream.open(settings(server, certificates, scheme="nats", tls_ca=None))).close()


async def test_commands_report_a_refused_connection_in_one_line(certificates: Path, tmp_path: Path) -> None:
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

"""The pages over real HTTP, without a browser: status, headers, escaping, and what each token may see."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
import pytest
import pytest_asyncio

from tests.support.server import READ_KEY, SECRETS, TOKEN, Running, now
from tracker.api.auth import AccessKey, mint_token
from tracker.demo.calls import VENDORS, SampleDelivery, whole_call
from tracker.demo.show import config_text

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = AccessKey("demo", "HS256", READ_KEY)
EVIL = "<script>alert('x')</script>\"&"
PATHS = (
    "/",
    "/?part=live",
    "/rooms",
    "/people",
    "/recordings",
    "/supervisors",
    "/statistics",
    "/sources",
    "/log",
    "/log/1",
)


def token(*scopes: str, sources: list[str] | None = None) -> str:
    return mint_token(KEY, scopes=scopes or ("read:sessions",), sources=sources, expires_s=600, now=now())


class Seen(HTMLParser):
    """The parsed page: its links, fields, ids, headings and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self.labelled: set[str] = set()
        self.fields: list[str] = []
        self._within: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag not in {"input", "meta", "link", "img", "br", "path", "rect"}:
            self._within.append(tag)
        if tag == "script" and "src" not in known:
            self.inline.append("script")
        if tag == "style" or any(name == "style" or name.startswith("on") for name in known):
            self.inline.append(f"{tag} {known}")
        self.addresses += [value for name in ("src", "href", "action") if (value := known.get(name))]
        if known.get("id"):
            self.ids.append(known["id"] or "")
        if tag == "label" and known.get("for"):
            self.labelled.add(known["for"] or "")
        if tag in {"input", "select", "textarea"} and known.get("type") not in {"hidden", "checkbox"}:
            self.fields.append(known.get("id") or "?")
        if tag in {"h1", "h2"}:
            self.headings.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._within:
            while self._within.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        self.words += data


class Reader:
    """A client with a cookie that runs no scripts."""

    def __init__(self, url: str, cookie: str | None) -> None:
        self.url = url
        cookies = {} if cookie is None else {"tracker_session": cookie}
        self.web = aiohttp.ClientSession(cookies=cookies, cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def __aenter__(self) -> Reader:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.web.close()

    async def get(self, path: str, status: int = 200) -> str:
        async with self.web.get(self.url + path, allow_redirects=False) as answer:
            assert answer.status == status, (path, answer.status, await answer.text())
            return await answer.text()

    async def see(self, path: str, status: int = 200) -> Seen:
        return Seen(await self.get(path, status))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A server with two calls of every vendor; in one of them, names are markup."""
    folder = tmp_path_factory.mktemp("pages")
    running = await Running(folder).start(init=True)
    async with aiohttp.ClientSession() as web:
        position = 0
        for vendor in VENDORS:
            for seed, hours in ((0, 30), (1, 3)):
                for sent in whole_call(vendor, now() - hours * 3_600_000_000, seed=seed):
                    body = sent.body
                    if seed == 1:
                        # Replace Bob's and Alice's names by markup.
                        escaped = EVIL.replace('"', '\\"').encode()
                        body = body.replace(b'"Bob"', b'"' + escaped + b'"').replace(b'"Alice"', b'"' + escaped + b'"')
                    status, reply = await running.post(
                        web, vendor, SampleDelivery(sent.event, body, sent.at, sent.query)
                    )
                    assert status == 200, reply
                    position = max(position, reply["position"])
        for sent in list(whole_call("livekit", now() - 60_000_000, seed=2))[:4]:
            position = (await running.post(web, "livekit", sent))[1]["position"]
        async with web.post(f"{running.url}/hooks/ov", data=b"{}", headers={"Authorization": "wrong"}) as answer:
            assert answer.status == 401
        async with web.post(f"{running.url}/hooks/nobody", data=b"{}") as answer:
            assert answer.status == 404
        await running.get(web, "/v1/sessions", at_least=str(position))
    yield running
    await running.stop()


@pytest.mark.parametrize("path", PATHS)
async def test_every_page_answers_with_its_headers_and_without_inline_script(filled: Running, path: str) -> None:
    async with Reader(filled.url, TOKEN) as reader, reader.web.get(filled.url + path) as answer:
        text = await answer.text()
        assert (answer.status, answer.content_type) == (200, "text/html"), text
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
    seen = Seen(text)
    assert not seen.inline
    assert not [each for each in seen.addresses if each.startswith(("http:", "//", "javascript:", "data:"))]
    assert set(seen.fields) <= seen.labelled
    assert len(seen.ids) == len(set(seen.ids))
    if "part" not in path:
        assert seen.headings[0] == "h1"
        assert seen.headings.count("h1") == 1


async def test_every_link_of_every_page_works(filled: Running) -> None:
    async with Reader(filled.url, TOKEN) as reader:
        found: set[str] = set()
        for path in PATHS:
            found |= {each for each in (await reader.see(path)).addresses if each.startswith("/")}
        pages = sorted(each for each in found if not each.startswith(("/sign-out", "/v1/")))
        assert len(pages) > 40
        for each in pages:
            await reader.get(each)


async def test_names_that_look_like_markup_are_escaped(filled: Running) -> None:
    async with Reader(filled.url, TOKEN) as reader:
        shown = 0
        for path in (
            *PATHS,
            f"/people?identity={quote(EVIL)}",
            f"/?q={quote(EVIL)}",
            f"/supervisors?client={quote(EVIL)}",
        ):
            text = await reader.get(path)
            assert "<script>alert" not in text
            assert 'value="<' not in text
            shown += EVIL in Seen(text).words
        assert shown >= 2
        for path in (f"/rooms/lk/{quote(EVIL, safe='')}", f"/sessions/{quote(EVIL, safe='')}"):
            assert "<script>alert" not in await reader.get(path, 404)
        assert "<script>alert" not in await reader.get(f"/?state={quote(EVIL)}", 400)


async def test_the_list_shows_state_people_and_the_state_of_meet_rooms(filled: Running) -> None:
    async with Reader(filled.url, TOKEN) as reader:
        text = await reader.get("/")
        assert text.count("<tr data-id=") == 2 * len(VENDORS) + 1
        words = Seen(text).words
        assert "Open now" in words
        assert re.search(r"People now\s*[1-9]", words)
        assert re.search(r"Refused\s*2", words)
        meet = await reader.get("/?source=meet")
        assert ">OPEN<" in meet or ">CLOSED<" in meet
        assert ">ACTIVE<" not in meet


async def test_filters_are_in_the_url_and_in_the_form(filled: Running) -> None:
    async with Reader(filled.url, TOKEN) as reader:

        async def ids(query: str) -> list[str]:
            return re.findall(r'<tr data-id="([^"]+)"', await reader.get(f"/?{query}"))

        assert {each.partition(":")[0] for each in await ids("source=lk")} == {"lk"}
        assert len(await ids("state=open")) == 1
        assert len(await ids("state=ended&source=ov")) == 2
        assert await ids("has=supervisor") == await ids("has=supervisor&has=recording") != []
        assert all(each.startswith("rec:") for each in await ids("has=supervisor"))
        assert await ids("min_duration_ms=3600000") == []
        everything = "q=&state=&source=&room=&identity=&from=&to=&min_duration_ms="
        assert len(await ids(everything)) == 2 * len(VENDORS) + 1, "empty fields, as a form sends them, are ignored"
        one = (await ids("source=rec"))[0]
        assert await ids(f"q={quote(one.partition(':')[2])}") == [one]
        form = await reader.get("/?q=x%22y&state=ended&from=2020-01-01&has=anomaly&min_duration_ms=1234")
        assert 'value="x&#34;y"' in form
        assert "<option selected>ended</option>" in form
        assert 'type="date" value="2020-01-01"' in form
        assert 'value="anomaly" checked' in form
        assert '<option value="1234" selected>' in form
        for bad in ("colour=red", "limit=0", "state=asleep", "cursor=x", "from=soon"):
            assert bad.partition("=")[0] in (await reader.see(f"/?{bad}", 400)).words


@pytest.mark.parametrize("path", ["/", "/people", "/rooms", "/recordings"])
async def test_without_scripts_paging_shows_the_whole_list(filled: Running, path: str) -> None:
    async with Reader(filled.url, TOKEN) as reader:
        rows = re.compile(r"<tr[^>]*>(?:(?!</tr>).)*</tr>", re.DOTALL)

        def rows_of(text: str) -> list[str]:
            body = text.partition("<tbody>")[2].partition("</tbody>")[0]
            ticking = re.compile(r'(data-since="[^"]*">)[^<]*')
            return [ticking.sub(r"\1", each) for each in rows.findall(body)]

        whole = rows_of(await reader.get(f"{path}?limit=1000"))
        paged: list[str] = []
        at = f"{path}?limit=3"
        while at:
            text = await reader.get(at)
            paged += rows_of(text)
            found = re.search(r'<a class="button" rel="next" href="([^"]+)"', text)
            at = found[1].replace("&amp;", "&") if found else ""
        assert paged == whole
        assert len(whole) > 3


async def test_a_narrowed_token_sees_its_sources_on_every_page(filled: Running) -> None:
    others = [name for name in ("lk", "meet", "pnm", "rec")]
    async with Reader(filled.url, token("read:sessions", "read:records", sources=["ov"])) as reader:
        for path in (*PATHS[:-1], "/people?identity=Alice", "/log?after=0"):
            text = await reader.get(path)
            for name in others:
                assert f">{name}<" not in text, (path, name)
                assert f"{name}:" not in unquote(" ".join(Seen(text).addresses)), (path, name)
        assert "nobody" not in (await reader.see("/sources")).words
        assert "To no source" not in (await reader.see("/sources")).words
        await reader.get("/rooms/lk/daily-standup", 404)
        for position in range(1, 120, 10):
            async with reader.web.get(f"{filled.url}/log/{position}") as answer:
                assert answer.status in {200, 404}
                assert answer.status == 404 or "ov (openvidu)" in await answer.text()


async def test_bodies_are_shown_only_with_the_scope_read_records(filled: Running) -> None:
    async with Reader(filled.url, token("read:sessions")) as reader:
        words = (await reader.see("/log/1")).words
        assert "Proof" not in words
        assert "read:records" in words
        assert "sessionId" not in words
        assert "read:records" in (await reader.see("/log")).words
    async with Reader(filled.url, TOKEN) as reader:
        assert "sessionId" in (await reader.see("/log/1")).words
        assert "sessionId" in (await reader.see("/log/1?form=raw")).words
        await reader.get("/log/999999", 404)
        await reader.get("/log/one", 404)
    async with Reader(filled.url, token("read:records")) as reader:
        assert "read:sessions" in (await reader.see("/", 403)).words


async def test_the_sources_page_says_what_to_change(filled: Running) -> None:
    async with Reader(filled.url, TOKEN) as reader:
        words = (await reader.see("/sources")).words
        assert "signature_mismatch" in words
        assert "compare the secrets" in words
        assert "source_unknown" in words


async def test_a_supervisors_recording_is_also_in_the_list_of_recordings(filled: Running) -> None:
    async with Reader(filled.url, TOKEN) as reader:
        text = await reader.get("/supervisors?client=supervisor-7")
        assert "supervisor-7" in text
        recorded = re.search(r'<td class="wide id"><span class="mono">([^<]+)</span> (\d+) s', text)
        assert recorded
        assert recorded[1] in await reader.get("/recordings?source=rec")


async def test_the_page_of_a_person_counts_every_call(filled: Running) -> None:
    async with Reader(filled.url, TOKEN) as reader, aiohttp.ClientSession() as web:
        people: list[Any] = (await filled.get(web, "/v1/participants", identity="Alice"))["items"]
        words = (await reader.see("/people?identity=Alice")).words
        assert re.search(rf"Sessions\s*{len({each['session_id'] for each in people})}\s*Present in total", words)
        assert sum(each["presence_ms"] for each in people) > 0


async def test_without_a_valid_cookie_pages_redirect_to_sign_in_and_the_api_answers_401(filled: Running) -> None:
    for cookie in (None, "guessed", mint_token(KEY, scopes=["admin"], sources=None, expires_s=-120, now=now())):
        async with Reader(filled.url, cookie) as reader:
            for path, wanted in (("/", "/sign-in"), ("/log?after=3", "/sign-in?next=%2Flog%3Fafter%3D3")):
                async with reader.web.get(filled.url + path, allow_redirects=False) as answer:
                    assert (answer.status, answer.headers["Location"]) == (303, wanted)
            async with reader.web.get(f"{filled.url}/v1/sessions") as answer:
                assert (answer.status, answer.content_type) == (401, "application/problem+json")
            assert "Read token" in (await reader.see("/sign-in")).words


async def test_signing_in_and_out(filled: Running) -> None:
    async with Reader(filled.url, None) as reader:

        async def post(path: str, headers: dict[str, str] | None = None, **form: str) -> aiohttp.ClientResponse:
            return await reader.web.post(filled.url + path, data=form, headers=headers, allow_redirects=False)

        assert (await post("/sign-in", token="guessed")).status == 401
        assert (await post("/sign-in", token="x" * 5000)).status == 400
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
            assert (await post("/sign-in", headers, token=TOKEN)).status == 403
        answer = await post(
            "/sign-in", {"Origin": filled.url, "Sec-Fetch-Site": "same-origin"}, token=TOKEN, next="/rooms?limit=3"
        )
        assert (answer.status, answer.headers["Location"]) == (303, "/rooms?limit=3")
        parts = {part.strip() for part in answer.headers["Set-Cookie"].split(";")}
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= parts
        assert (
            (await post("/sign-in", {"X-Forwarded-Proto": "https"}, token=TOKEN)).headers["Set-Cookie"].count("Secure")
        )
        await post("/sign-in", token=TOKEN)
        await reader.get("/")
        async with reader.web.get(f"{filled.url}/v1/sessions") as by_cookie:
            assert by_cookie.status == 200
        assert (await post("/sign-out", {"Sec-Fetch-Site": "cross-site"})).status == 403
        await reader.get("/")
        async with reader.web.get(f"{filled.url}/sign-out") as wrong:
            assert wrong.status == 405
        assert (await post("/sign-out")).headers["Location"] == "/sign-in"
        await reader.get("/", 303)


@pytest.mark.parametrize(
    "wanted",
    ["//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil", "javascript:alert(1)", "/%0d\n", "evil", "/sign-out",
     "///evil.example", "http:/evil.example", "/open?code=x"],
)  # fmt: skip
async def test_sign_in_never_redirects_to_another_site(filled: Running, wanted: str) -> None:
    async with Reader(filled.url, None) as reader:
        form = {"token": TOKEN, "next": wanted}
        async with reader.web.post(f"{filled.url}/sign-in", data=form, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")


async def test_static_files_have_etags_and_no_other_file_is_served(filled: Running) -> None:
    async with Reader(filled.url, None) as reader:
        for name in ("tracker.css", "tracker.js", "sessions.js", "tracker.svg"):
            async with reader.web.get(f"{filled.url}/static/{name}") as answer:
                assert answer.status == 200
                tag = answer.headers["ETag"]
            async with reader.web.get(f"{filled.url}/static/{name}", headers={"If-None-Match": tag}) as answer:
                assert answer.status == 304
        for name in ("..%2Fapp.py", "nothing.css", "..%2Ftemplates%2Flayout.html", "tracker.css%00"):
            async with reader.web.get(f"{filled.url}/static/{name}") as answer:
                assert answer.status in {400, 404}


async def test_pages_refuse_post(filled: Running) -> None:
    async with Reader(filled.url, TOKEN) as reader:
        for path in PATHS:
            async with reader.web.post(filled.url + path) as answer:
                assert answer.status == 405
            async with reader.web.head(filled.url + path) as answer:
                assert answer.status == 200


async def test_a_one_time_link_opens_the_pages_until_signing_out(tmp_path: Path) -> None:
    text = config_text(tmp_path, SECRETS, "x" * 32, 0)
    keyless = "\n".join(line for line in text.splitlines() if line != "[access]" and not line.startswith("keys = [{"))
    running = await Running(tmp_path, config=keyless).start(init=True)
    try:
        link = next(word for word in running.printed.read_text().split() if "/open?code=" in word)
        async with Reader(running.url, None) as reader:
            assert "link" in (await reader.see("/sign-in")).words
            async with reader.web.get(link) as answer:
                assert (answer.status, answer.url.path) == (200, "/")
            words = (await reader.see("/sources")).words
            assert words.count("no delivery yet") == len(VENDORS)
            assert "No delivery has arrived yet." in words
            for path in ("/rooms", "/people", "/recordings", "/supervisors", "/statistics", "/log", "/"):
                await reader.get(path)
            stolen = next(iter(reader.web.cookie_jar)).value
            async with reader.web.post(f"{running.url}/sign-out", allow_redirects=False) as answer:
                assert answer.status == 303
            async with Reader(running.url, stolen) as other:
                await other.get("/", 303)
    finally:
        await running.stop()

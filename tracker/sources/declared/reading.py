"""Reads a declaration from TOML, and names every mistake in it by its line."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterable
from typing import Any, cast, get_args

import msgspec

from tracker.sources.declared import declaration as d
from tracker.sources.declared.declaration import Declaration
from tracker.sources.declared.lines import Lines, Where
from tracker.sources.declared.paths import ARRIVAL, First, Join, Path, PathWrong, parse_path

MAX_BYTES = 100_000
"""A longer declaration is refused: it is recorded in the log as it is."""

_PIECE = re.compile(r"\{([^{}]*)\}")
_DURATION = re.compile(r"([0-9]{1,6})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

_TOP = ("title", "first_steps", "proof", "body", "event", "ids", "reasons", "people", "on", "challenge", "redact")
_PROOF: dict[str, tuple[str, ...]] = {
    "hmac": ("signature", "prefix", "pairs", "message", "hash", "encoding", "key", "time", "time_unit", "tolerance"),
    "digest": ("signature", "prefix", "pairs", "message", "hash", "encoding", "time", "time_unit", "tolerance"),
    "rsa": ("signature", "prefix", "pairs", "message", "hash", "encoding", "time", "time_unit", "tolerance"),
    "jwt": ("token", "prefix", "claim", "hash", "encoding"),
    "standard": ("header_prefix", "tolerance"),
    "header": ("header", "prefix"),
    "url": (),
}
_FACT_WORDS = {"reason", "person"}


class Mistake(msgspec.Struct, frozen=True, order=True):
    """One mistake: its line, which key it is about, and what is wrong and what to write."""

    line: int
    where: str
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.where}: {self.what}" if self.where else f"line {self.line}: {self.what}"


class DeclarationWrong(ValueError):
    """A declaration has mistakes: all of them, in the order of their lines."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = sorted(mistakes)
        super().__init__("\n".join(map(str, self.mistakes)))


def read_declaration(text: str) -> Declaration:
    """The declaration in a TOML text. Raises `DeclarationWrong`."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise DeclarationWrong([Mistake(1, "", f"the file has more than {MAX_BYTES:,} bytes: shorten it")])
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        number = int(line[1]) if line else len(text.splitlines()) or 1
        raise DeclarationWrong([Mistake(number, "", f"this is not TOML: {error}")]) from None
    return _Reader(text).read(fields)


class _Reader:
    """Reads one text, and goes on after a mistake."""

    def __init__(self, text: str) -> None:
        self._lines = Lines(text)
        self._mistakes: list[Mistake] = []
        self._headers: frozenset[str] = frozenset()

    def read(self, fields: dict[str, Any]) -> Declaration:
        self._expect_known(fields, (), _TOP)
        for name in ("proof", "event"):
            if name not in fields:
                self._wrong((name,), f"missing: write a table [{name}]")
        proof = self._proof(self._table(fields, "proof"))
        self._headers = proof.recorded_headers
        body = self._table(fields, "body")
        self._expect_known(body, ("body",), ("format", "unwrap", "each"))
        event = self._table(fields, "event")
        self._expect_known(event, ("event",), ("name", "id", "dedupe", "time", "detail", "notes"))
        ids = self._table(fields, "ids")
        self._expect_known(ids, ("ids",), {*d.TEXTS, *d.PLACES, "person"})
        reasons = self._words(fields, "reasons", d.REASONS)
        people = self._words(fields, "people", d.PEOPLE)
        given_id = self._first(event, ("event", "id"))
        dedupe = self._choice(event, ("event", "dedupe"), get_args(d.Dedupe), "id" if given_id else "body")
        if dedupe == "id" and given_id is None:
            self._wrong(("event", "dedupe"), '"id" needs event.id: say where the id of an event is, or write "body"')
        name = self._first(event, ("event", "name"))
        if name is None and "event" in fields and "name" not in event:
            self._wrong(("event", "name"), 'missing: say where the name of the event is, like name = "type"')
        times = self._times(event, ("event", "time"))
        body_format = self._choice(body, ("body", "format"), get_args(d.Format), "json")
        unwrap = self._text_of(body, ("body", "unwrap"))
        if unwrap and body_format != "form":
            self._wrong(
                ("body", "unwrap"), 'only a form has fields that hold JSON: write format = "form", or remove it'
            )
        each = self._parts(body, ("body", "each"))
        if each is not None and dedupe == "id":
            self._wrong(("event", "dedupe"), 'a body with several events has several ids: write dedupe = "body"')
        detail = self._first(event, ("event", "detail"))
        found = Declaration(
            title=self._text_of(fields, ("title",)) or "declared",
            first_steps=self._text_of(fields, ("first_steps",)),
            proof=proof,
            format=cast("d.Format", body_format),
            unwrap=unwrap,
            each=each,
            name=name or First(()),
            id=given_id,
            dedupe=cast("d.Dedupe", dedupe),
            times=times,
            detail=next(detail.paths, None) if detail is not None else None,
            notes=frozenset(self._texts(event, ("event", "notes"))),
            reasons=reasons,
            people=people,
            readings=self._readings(fields, ids),
            challenge=self._challenge(fields, proof),
            redact=tuple(
                parts for path in self._texts(fields, ("redact",)) if (parts := self._path(path, ("redact",)))
            ),
        )
        if self._mistakes:
            raise DeclarationWrong(self._mistakes)
        return found

    # The proof

    def _proof(self, table: dict[str, Any]) -> d.Proof:
        where: Where = ("proof",)
        kind = self._choice(table, (*where, "kind"), get_args(d.ProofKind), None)
        if kind is None:
            if table and "kind" not in table:
                self._wrong((*where, "kind"), f"missing: one of {', '.join(get_args(d.ProofKind))}")
            return d.Proof(kind="header")
        self._expect_known(table, where, ("kind", "binds_body", *_PROOF[kind]))
        binds_body = self._switch(table, (*where, "binds_body"), default=True)
        header = self._header(table, kind)
        pieces = self._template(table, (*where, "message"))
        time = self._piece(self._text_of(table, (*where, "time")), (*where, "time"))
        proof = d.Proof(
            kind=cast("d.ProofKind", kind),
            header=header,
            prefix=self._text_of(table, (*where, "prefix")),
            pairs=self._text_of(table, (*where, "pairs")),
            message=d.Template(pieces),
            hash=cast("d.HashName", self._choice(table, (*where, "hash"), get_args(d.HashName), "sha256")),
            encoding=cast("d.Encoding", self._choice(table, (*where, "encoding"), get_args(d.Encoding), "hex")),
            key=cast("d.KeyForm", self._choice(table, (*where, "key"), get_args(d.KeyForm), "utf8")),
            time=time,
            time_unit=cast("d.Unit", self._choice(table, (*where, "time_unit"), get_args(d.Unit), "s")),
            tolerance=self._duration(table, (*where, "tolerance")),
            binds_body=binds_body,
            claim=self._text_of(table, (*where, "claim")),
            header_prefix=self._text_of(table, (*where, "header_prefix")).lower() or "webhook",
        )
        self._expect_safe(table, proof)
        return proof

    def _header(self, table: dict[str, Any], kind: str) -> str:
        """The name of the header with the signature, the token or the secret."""
        key = {"hmac": "signature", "digest": "signature", "rsa": "signature", "jwt": "token", "header": "header"}.get(
            kind
        )
        if key is None:
            return ""
        where = ("proof", key)
        text = self._text_of(table, where)
        if not text and key not in table:
            self._wrong(where, 'missing: name the header, like "X-Webhook-Signature"')
        if text and not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", text):
            self._wrong(where, f'{text!r} is no name of a header: write only the name, like "X-Webhook-Signature"')
        return text.lower()

    def _expect_safe(self, table: dict[str, Any], proof: d.Proof) -> None:
        """What is signed must hold the body, unless the declaration says that it does not."""
        where: Where = ("proof", "message")
        names = {piece[0] for piece in proof.message.pieces if isinstance(piece, tuple)}
        if proof.kind in {"header", "url"}:
            if proof.binds_body:
                self._wrong(
                    ("proof", "binds_body"),
                    "this proof does not cover the body: write binds_body = false to say so; pages and bundles show it",
                )
            return
        if proof.kind == "jwt":
            if proof.binds_body and not proof.claim:
                self._wrong(
                    ("proof", "claim"),
                    "missing: name the claim with the hash of the body, or write binds_body = false",
                )
            return
        if proof.kind == "standard":
            return
        if "message" not in table:
            self._wrong(where, 'missing: say what is signed, like message = "{header.X-Time}.{body}"')
        elif proof.binds_body and not names & {"body", "form.sorted"}:
            self._wrong(
                where,
                "what is signed does not hold {body} or {form.sorted}: add it, or write binds_body = false",
            )
        if proof.kind == "digest" and "message" in table and "secret" not in names:
            self._wrong(where, "a digest without {secret} proves nothing: add it where the vendor puts the secret")
        if proof.kind != "digest" and "secret" in names:
            self._wrong(where, f"{{secret}} is not part of what {proof.kind} signs: remove it")
        if proof.time and proof.time not in proof.message.pieces:
            self._wrong(
                ("proof", "time"), "this time is not part of message, so that anybody can change it: add it to message"
            )
        if "sig" in names and not proof.pairs:
            self._wrong(
                where, '{sig.…} is an element of a header like "t=1,v1=ab": name the signatures with pairs = "v1"'
            )

    def _template(self, table: dict[str, Any], where: Where) -> tuple[str | tuple[str, ...], ...]:
        text = self._text_of(table, where)
        pieces: list[str | tuple[str, ...]] = []
        last = 0
        for found in _PIECE.finditer(text):
            pieces += [text[last : found.start()]] if found.start() > last else []
            piece = self._piece(found[1], where)
            pieces += [piece] if piece else []
            last = found.end()
        if last < len(text):
            pieces.append(text[last:])
        if any(isinstance(piece, str) and ("{" in piece or "}" in piece) for piece in pieces):
            self._wrong(where, "a bracket is not closed: write {body}, {header.NAME}, …")
        return tuple(pieces)

    def _piece(self, name: str, where: Where) -> tuple[str, ...]:
        if not name:
            return ()
        if name in {"body", "url", "secret", "form.sorted"}:
            return (name,)
        kind, _, rest = name.partition(".")
        if kind in {"header", "query", "sig"} and rest:
            return (kind, rest.lower() if kind == "header" else rest)
        self._wrong(
            where,
            f"{{{name}}} is unknown: known are {{body}}, {{url}}, {{form.sorted}}, {{secret}}, {{header.NAME}}, {{query.NAME}},"
            " {sig.NAME}",
        )
        return ()

    # What events mean

    def _readings(self, fields: dict[str, Any], ids: dict[str, Any]) -> tuple[d.Reading, ...]:
        given: Any = fields.get("on", [])
        if not isinstance(given, list) or not all(isinstance(each, dict) for each in cast("list[Any]", given)):
            self._wrong(("on",), "write each as a table of its own: [[on]]")
            return ()
        if not given and "on" not in fields:
            self._wrong(("on",), "missing: without an [[on]] no event means anything")
        return tuple(
            reading
            for n, table in enumerate(cast("list[dict[str, Any]]", given))
            if (reading := self._reading(table, ids, ("on", n))) is not None
        )

    def _reading(self, table: dict[str, Any], ids: dict[str, Any], where: Where) -> d.Reading | None:
        events = self._texts(table, (*where, "event"))
        if not events and "event" not in table:
            self._wrong((*where, "event"), 'missing: name the event, like event = "room.started"')
        fact = self._choice(table, (*where, "fact"), d.FACTS, None)
        if fact is None:
            if "fact" not in table:
                self._wrong((*where, "fact"), 'missing: what the event means, like fact = "participant.joined"')
            return None
        kind = d.FACTS[fact]
        known = set(kind.__struct_fields__)
        fitting = {*d.TEXTS, *d.TIMES, *d.NUMBERS, *d.DURATIONS, *d.SWITCHES, *_FACT_WORDS} & known
        self._expect_known(table, where, {"event", "when", "fact", "time", *fitting, *d.PLACES}, what=f"for {fact}")
        merged = {name: (value, ("ids", name)) for name, value in ids.items() if name in fitting | d.PLACES}
        merged |= {name: (value, (*where, name)) for name, value in table.items() if name in fitting | d.PLACES}
        for name in sorted(set(d.required_fields(kind)) - merged.keys()):
            self._wrong((*where, name), f"missing: {fact} needs it. Say where it is, here or under [ids]")
        if not {"room", "run"} & merged.keys():
            self._wrong(where, "neither room nor run is known, so the event belongs to no session: say where they are")
        firsts = {
            name: first
            for name, (value, at) in merged.items()
            if name in d.TEXTS | d.PLACES | _FACT_WORDS and (first := self._first_of(value, at)) is not None
        }
        moments = {
            name: moment
            for name, (value, at) in merged.items()
            if name in d.TIMES and (moment := self._moment(value, at)) is not None
        }
        numbers: dict[str, d.Moment | First] = {}
        for name, (value, at) in merged.items():
            number = (
                self._moment(value, at)
                if name in d.DURATIONS
                else self._first_of(value, at)
                if name in d.NUMBERS
                else None
            )
            if number is not None:
                numbers[name] = number
        return d.Reading(
            events=frozenset(events),
            when=self._conditions(table, (*where, "when")),
            fact=fact,
            times=self._times(table, (*where, "time")),
            texts={name: first for name, first in firsts.items() if name in d.TEXTS},
            moments=moments,
            numbers=numbers,
            switches={name: self._switch(table, (*where, name), default=False) for name in d.SWITCHES & table.keys()},
            places={name: first for name, first in firsts.items() if name in d.PLACES},
            person=firsts.get("person"),
            reason=firsts.get("reason"),
        )

    def _conditions(self, table: dict[str, Any], where: Where) -> tuple[d.When, ...]:
        given: Any = table.get("when")
        if given is None:
            return ()
        found: list[d.When] = []
        for each in cast("list[Any]", given) if isinstance(given, list) else [given]:
            condition = cast("dict[str, Any]", each) if isinstance(each, dict) else {}
            tests = [name for name in ("is", "in", "not_in") if name in condition]
            if len(tests) != 1 or set(condition) - {"path", tests[0]} or "path" not in condition:
                self._wrong(where, 'write { path = "…", is = "…" }, { path = "…", in = ["…"] } or not_in')
                continue
            path = self._first_of(condition["path"], where)
            tested: Any = condition[tests[0]]
            values = cast("list[Any]", tested) if isinstance(tested, list) else [tested]
            if not all(isinstance(value, str) for value in values):
                self._wrong(where, 'compare with texts: numbers and true are compared as they are written, like "1"')
                continue
            if path is not None:
                found.append(d.When(path, frozenset(values), tests[0] == "not_in"))
        return tuple(found)

    def _challenge(self, fields: dict[str, Any], proof: d.Proof) -> d.Challenge | None:
        if "challenge" not in fields:
            return None
        table = self._table(fields, "challenge")
        where: Where = ("challenge",)
        self._expect_known(table, where, ("event", "token", "answer"))
        event = self._text_of(table, (*where, "event"))
        token = self._first(table, (*where, "token"))
        answer = table.get("answer")
        if not event:
            self._wrong((*where, "event"), "missing: name the event that asks")
        if token is None and "token" not in table:
            self._wrong((*where, "token"), "missing: say where the text is that the answer repeats")
        if (
            not isinstance(answer, dict)
            or not answer
            or not all(value in {"{token}", "{hmac}"} for value in cast("dict[str, Any]", answer).values())
        ):
            self._wrong(
                (*where, "answer"),
                'write the fields of the answer, each "{token}" or "{hmac}": answer = { plainToken = "{token}" }',
            )
            return None
        if proof.kind != "hmac" and "{hmac}" in answer.values():
            self._wrong(
                (*where, "answer"), f"{{hmac}} needs a proof of kind hmac, not {proof.kind}: write only {{token}}"
            )
        return None if token is None else d.Challenge(event, token, cast("dict[str, str]", answer))

    # Values

    def _wrong(self, where: Where, what: str) -> None:
        name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
        self._mistakes.append(Mistake(self._lines.of(where), name, what))

    def _expect_known(self, table: dict[str, Any], where: Where, known: Collection[str], what: str = "") -> None:
        for name in table:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
                self._wrong((*where, name), f"unknown key{f' {what}' if what else ''}; {hint}")

    def _table(self, fields: dict[str, Any], name: str) -> dict[str, Any]:
        value: Any = fields.get(name, {})
        if isinstance(value, dict):
            return cast("dict[str, Any]", value)
        self._wrong((name,), f"write a table: [{name}]")
        return {}

    def _text_of(self, table: dict[str, Any], where: Where) -> str:
        value: Any = table.get(str(where[-1]), "")
        if isinstance(value, str):
            return value
        self._wrong(where, "write a text, in quotes")
        return ""

    def _texts(self, table: dict[str, Any], where: Where) -> list[str]:
        """One text, or a list of texts."""
        value: Any = table.get(str(where[-1]), [])
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        if all(isinstance(each, str) and each for each in values):
            return values
        self._wrong(where, "write a text in quotes, or a list of texts")
        return []

    def _switch(self, table: dict[str, Any], where: Where, *, default: bool) -> bool:
        value: Any = table.get(str(where[-1]), default)
        if isinstance(value, bool):
            return value
        self._wrong(where, "write true or false, without quotes")
        return default

    def _choice(self, table: dict[str, Any], where: Where, known: Collection[str], default: str | None) -> str | None:
        value: Any = table.get(str(where[-1]), default)
        if value is None or (isinstance(value, str) and value in known):
            return value
        close = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        self._wrong(where, f"{value!r} is unknown; {hint}")
        return default

    def _words(self, fields: dict[str, Any], name: str, known: Collection[str]) -> dict[str, str]:
        """A table from the vendor's words to Tracker's."""
        found: dict[str, str] = {}
        for theirs in (table := self._table(fields, name)):
            ours = self._choice(table, (name, theirs), known, None)
            if ours is not None:
                found[theirs] = ours
        return found

    def _duration(self, table: dict[str, Any], where: Where) -> int:
        text = self._text_of(table, where) or "5m"
        found = _DURATION.fullmatch(text)
        if found is None:
            self._wrong(where, f'{text!r} is no duration: write a number and s, m, h or d, like "5m"')
            return 0
        return int(found[1]) * _SECONDS[found[2]] * 1_000_000

    def _path(self, text: str, where: Where) -> tuple[d.Part, ...] | None:
        """The parts of a path into the body."""
        try:
            path = parse_path(text)
        except PathWrong as error:
            self._wrong(where, str(error))
            return None
        if not path.parts:
            self._wrong(where, "write a path into the body")
        return path.parts or None

    def _parts(self, table: dict[str, Any], where: Where) -> tuple[d.Part, ...] | None:
        text = self._text_of(table, where)
        return self._path(text, where) if text else None

    def _first(self, table: dict[str, Any], where: Where) -> First | None:
        value: Any = table.get(str(where[-1]))
        return None if value is None else self._first_of(value, where)

    def _first_of(self, value: Any, where: Where) -> First | None:
        if where[-1] == "run" and value == d.OPEN:
            return First(())
        options: list[Path | Join] = []
        for each in cast("list[Any]", value) if isinstance(value, list) else [value]:
            try:
                options.append(self._option(each))
            except PathWrong as error:
                self._wrong(where, str(error))
                return None
        found = First(tuple(options))
        for path in found.paths:
            if path.header is not None and path.header not in self._headers:
                kept = ", ".join(sorted(self._headers)) or "none"
                self._wrong(where, f"the header {path.header} is not recorded with the proof; recorded are: {kept}")
        return found

    def _option(self, value: Any) -> Path | Join:
        if isinstance(value, str):
            return parse_path(value)
        fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        if set(fields) - {"join", "with"} or not isinstance(fields.get("join"), list):
            raise PathWrong('write a path in quotes, a list of paths, or { join = ["a", "b"], with = "/" }')
        between = fields.get("with", "")
        paths = [parse_path(str(each)) for each in fields["join"]]
        if not isinstance(between, str) or not paths:
            raise PathWrong('write { join = ["a", "b"], with = "/" }')
        return Join(tuple(paths), between)

    def _times(self, table: dict[str, Any], where: Where) -> tuple[d.Moment, ...]:
        value: Any = table.get(str(where[-1]))
        if value is None:
            return ()
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        return tuple(found for each in values if (found := self._moment(each, where)) is not None)

    def _moment(self, value: Any, where: Where) -> d.Moment | None:
        if value == ARRIVAL:
            return d.Moment(First((parse_path(ARRIVAL),)), "us")
        fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        if set(fields) != {"path", "unit"}:
            self._wrong(where, 'write { path = "timestamp", unit = "ms" }; units are s, ms, us, ns, iso and auto')
            return None
        unit = self._choice(fields, (*where, "unit"), get_args(d.Unit), None)
        path = self._first_of(fields["path"], where)
        return None if unit is None or path is None else d.Moment(path, cast("d.Unit", unit))

"""The forms of profiles: how a form is asked for, held to, read, tidied and checked.

A form is a few fields, each a heading and phrases between commas: the papers' ``User identity: a, b; User interests: x,
y.``, or ``Themes: a, b; Mood: c; Audience: d; Similar films: e, f.`` by what a model knows.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

from reclm.llm.chat import Chat, Generation, Message, SamplingParams, cut_at_stop
from reclm.profilers.phrases import ASCII_WORD, WORD, Field, distinct, literal, stems

Parts = dict[str, tuple[str, ...]]
"""The phrases of a profile by field."""

_EMPHASIS = re.compile(r"\*\*|__|`+|^[ \t]*#+[ \t]*", re.MULTILINE)
_BULLET = re.compile(r"(?:\A|\n)\s*(?:[-*•]|\d+[.)])\s+")
_END_OF_LIST = r"(?=\n\s*\n|\n(?!\s*(?:[-*•]|\d+[.)])\s)|\Z)"
_YEAR = re.compile(r"\s*\(\d{4}\)")
_SEPARATORS = (r"[\n;]", r"\s\(", r"\.\s", r"[\n;,]|\s\(|\.\s")
"""Separators of names in what a prompt says of an item; a title may have some of them in it."""
_MOST_COMMAS = 64
"""Commas of an answer that breaks off at which it may be read as if it ended there."""
_NOTHING = {
    "",
    "n/a",
    "na",
    "none",
    "not applicable",
    "not specified",
    "tbd",
    "unknown",
    "unspecified",
    "various",
}


class ProfileFormatError(ValueError):
    """A text is not in its form; the message is the reason."""


@dataclass(frozen=True)
class ProfileForm:
    """A form of profiles: its fields, of which a poor text may lack all but the first where the form is ``partial``.

    Of ``phrases``, the last field has ``spare`` ones more when a model is asked: they are for repetitions, which
    :meth:`tidy` removes.
    """

    name: str
    fields: tuple[Field, ...]
    partial: bool = False
    other: str = ""
    """A word that no phrase has."""

    @property
    def start(self) -> str:
        """The beginning of a profile: its first heading."""
        return f"{self.fields[0].heading}:"

    @cached_property
    def headings(self) -> re.Pattern[str]:
        """Any of its headings, with the colon."""
        return re.compile(rf"\b(?:{'|'.join(field.reads for field in self.fields)})\s*:")

    @cached_property
    def _whole(self) -> re.Pattern[str]:
        return re.compile(r";\s*".join(field.group for field in self.fields) + r"\.?\s*", re.DOTALL)

    @cached_property
    def _poor(self) -> re.Pattern[str]:
        first, *rest = (field.group for field in self.fields)
        optional = "".join(rf"(?:;\s*{group})?" for group in rest)
        return re.compile(first + optional + r"\.?\s*", re.DOTALL) if self.partial else self._whole

    @cached_property
    def _marked(self) -> re.Pattern[str]:
        lists = (rf"{field.marked or field.reads}\s*:\s*(.+?)" for field in self.fields)
        return re.compile(r"[\s;.]*\b".join(lists) + _END_OF_LIST, re.DOTALL | re.IGNORECASE)

    def pattern(self, phrases: int, spare: int = 1, *, every_script: bool = False) -> str:
        """Return the regular expression of an answer that begins behind the first heading.

        Its letters are ASCII's or, for a prompt that has others, those of ``every_script``.
        """
        word = WORD if every_script else ASCII_WORD
        more = dict.fromkeys(self.fields, 0) | {self.fields[-1]: spare}
        first, *rest = (field.listed(word, field.count(phrases) + more[field]) for field in self.fields)
        behind = (
            f"; {literal(field.heading)}: {one}" for field, one in zip(self.fields[1:], rest, strict=True)
        )
        return f" {first}{''.join(behind)}\\."

    def schema(self, phrases: int, spare: int = 0) -> dict[str, Any]:
        """Return the JSON schema of a profile; :meth:`read` reads it.

        A phrase has a word more at most than in a pattern, of any letters: a small model fills a list or a phrase
        without end. As many as the ``spare`` phrases may be more.
        """
        properties = {}
        for field in self.fields:
            most, more = field.count(phrases), spare * (field is self.fields[-1])
            phrase = {"type": "string", "pattern": field.json_phrase()}
            bounds = {"minItems": most + more if field.exact else 1, "maxItems": most + 2 * more}
            properties[field.keys[0]] = {"type": "array", "items": phrase, **bounds}
        keys = {"required": list(properties), "additionalProperties": False}
        return {"type": "object", "properties": properties, **keys}

    def structured(self, chat: Chat) -> Chat:
        """Return the chat for a model that is held to :meth:`schema`: its examples answer in JSON, too."""
        task, *turns = chat.messages
        example = json.dumps({field.keys[0]: ["…"] for field in self.fields}, ensure_ascii=False)
        messages = [Message(task.role, f"{task.content} Answer in JSON: {example}")]
        for turn in turns:
            content = turn.content
            if turn.role == "assistant" and self.fault(content) is None:
                parts = self.parse(content)
                content = json.dumps(
                    {one.keys[0]: parts[one.name] for one in self.fields}, ensure_ascii=False
                )
            messages.append(Message(turn.role, content))
        return Chat(tuple(messages))

    def parse(self, text: str, phrases: int | None = None) -> Parts:
        """Read a profile of ``phrases`` phrases a field (by default any number); else ProfileFormatError.

        >>> PAPERS.parse("User identity: cook, baker; User interests: bread.")
        {'identities': ('cook', 'baker'), 'interests': ('bread',)}
        """
        match = self._whole.fullmatch(text.strip())
        if not match:
            letters = iter(["a, b", "x, y", "c", "d", "e"])
            shown = "; ".join(f"{field.heading}: {next(letters)}" for field in self.fields)
            raise ProfileFormatError(f"not of the form '{shown}.'")
        if not text.rstrip().endswith("."):
            raise ProfileFormatError("breaks off: no full stop")
        parts = {field: tuple(map(str.strip, match[field.name].split(","))) for field in self.fields}
        for field, listed in parts.items():
            most = len(listed) if phrases is None else field.most(phrases)
            if not all(listed):
                raise ProfileFormatError(f"an empty phrase among the {field.name}")
            if any(self._more(field, phrase) for phrase in listed):
                raise ProfileFormatError(f"more than phrases among the {field.name}")
            if len(listed) > most or (field.exact and len(listed) < most):
                raise ProfileFormatError(f"{len(listed)} {field.name} instead of {most}")
        return {field.name: listed for field, listed in parts.items()}

    def _more(self, field: Field, phrase: str) -> bool:
        marks = r"[;\n]" if field.titles else r"[;:\n]"
        return bool(
            re.search(marks, phrase) or self.headings.search(phrase) or (self.other and self.other in phrase)
        )

    def fault(self, text: str, phrases: int | None = None) -> str | None:
        """Return why a text is not in the form (see :meth:`parse`); None if it is."""
        try:
            self.parse(text, phrases)
        except ProfileFormatError as error:
            return str(error)
        return None

    def repeats(self, text: str) -> bool:
        """Return whether a profile says a phrase twice; False for a text that is not in the form."""
        try:
            before, after = self.parse(text), self.parse(self.tidy(text))
        except ProfileFormatError:
            return False
        return sum(map(len, before.values())) != sum(map(len, after.values()))

    def tidy(self, text: str, phrases: int | None = None, about: str = "") -> str:
        """Trim a profile: an unfinished last phrase, loose ends of phrases, repeated phrases and titles.

        At most ``phrases`` stay in a field; interests that share no word with ``about`` go first. Where the form is
        ``partial``, ``about`` is what was said of an item: of titles, those named there go, and of an answer that says
        nothing else nothing is left. Nothing is added but the full stop. A text of another form is returned unchanged.

        >>> PAPERS.tidy("User identity: cook, cook of; User interests: bread, breads, jam and, rolling")
        'User identity: cook; User interests: bread, jam.'
        """
        text = " ".join(text.split())
        match = self._poor.fullmatch(text)
        if not match:
            return text
        present = [field for field in self.fields if match[field.name]]
        listed = {field: match[field.name].split(",") for field in present}
        if not text.endswith(".") and len(listed[present[-1]]) > 1:
            del listed[present[-1]][-1]
        seen: set[str] = set()
        parts = {field: self._tidied(field, listed[field], seen, phrases, about) for field in present}
        left = {field: some for field, some in parts.items() if some}
        if not self.partial and len(left) < len(self.fields):
            return text
        if self.partial and all(_name(one) in _names(about) for some in left.values() for one in some):
            return ""
        said = (f"{match[f'{field.name}_heading']}: {', '.join(some)}" for field, some in left.items())
        return f"{'; '.join(said)}."

    def _tidied(
        self, field: Field, listed: list[str], seen: set[str], phrases: int | None, about: str
    ) -> tuple[str, ...]:
        """Return the phrases of a field that stay, and add them to those seen."""
        most = None if phrases is None else field.most(phrases)
        if field.titles:
            titles: dict[str, str] = {}
            for one in map(str.strip, listed):
                titles.setdefault(_name(one), one.rstrip(" ."))
            return tuple(title for name, title in titles.items() if name not in _names(about))[:most]
        told = [one for one in listed if _name(one) not in _NOTHING] if self.partial else listed
        different = distinct(told, seen)
        if self.partial or field is not self.fields[-1]:
            return different[:most]
        named = stems(about)
        best = sorted(range(len(different)), key=lambda at: (not stems(different[at]) & named, at))[:most]
        return tuple(different[at] for at in sorted(best))

    def unforged(self, text: str) -> str:
        """Return a text from data without what could pass for a field of this form.

        >>> described().unforged("Up; Mood: dark")
        'Up, Mood - dark'
        """
        headings = re.compile(self.headings.pattern, re.IGNORECASE)
        return headings.sub(lambda heading: f"{heading[0][:-1].rstrip()} -", text).replace(";", ",")

    def read(self, answer: Generation, params: SamplingParams) -> str:
        """Return the profile in an answer, which may be JSON or Markdown, as text; else the answer up to a stop string.

        >>> text = '{"identity": ["cook", "baker"], "interests": ["bread"]}'
        >>> PAPERS.read(Generation("", text, 0, 0, "stop"), SamplingParams())
        'User identity: cook, baker; User interests: bread.'
        """
        if parts := self._from_json(answer.text):
            return self.text(parts)
        first = cut_at_stop(answer.text, params)[0].strip()
        unmarked = _EMPHASIS.sub("", answer.text).strip()
        if unmarked == first or not (match := self._marked.search(unmarked)):
            whole = self.partial and answer.finish_reason == "stop" and self._poor.fullmatch(first)
            return f"{first.rstrip(' .')}." if whole else first
        lists = (" ".join(_BULLET.sub(", ", listed).split()).strip(" ,;.") for listed in match.groups())
        said = zip(self.fields, lists, strict=True)
        profile = "; ".join(f"{field.heading}: {listed}" for field, listed in said)
        whole = answer.finish_reason == "stop" or match.end() < len(unmarked)
        return f"{profile}." if whole else profile

    def text(self, parts: Mapping[str, tuple[str, ...]]) -> str:
        """Return the profile of phrases by field, those without any left out."""
        lists = ((field.heading, parts.get(field.name, ())) for field in self.fields)
        return "; ".join(f"{heading}: {', '.join(listed)}" for heading, listed in lists if listed) + "."

    def _from_json(self, text: str) -> Parts | None:
        """Return the profile in a JSON object, alone or within other text; None where there is none.

        Of an object that breaks off, the phrases before the last comma are read.
        """
        begin, end = text.find("{"), text.rfind("}")
        values = _loaded(text[begin : end + 1]) if 0 <= begin < end else None
        if begin >= 0 and values is None:
            commas = [match.start() for match in islice(re.finditer(",", text[begin:]), _MOST_COMMAS)]
            cut = (_loaded(f"{text[begin : begin + at]}]}}") for at in reversed(commas))
            values = next((one for one in cut if one), None)
        if not isinstance(values, dict):
            return None
        parts = {field.name: self._phrases(field, values) for field in self.fields}
        needed = self.fields[:1] if self.partial else self.fields
        return parts if all(parts[field.name] for field in needed) else None

    def _phrases(self, field: Field, values: Mapping[str, Any]) -> tuple[str, ...]:
        listed = next((values[key] for key in field.keys if values.get(key)), ())
        listed = listed.split(",") if isinstance(listed, str) else listed
        texts = (text for text in listed if isinstance(text, str)) if isinstance(listed, list) else ()
        foreign = f"{self.headings.pattern}|{'[,;]' if field.titles else '[,;:]'}"
        phrases = (" ".join(re.sub(foreign, " ", text).split()) for text in texts)
        return tuple(phrase for text in phrases if (phrase := text.strip(" .")))


def _name(text: str) -> str:
    """Return a title or a phrase as it is compared with others."""
    return _YEAR.sub("", text).strip(" .:'\"").casefold().removeprefix("the ")


def _names(about: str) -> set[str]:
    """Return the titles, topics and sentences of what was said of an item, and the words that say nothing."""
    return {_name(name) for between in _SEPARATORS for name in re.split(between, about)} | _NOTHING


def _loaded(text: str) -> Any:
    """Return the value of a JSON text; None for another text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


PAPERS = ProfileForm(
    "papers",
    (
        Field(
            "identities",
            "User identity",
            ("identity", "identities", "user_identity"),
            (2, 3),
            marked="User identit(?:y|ies)",
        ),
        Field(
            "interests",
            "User interests",
            ("interests", "interest", "user_interests"),
            (1, 5),
            marked="User interests?",
        ),
    ),
    other="User ",
)
"""RecLM's form: probable identities and interests. An identity has two words or more, so that it is no mere topic."""


NOUN = "items"
"""What items are where a data set does not say it."""


@lru_cache(maxsize=64)
def described(noun: str = NOUN) -> ProfileForm:
    """Return the form that says what a model knows of an item, or of a taste; ``noun`` is the plural of an item."""
    similar, like = f"Similar {noun}", r"Similar [^\W_][^:;,\n]{0,40}"
    return ProfileForm(
        "describe",
        (
            Field("themes", "Themes", ("themes", "theme"), (1, 3), exact=False),
            Field("mood", "Mood", ("mood", "moods"), (1, 2), share=2, exact=False),
            Field("audience", "Audience", ("audience",), (1, 7), share=1, exact=False),
            Field(
                "similar",
                similar,
                ("similar", f"similar {noun}"),
                (1, 7),
                exact=False,
                titles=True,
                like=like,
            ),
        ),
        partial=True,
    )


FORMS = (PAPERS, described())
"""Every form that profiles are stored in; that of another noun reads as :func:`described` does."""


def form_of(text: str) -> ProfileForm:
    """Return the form that a text begins as; the papers' by default."""
    return next((form for form in FORMS if text.lstrip().startswith(form.start)), PAPERS)

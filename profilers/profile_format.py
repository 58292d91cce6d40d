"""RecLM's profile format, ``User identity: a, b; User interests: x, y.``, and the base of profilers that ask for it."""

import json
import re
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from reclm.data.dataset import ProfileKind
from reclm.llm.chat import Chat, Generation, Message, SamplingParams, cut_at_stop, prompt_hash
from reclm.profiles.profile import Profile, Profiler, Subject
from reclm.profiles.store import KINDS

START = "User identity:"
MIDDLE = "; User interests:"

# no capital behind a small letter, no number within a word: a model that may not begin another word would write on
# without a space
_ASCII_WORD = r"[A-Z]{0,6}[a-z]{1,14}(?:['-][A-Za-z][a-z]{0,11})?|[A-Z]{1,6}|[0-9]{1,4}(?:st|nd|rd|th|s)?"
_UPPER, _LOWER = "A-ZÀ-ÖØ-ÞĀ-ɏΆ-ΏΑ-ΫЀ-Я", "a-zß-öø-ÿĀ-ɏΐά-ώа-џ"  # of Ā-ɏ both, which alternate
# letters without case and the marks that belong to them, Armenian to Thai, Georgian, kana, Chinese, Hangul, …
_OTHER = "\u0531-\u1cff\u2c00-\u2dff\u3005\u3041-\u30fa\u30fc-\u318e\u3400-\u4dbf\u4e00-\u9fff\ua4d0-\ud7a3"
_WORD = (
    rf"[{_UPPER}]{{0,6}}[{_LOWER}]{{1,14}}(?:['’-][{_UPPER}{_LOWER}][{_LOWER}]{{0,11}})?|[{_UPPER}]{{1,6}}|"
    rf"[{_OTHER}]{{1,14}}|[0-9]{{1,4}}(?:st|nd|rd|th|s)?"
)
_PROFILE = re.compile(
    r"User identity:\s*(?P<identities>.+?);\s*User interests:\s*(?P<interests>.+?)\.?\s*", re.DOTALL
)
_DANGLING = re.compile(
    r"(?:[\s'-]+(?:a|an|and|as|at|by|for|from|is|of|or|that|the|their|to|with))+$|[\s'-]+$", re.IGNORECASE
)
_KEYS = (("identity", "identities", "user_identity"), ("interests", "interest", "user_interests"))
_EMPHASIS = re.compile(r"\*\*|__|`+|^[ \t]*#+[ \t]*", re.MULTILINE)
_BULLET = re.compile(r"(?:\A|\n)\s*(?:[-*•]|\d+[.)])\s+")
_MARKED = re.compile(
    r"User identit(?:y|ies)\s*:\s*(.+?)[\s;.]*\bUser interests?\s*:\s*(.+?)(?=\n\s*\n|\n(?!\s*(?:[-*•]|\d+[.)])\s)|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_WARM = 0.7
"""Temperature of a second try."""
_MOST_COMMAS = 64
"""Commas of an answer that breaks off at which it may be read as if it ended there."""
_COMMON = {"and", "for", "from", "its", "that", "the", "their", "with", "you", "your"}


class ProfileFormatError(ValueError):
    """A text is not in the profile format; the message is the reason."""


@dataclass(frozen=True)
class ProfileParts:
    """The probable identities of a user, and the interests."""

    identities: tuple[str, ...]
    interests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{START} {', '.join(self.identities)}{MIDDLE} {', '.join(self.interests)}."


def answer_pattern(phrases: int, spare: int = 1, *, every_script: bool = False) -> str:
    """Return the regular expression of an answer that begins behind ``User identity:``.

    An identity has two words or more, so that it is more than a topic. There are ``phrases`` identities and as many
    interests; the ``spare`` ones beyond that are for repetitions, which :func:`tidy` removes. Its letters are ASCII's
    or, for a prompt that has others, those of ``every_script``.
    """
    word = f"(?:{_WORD if every_script else _ASCII_WORD})"
    identity, interest = f"{word}(?: {word}){{1,2}}", f"{word}(?: {word}){{0,4}}"
    return f" {', '.join([identity] * phrases)}{MIDDLE} {', '.join([interest] * (phrases + spare))}\\."


def beyond_ascii(chat: Chat) -> bool:
    """Return whether a prompt has letters that are not ASCII's."""
    texts = (message.content for message in chat.messages)
    return any(not text.isascii() and any(c.isalpha() and c > "\x7f" for c in text) for text in texts)


def parse(text: str, phrases: int | None = None) -> ProfileParts:
    """Read a profile of ``phrases`` identities and interests (by default any number); else ProfileFormatError.

    >>> parse("User identity: cook, baker; User interests: bread.")
    ProfileParts(identities=('cook', 'baker'), interests=('bread',))
    """
    match = _PROFILE.fullmatch(text.strip())
    if not match:
        raise ProfileFormatError(f"not of the form '{START} a, b; User interests: x, y.'")
    if not text.rstrip().endswith("."):
        raise ProfileFormatError("breaks off: no full stop")
    parts = {name: tuple(map(str.strip, listed.split(","))) for name, listed in match.groupdict().items()}
    for name, listed in parts.items():
        if not all(listed):
            raise ProfileFormatError(f"an empty phrase among the {name}")
        if any(re.search(r"[;:\n]|User ", phrase) for phrase in listed):
            raise ProfileFormatError(f"more than phrases among the {name}")
        if phrases is not None and len(listed) != phrases:
            raise ProfileFormatError(f"{len(listed)} {name} instead of {phrases}")
    return ProfileParts(**parts)


def profile_schema(phrases: int, spare: int = 0) -> dict[str, Any]:
    """Return the JSON schema of a profile of ``phrases`` identities and interests; :func:`read_answer` reads it.

    Identities have one to four words, interests one to six, of any letters: a small model fills a list or a phrase
    without end. The ``spare`` interests, and as many that may be more, are for repetitions, which :func:`tidy` removes.
    """
    identity, interest = ({"type": "string", "pattern": _words(most)} for most in (4, 6))
    least, most = phrases + spare, phrases + 2 * spare
    identities = {"type": "array", "items": identity, "minItems": phrases, "maxItems": phrases}
    interests = {"type": "array", "items": interest, "minItems": least, "maxItems": most}
    return {
        "type": "object",
        "properties": {"identity": identities, "interests": interests},
        "required": ["identity", "interests"],
        "additionalProperties": False,
    }


def _words(most: int) -> str:
    """Return the regular expression of a phrase in JSON; servers that check the JSON text itself take it, too."""
    word = r'[^ ,;"\\\n\r\t]{1,20}'
    return f"^{word}( {word}){{0,{most - 1}}}$"


def structured(chat: Chat) -> Chat:
    """Return the chat for a model that is held to :func:`profile_schema`: its examples answer in JSON, too."""
    task, *turns = chat.messages
    example = '{"identity": ["…"], "interests": ["…"]}'
    messages = [Message(task.role, f"{task.content} Answer in JSON: {example}")]
    for turn in turns:
        content = turn.content
        if turn.role == "assistant" and fault(content) is None:
            parts = parse(content)
            listed = {"identity": parts.identities, "interests": parts.interests}
            content = json.dumps(listed, ensure_ascii=False)
        messages.append(Message(turn.role, content))
    return Chat(tuple(messages))


def read_answer(answer: Generation, params: SamplingParams) -> str:
    """Return the profile in an answer, which may be JSON or Markdown, as text; else the answer up to a stop string.

    >>> text = '{"identity": ["cook", "baker"], "interests": ["bread"]}'
    >>> read_answer(Generation("", text, 0, 0, "stop"), SamplingParams())
    'User identity: cook, baker; User interests: bread.'
    """
    if parts := _from_json(answer.text):
        return str(parts)
    first = cut_at_stop(answer.text, params)[0].strip()
    unmarked = _EMPHASIS.sub("", answer.text).strip()
    if unmarked == first or not (match := _MARKED.search(unmarked)):
        return first
    lists = (" ".join(_BULLET.sub(", ", listed).split()).strip(" ,;.") for listed in match.groups())
    profile = f"{START} {MIDDLE.join(f' {listed}' for listed in lists).strip()}"
    whole = answer.finish_reason == "stop" or match.end() < len(unmarked)
    return f"{profile}." if whole else profile


def _from_json(text: str) -> ProfileParts | None:
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
    lists = [_phrases(values, *names) for names in _KEYS]
    return ProfileParts(*lists) if all(lists) else None


def _loaded(text: str) -> Any:
    """Return the value of a JSON text; None for another text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _phrases(values: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    listed = next((values[name] for name in names if values.get(name)), ())
    listed = listed.split(",") if isinstance(listed, str) else listed
    texts = (text for text in listed if isinstance(text, str)) if isinstance(listed, list) else ()
    phrases = (" ".join(re.sub(r"[,;:]|User (?:identity|interests)", " ", text).split()) for text in texts)
    return tuple(phrase for text in phrases if (phrase := text.strip(" .")))


def fault(text: str, phrases: int | None = None) -> str | None:
    """Return why a text is not in the format (see :func:`parse`); None if it is."""
    try:
        parse(text, phrases)
    except ProfileFormatError as error:
        return str(error)
    return None


def repeats(text: str) -> bool:
    """Return whether a profile says a phrase twice; False for a text that is not in the format."""
    try:
        before, after = parse(text), parse(tidy(text))
    except ProfileFormatError:
        return False
    return len(before.identities + before.interests) != len(after.identities + after.interests)


def tidy(text: str, phrases: int | None = None, about: str = "") -> str:
    """Trim a profile: an unfinished last phrase, loose ends of phrases, repeated phrases.

    At most ``phrases`` identities and interests stay, interests that share no word with ``about`` going first. Nothing
    is added but the full stop. A text without identities or interests is returned unchanged.

    >>> tidy("User identity: cook, cook of; User interests: bread, breads, jam and, rolling")
    'User identity: cook; User interests: bread, jam.'
    """
    text = " ".join(text.split())
    match = _PROFILE.fullmatch(text)
    if not match:
        return text
    listed = match["interests"].split(",")
    if not text.endswith(".") and len(listed) > 1:
        listed = listed[:-1]
    seen: set[str] = set()
    identities = _distinct(match["identities"].split(","), seen)[:phrases]
    interests = _distinct(listed, seen)
    named = stems(about)
    best = sorted(range(len(interests)), key=lambda at: (not stems(interests[at]) & named, at))[:phrases]
    interests = tuple(interests[at] for at in sorted(best))
    return str(ProfileParts(identities, interests)) if identities and interests else text


def stems(text: str) -> set[str]:
    """Return the words of a text of three letters and more, cut to five letters, so that inflections agree."""
    return {word[:5] for word in re.findall(r"[^\W\d_]{3,}", text.casefold())} - _COMMON


def _distinct(phrases: list[str], seen: set[str]) -> tuple[str, ...]:
    """Return the trimmed phrases that are not among those seen before, and add them."""
    distinct = []
    for raw in phrases:
        phrase = _DANGLING.sub("", raw.strip())
        key = " ".join(word.removesuffix("s") for word in phrase.casefold().split())
        if key and key not in seen:
            seen.add(key)
            distinct.append(phrase)
    return tuple(distinct)


class ChatProfiler(Profiler):
    """Write profiles in the format by a language model, which is asked each distinct prompt once."""

    @abstractmethod
    def answers(self, kind: ProfileKind, chats: Mapping[str, Chat]) -> Iterator[Profile]:
        """Yield a profile without an ID of each chat that has an answer; ``chats`` are by prompt hash."""

    @abstractmethod
    def sampling(self, kind: ProfileKind, *, every_script: bool, again: bool = False) -> SamplingParams:
        """Return how profiles of a kind are generated by a model that takes a pattern.

        ``every_script``: for prompts that have letters beyond ASCII; ``again``: at the second try.
        """

    @abstractmethod
    def phrases_of(self, kind: ProfileKind) -> int:
        """Return the number of identities, and of interests, in a profile of ``kind``."""

    def spare_of(self, kind: ProfileKind) -> int:
        """Return how many interests more a model is asked for, in the place of repeated ones; by default none."""
        return 0

    def asked(self, kind: ProfileKind, *, every_script: bool, again: bool = False) -> SamplingParams:
        """Return the options as the model's engine takes them: with a schema, where it holds the model to one.

        Nothing that a server might find within a thought or a list is then a stop string, and there is room for the
        marks of JSON. A second try without a repetition penalty is drawn at random: it would equal the first.
        """
        warm = again and "repetition_penalty" in self.generator.unsupported
        params = self.sampling(kind, every_script=every_script, again=again and not warm)
        changes: dict[str, Any] = {}
        if warm:
            changes = {"temperature": max(params.temperature, _WARM), "seed": params.seed + 1}
        if self.generator.structured:
            schema = profile_schema(self.phrases_of(kind), self.spare_of(kind)) if self.constrained else None
            tokens = params.max_new_tokens * 3 // 2 if schema else params.max_new_tokens
            changes |= {"json_schema": schema, "pattern": None, "stop": (), "max_new_tokens": tokens}
        return params.model_copy(update=changes) if changes else params

    def as_subjects(self, kind: ProfileKind, chats: Iterable[tuple[str, Chat]]) -> Iterator[Subject]:
        """Yield the subjects that are described by the answers to chats, of ``(id, chat)``."""
        options = [self.asked(kind, every_script=every_script) for every_script in (False, True)]
        for id, chat in chats:
            asked = options[beyond_ascii(chat)]
            prompt = structured(chat) if asked.json_schema else chat
            yield Subject(kind, id, prompt_hash(prompt, self.generator.model, asked), prompt)

    def ask_for(
        self, kind: ProfileKind, chats: Mapping[str, Chat], *, again: bool = False
    ) -> Iterator[tuple[Generation, SamplingParams]]:
        """Yield the answers to chats by prompt hash, with the options that each was asked with."""
        parts: dict[bool, dict[str, Chat]] = defaultdict(dict)
        for key, chat in chats.items():
            parts[not self.generator.structured and beyond_ascii(chat)][key] = chat
        for every_script, part in parts.items():
            asked = self.asked(kind, every_script=every_script, again=again)
            for answer in self.ask(part, asked):
                yield answer, asked

    @property
    def constrained(self) -> bool:
        """Return whether the model is held to the format, where its engine can do so."""
        return True

    def write(self, subjects: Iterable[Subject]) -> Iterator[Profile]:
        """Yield each profile as soon as it is done; equal prompts are generated once."""
        chats: dict[ProfileKind, dict[str, Chat]] = {kind: {} for kind in KINDS}
        ids: dict[tuple[ProfileKind, str], list[str]] = defaultdict(list)
        for subject in subjects:
            if isinstance(subject.source, Chat):
                chats[subject.kind].setdefault(subject.prompt_hash, subject.source)
                ids[subject.kind, subject.prompt_hash].append(subject.id)
        for kind, prompts in chats.items():
            for profile in self.answers(kind, prompts) if prompts else ():
                if reason := self._unusable(kind, profile):
                    self.fail(profile.prompt_hash, reason)
                    continue
                for id in ids[kind, profile.prompt_hash]:
                    yield replace(profile, id=id)

    def _unusable(self, kind: ProfileKind, profile: Profile) -> str:
        """Return why what a model wrote is no profile, not even a poor one; empty where it is one."""
        if self.in_format(kind, profile.text):  # of a cut answer the phrases that are whole may be enough
            return ""
        if profile.finish_reason == "length":
            return "the answer was cut at the limit of new tokens"
        return "the answer is JSON without a profile" if profile.text.startswith(("{", "[{")) else ""

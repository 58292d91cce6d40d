"""What went wrong at a server, in one line that holds no key."""

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Self
from urllib.parse import urlsplit

import openai

from reclm.errors import ReclmError

_TOO_LONG = re.compile(
    r"context[ _](length|size|window)|maximum context|prompt is too long|too many tokens", re.I
)
_HARMLESS = {"temperature": 1, "top_p": 1, "presence_penalty": 0}


@dataclass(frozen=True)
class Server:
    """A model at a server, as messages name it.

    Attributes:
        url: where the API begins, without name and password.
        host: ``HOST:PORT``, the port where it is given.
        model: what the server calls it.
        retries, timeout: how patiently it is asked.
    """

    url: str
    host: str
    model: str
    retries: int
    timeout: float
    _key: str = field(repr=False)

    @classmethod
    def at(cls, address: str, model: str, key: str, retries: int, timeout: float) -> Self:
        """The server at ``address``.

        Raises:
            ReclmError: if that is no address.
        """
        shown = address.rpartition("@")[2].partition("?")[0]
        try:
            parts = urlsplit(address)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise ValueError(address)
        except ValueError as error:
            raise ReclmError(
                f"OPENAI_BASE_URL: {shown!r} is no address of a server; write one as in http://localhost:8000/v1"
            ) from error
        host = parts.netloc.rpartition("@")[2].lower()
        url = f"{parts.scheme}://{host}{parts.path}".rstrip("/")
        return cls(url, host, model, retries, timeout, key)

    def said(self, error: openai.APIError) -> str:
        """The server's own words: one short line, the key taken out."""
        body = error.body
        words = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
        text = " ".join(str(words or error.message).split())
        return (text.replace(self._key, "***") if self._key else text)[:200].rstrip(".")


async def explained(error: Exception, server: Server, client: openai.AsyncOpenAI, key: str) -> ReclmError:
    """The error as one that a user can mend.

    Args:
        error: what the client raised for the prompt called ``key``, or a ValueError of reading the answer.
        client: asked which models there are, if the server does not know this one.
    """
    url, sent = server.url, f"{server.retries + 1} times" if server.retries else "once"
    match error:
        case openai.APITimeoutError():
            told = (
                f"{url} did not answer {key!r} within {server.timeout:g} s, asked {sent}; "
                "ask less at once, or run again later"
            )
        case openai.APIConnectionError():
            told = (
                f"cannot reach {url}, tried {sent}; start the server, or set OPENAI_BASE_URL to where it is"
            )
        case openai.AuthenticationError():
            told = f"{url} does not accept the key (401); set OPENAI_API_KEY to a valid one"
        case openai.PermissionDeniedError():
            told = f"{url} does not permit {server.model!r} (403): {server.said(error)}; check OPENAI_API_KEY"
        case openai.NotFoundError():
            told = _not_found(server, error, await _listed(client))
        case openai.RateLimitError():
            told = (
                f"{url} allows no more requests now (429), asked {sent}: {server.said(error)}; "
                "run again later, it goes on where it stopped"
            )
        case openai.InternalServerError():
            told = (
                f"{url} fails ({error.status_code}), asked {sent}: {server.said(error)}; "
                "run again later, it goes on where it stopped"
            )
        case openai.APIStatusError():
            told = _refused(server, error, key)
        case _:
            told = (
                f"{url} answered {key!r} with something else than a chat completion; "
                "OPENAI_BASE_URL must be where the API begins, mostly …/v1"
            )
    return ReclmError(told)


def is_refused(name: str, error: openai.APIStatusError) -> bool:
    """Whether the server refuses a request because it does not support its field ``name``."""
    words = f"{error.code} {error.message}"
    return "unsupported" in words.lower() and (error.param == name or f"'{name}'" in words)


def _refused(server: Server, error: openai.APIStatusError, key: str) -> str:
    said = server.said(error)
    if _TOO_LONG.search(f"{error.code} {error.type} {said}"):
        return (
            f"the prompt of {key!r} is too long for {server.model} at {server.host}: {said}; "
            "shorten the history or the item text"
        )
    told = f"{server.url} refuses the prompt of {key!r} ({error.status_code}): {said}"
    name = next((name for name in _HARMLESS if is_refused(name, error)), None)
    return (
        f"{told}; this model takes {name}={_HARMLESS[name]}: --set {name}={_HARMLESS[name]}" if name else told
    )


def _not_found(server: Server, error: openai.NotFoundError, listed: list[str]) -> str:
    if not listed:
        return (
            f"{server.url} has no model {server.model!r}, or no chat API there (404): {server.said(error)}; "
            "OPENAI_BASE_URL must be where the API begins, mostly …/v1"
        )
    if server.model in listed:
        return (
            f"{server.url} lists model {server.model!r} but does not chat with it (404): {server.said(error)}"
        )
    near = get_close_matches(server.model, listed, n=8, cutoff=0.0)
    more = f" and {len(listed) - len(near)} more" if len(listed) > len(near) else ""
    return f"{server.url} has no model {server.model!r}; it has: {', '.join(near)}{more}"


async def _listed(client: openai.AsyncOpenAI) -> list[str]:
    """The models that the server lists, if it lists any."""
    try:
        page = await client.with_options(max_retries=0).models.list()
        return sorted(one.id for one in page.data or [])
    except (openai.OpenAIError, ValueError, AttributeError):
        return []  # not every server has a list; the message does without

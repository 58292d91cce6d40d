"""Ways in which a server may answer: a table of modes for :mod:`fake_server`.

A mode maps a chat request to a reply. ``RIGHT`` modes have the profile in their answer, ``WRONG`` ones have none;
``PARTLY`` ones answer all users but ``u1``.
"""

import gzip
import json
import time
import zlib
from collections.abc import Callable
from typing import Any

from fake_server import KEY, PROFILE, SOON, Reply, completion, fault

Mode = Callable[[dict[str, Any]], Reply]

LISTS = {
    "identity": ["film fan", "night owl", "home cook"],
    "interests": ["Alien", "space ships", "robots"],
}
JSON = json.dumps(LISTS)
TWO_LINES = PROFILE.replace("; ", "\n").rstrip(".")
BOLD = "**User identity:** film fan, night owl, home cook\n**User interests:** Alien, space ships, robots"
BULLETS = (
    "### User identity:\n- film fan\n- night owl\n- home cook\n\n### User interests:\n- Alien\n- space ships"
)
BULLETS += "\n- robots\n"


def says(text: Any, finish: Any = "stop", **message: Any) -> Mode:
    """Answer with a text (or what stands in its place), and further fields of the message."""
    return lambda request: changed({"content": text, **message}, finish=finish)


def changed(message: Any = None, **fields: Any) -> Reply:
    """Return the right answer with other fields in the body, its first choice or the message."""
    status, body, headers = completion(PROFILE)
    choice = body["choices"][0]
    choice["message"] |= message or {}
    if "finish" in fields:
        choice["finish_reason"] = fields.pop("finish")
    return status, body | fields, headers


GZIP: Any = {"Content-Encoding": "gzip"}
DEFLATE: Any = {"Content-Encoding": "deflate"}


def raw(data: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> Mode:
    return lambda request: (status, data, {"Content-Type": kind} | headers)


def body(**fields: Any) -> Mode:
    return lambda request: changed(**fields)


def wire(*parts: bytes | float) -> Mode:
    """Write bytes to the socket, and wait so many seconds between."""

    def send(write: Callable[[bytes], Any]) -> None:
        for part in parts:
            write(part) if isinstance(part, bytes) else time.sleep(part)

    return lambda request: (0, send, {})


def refuses(name: str, status: int, error: Any) -> Mode:
    """Refuse requests that have a field, with this body."""
    return lambda request: (status, error, {}) if name in request else completion(PROFILE)


def first(reply: Mode) -> Mode:
    """Answer the first time like this, then right."""
    seen: set[str] = set()

    def answer(request: dict[str, Any]) -> Reply:
        prompt = json.dumps(request["messages"])
        again = prompt in seen
        seen.add(prompt)
        return completion(PROFILE) if again else reply(request)

    return answer


def only(reply: Mode) -> Mode:
    """Answer only the prompt of ``u1`` like this."""
    return lambda request: (
        reply(request) if "number 1" in request["messages"][-1]["content"] else completion(PROFILE)
    )


def usage(*counts: Any) -> Mode:
    return body(usage=dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=True)))


OK = json.dumps(completion(PROFILE)[1]).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DRIP = (b" ", 0.02) * 400

RIGHT: dict[str, Mode] = {
    "text": says(PROFILE),
    "JSON": says(JSON),
    "JSON, indented": says(json.dumps(LISTS, indent=4)),
    "JSON, other names": says(json.dumps({"identities": LISTS["identity"], "interest": LISTS["interests"]})),
    "JSON, as strings": says(json.dumps({name: ", ".join(listed) for name, listed in LISTS.items()})),
    "JSON in a fence": says(f"```json\n{JSON}\n```"),
    "JSON behind words": says(f"Here is the profile:\n{JSON}\nAnything else?"),
    "JSON behind thinking": says(f'<think>{{"a": 1}}</think>{JSON}'),
    "JSON with commas in phrases": says(JSON.replace("space ships", "space, ships")),
    "Markdown, bold": says(BOLD),
    "Markdown, two lines": says(TWO_LINES),
    "Markdown, bullets": says(BULLETS),
    "lines that end in CR LF": says(BOLD.replace("\n", "\r\n")),
    "words before": says(f"Sure! Here it is:\n\n{PROFILE}"),
    "words behind": says(f"{PROFILE}\n\nLet me know whether you need more."),
    "thinking before": says(f"<think>\nA film fan?\n\nYes.\n</think>\n\n{PROFILE}"),
    "thinking begun by the template": says(f"A film fan.</think>\n{PROFILE}"),
    "thinking of Magistral": says(f"[THINK]hm[/THINK]{PROFILE}"),
    "thinking of Kimi": says(f"◁think▷hm◁/think▷{PROFILE}"),
    "thinking of gpt-oss": says(
        f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{PROFILE}<|return|>"
    ),
    "thinking in a field": says(PROFILE, reasoning_content="hm", reasoning="hm"),
    "an end token": says(f"{PROFILE}<|im_end|>\n<|im_start|>user"),
    "parts": says([{"type": "text", "text": PROFILE}]),
    "parts of thinking": says(
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
            {"type": "text", "text": PROFILE},
        ]
    ),
    "a NUL": says(PROFILE.replace("Alien", "Al\0ien")),
    "no usage": lambda request: completion(PROFILE, usage=None),
    "usage: 2³¹ tokens": usage(2**31, 2**31),
    "usage: 10³⁰ tokens": usage(10**30, 10**30),
    "usage: true": usage(True, True),
    "usage: text": usage("7", "many"),
    "usage: negative": usage(-1, -2),
    "usage: infinite": usage(float("inf"), float("nan")),
    "usage: fractions": usage(1.5, 20.0),
    "usage: null": body(usage=None),
    "usage: a list": body(usage=[1, 2]),
    "finish: none": body(finish=None),
    "finish: a name of its own": body(finish="eos_token"),
    "finish: a number": body(finish=7),
    "two choices": lambda request: changed(choices=completion(PROFILE)[1]["choices"] * 2),
    "more fields": lambda request: changed(timings={"a": [1]}, object=None, id=3, model=None),
    "a byte order mark": raw(b"\xef\xbb\xbf" + OK),
    "UTF-16": raw(OK.decode().encode("utf-16")),
    "another type of content": raw(OK, kind="text/plain"),
    "no type of content": raw(OK, kind=""),
    "201": raw(OK, 201),
    "blanks before": raw(b"\n" * 5000 + OK),
    "chunks": wire(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(OK), OK)),
    "HTTP/1.0": wire(b"HTTP/1.0 200 OK\r\n\r\n" + OK),
    "drops of a body": wire(HEAD + b"Content-Length: %d\r\n\r\n" % len(OK), OK[:20], 0.01, OK[20:]),
    "429 at first": first(lambda request: fault(429, "later", SOON)),
    "500 at first": first(lambda request: fault(500, "oh", SOON)),
    "closed at first": first(wire()),
    "cut at first": first(wire(HEAD + b"Content-Length: 99999\r\n\r\n" + OK)),
    "refuses the schema": lambda request: (
        fault(
            400,
            "'response_format' of type 'json_schema' is not supported with this model",
            param="response_format",
        )
        if request.get("response_format", {}).get("type") == "json_schema"
        else completion(PROFILE)
    ),
    "refuses any format": refuses(
        "response_format", 422, {"detail": "json mode unavailable: response_format"}
    ),
    "refuses a format without a word": refuses("response_format", 400, {}),
    "refuses a penalty": refuses(
        "presence_penalty",
        400,
        {"error": {"message": "Argument not supported on this model: presence_penalty"}},
    ),
    "refuses a penalty, FastAPI": refuses(
        "presence_penalty",
        422,
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "presence_penalty"], "msg": "Extra inputs"}]},
    ),
    "refuses a penalty, in Chinese": refuses(
        "presence_penalty", 400, {"msg": "参数 presence_penalty 不支持"}
    ),
    "refuses a penalty without a word": refuses("presence_penalty", 400, b"Bad Request"),
    "refuses a penalty with 200": refuses(
        "presence_penalty", 200, {"error": "unknown field presence_penalty"}
    ),
    "refuses max_tokens": refuses(
        "max_tokens",
        400,
        {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}},
    ),
    "refuses the temperature": refuses("temperature", 400, {"message": "temperature is not permitted"}),
    "a date to come back at, at first": first(
        lambda request: fault(429, "later", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    ),
    "529 at first": first(lambda request: fault(529, "overloaded_error", SOON)),
    "a key twice": raw(b'{"choices": [], ' + OK[1:]),
    "NaN in a field": raw(b'{"logprobs": NaN, ' + OK[1:]),
    "compressed unasked": raw(gzip.compress(OK), **GZIP),
    "deflated unasked": raw(zlib.compress(OK), **DEFLATE),
    "Azure's filter results": lambda request: changed(
        prompt_filter_results=[{"content_filter_results": {"hate": {"filtered": False}}}]
    ),
    "Anthropic refuses the format": refuses(
        "response_format",
        400,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "response_format: Extra inputs"},
        },
    ),
    "Gemini refuses a penalty": refuses(
        "presence_penalty",
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": 'Unknown name "presence_penalty"',
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
    "TGI refuses a penalty": refuses(
        "presence_penalty",
        422,
        {"error": "Input validation error: `presence_penalty` is not supported", "error_type": "validation"},
    ),
    "SGLang refuses patterns": lambda request: (
        (400, {"object": "error", "message": "Failed to compile json_schema grammar", "code": 400}, {})
        if "'pattern'" in str(request)
        else completion(PROFILE)
    ),
    "Ollama fails at patterns": lambda request: (
        fault(500, "invalid JSON schema in format", SOON)
        if "'pattern'" in str(request)
        else completion(PROFILE)
    ),
    "LM Studio takes schemas alone, and no patterns": lambda request: (
        fault(400, "'response_format.type' must be 'json_schema' or 'text'")
        if "'pattern'" in str(request) or request.get("response_format", {}).get("type") == "json_object"
        else completion(PROFILE)
    ),
    "repeats the key in a field": lambda request: changed(system_fingerprint=f"Bearer {KEY}"),
}

PARTLY: dict[str, Mode] = {
    f"{name}, once": only(reply)
    for name, reply in {
        "content filter": lambda request: fault(400, "content management policy", code="content_filter"),
        "moderation": lambda request: fault(403, "flagged by moderation"),
        "too long": lambda request: fault(400, "This model's maximum context length is 64 tokens"),
        "too large": lambda request: fault(413, "Payload too large"),
        "error with 200": lambda request: (200, {"error": {"code": 502, "message": "provider"}}, {}),
        "error in a choice": lambda request: (200, {"choices": [{"error": {"message": "x"}}]}, {}),
        "null": says(None, "content_filter"),
        "fails": lambda request: fault(500, "assertion failed", SOON),
        "hangs": wire(30.0),
        "not JSON": raw(b"<html>"),
    }.items()
}

WRONG: dict[str, Mode] = {
    "empty": says(""),
    "null": says(None),
    "no content": lambda request: (200, {"choices": [{"message": {"role": "assistant"}}]}, {}),
    "blanks": says(" \n\t "),
    "marks alone": says("**\n---"),
    "thinking that is cut": says("<think>\nThe user", "length"),
    "thinking alone": says("<think>a film fan</think>\n"),
    "thinking in a field alone": says("", reasoning_content="The user likes films"),
    "thinking parts alone": says([{"type": "thinking", "thinking": "hm"}]),
    "a refusal": says(None, refusal="I will not describe people."),
    "JSON without a profile": says('{"error": "I cannot comply"}'),
    "JSON of empty lists": says('{"identity": [], "interests": []}'),
    "Anthropic's own form": lambda request: (
        200,
        {"type": "message", "content": [{"type": "text", "text": PROFILE}]},
        {},
    ),
    "529": lambda request: fault(529, "overloaded_error", SOON),
    "a refusal in words": says("I'm sorry, but I can't help with that."),
    "tool calls": says(None, "tool_calls", tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]),
    "content filter": says(PROFILE[:30], "content_filter"),
    "an error at the end": says(PROFILE[:30], "error"),
    "cut text": says(PROFILE[:30], "length"),
    "cut JSON": says(JSON[:30], "length"),
    "content: a number": says(3),
    "content: a mapping": says({"text": PROFILE}),
    "10 MB of text": says("User identity " * 700_000),
    "message: null": lambda request: (200, {"choices": [{"message": None}]}, {}),
    "message: text": lambda request: (200, {"choices": [{"message": PROFILE}]}, {}),
    "choices: a mapping": body(choices={"0": {"message": {"content": PROFILE}}}),
    "choices: a number": body(choices=7),
    "choices: text": body(choices="many"),
    "choices: null": body(choices=None),
    "choices: none": body(choices=[]),
    "choices: numbers": body(choices=[1]),
    "a list": raw(b"[]"),
    "a number": raw(b"7"),
    "nothing": raw(b""),
    "null as body": raw(b"null"),
    "HTML": raw(b"<html>hello</html>", kind="text/html"),
    "cut JSON body": raw(OK[:50]),
    "3,000,000 brackets": raw(b"[" * 3_000_000),
    "a number of 5,000 digits": raw(b'{"choices": ' + b"7" * 5000 + b"}"),
    "not UTF-8": raw(b"\xff\xfe\xfd" * 9),
    "a stream": raw(b'data: {"choices": [{"delta": {"content": "User"}}]}\n\n', kind="text/event-stream"),
    "compressed": raw(gzip.compress(b" " * 50_000_000), **GZIP),
    "an error with 200": lambda request: (200, {"error": {"message": f"no quota for {KEY}"}}, {}),
    "204": raw(b"", 204),
    "304": raw(b"", 304),
    "400": lambda request: fault(400, f"bad request with {KEY}"),
    "401": lambda request: fault(401, f"Incorrect API key provided: {KEY}"),
    "402": lambda request: fault(402, "pay first"),
    "403": lambda request: fault(403, "no"),
    "404": lambda request: fault(404, "no model"),
    "404 of another page": raw(b"<h1>Not found</h1>", 404, "text/html"),
    "405": raw(b"", 405),
    "409": lambda request: fault(409, "conflict", SOON),
    "418": raw(b"\x00\x01", 418),
    "422": raw(b'{"detail": 7}', 422),
    "429": lambda request: fault(429, f"quota of {KEY} is used up", SOON),
    "429, come back tomorrow": lambda request: fault(429, "used up", {"retry-after": "86400"}),
    "500": lambda request: fault(500, "out of memory", SOON),
    "502 of a proxy": lambda request: (
        502,
        b"<html>Bad gateway</html>",
        {"Content-Type": "text/html"} | SOON,
    ),
    "599": raw(b"", 599, **SOON),
    "an endless refusal": raw(b"x" * 9_000_000, 400),
    "a refusal in a list": raw(b'[{"error": {"message": "no"}}]', 400),
    "a redirect to itself": raw(b"", 307, Location="/v1/chat/completions"),
    "a redirect to nowhere": raw(b"", 307, Location="http://127.0.0.1:1/v1"),
    "closed at once": wire(),
    "closed within the body": wire(HEAD + b"Content-Length: 99999\r\n\r\n" + OK),
    "garbage": wire(b"\x00\x01\x02" * 99),
    "another protocol": wire(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "a header without end": wire(HEAD + b"X: " + b"y" * 300_000),
    "never an answer": wire(30.0),
    "blanks for ever": wire(HEAD + b"Content-Length: 99999\r\n\r\n", *DRIP),
    "chunks for ever": wire(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *(b"1\r\n \r\n", 0.02) * 400),
    "headers for ever": wire(HEAD, *(b"X: y\r\n", 0.02) * 400),
    "repeats the key": says(f"{KEY}: Bearer {KEY}", "content_filter"),
}

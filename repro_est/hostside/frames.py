"""Messages between machines: one line of JSON, then as many raw bytes as its `size` says.

    {"op": "log", "rank": 3, "size": 5}\\n
    hello

Everything that is said over an SSH channel or a unix socket is said so. A reader gets whole messages whatever the
pieces are in which the bytes arrive, in memory bounded by `MAX_LINE` and `MAX_PAYLOAD`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Dict

MAX_LINE = 256 << 20
MAX_PAYLOAD = 4 << 20
"""Bytes; a larger file goes in several messages."""

Message = Dict[str, Any]


class ProtocolError(Exception):
    """What arrived is no message."""


def encode(message: Message, payload: bytes = b"") -> bytes:
    """Returns the bytes of a message."""
    if payload:
        message = dict(message, size=len(payload))
    return json.dumps(message, separators=(",", ":")).encode() + b"\n" + payload


class Decoder:
    """Puts pieces together again."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._length = 0
        self._wanted = 0  # bytes of the payload that is still missing, of `_message`
        self._message: Message = {}

    def feed(self, data: bytes) -> Iterator[tuple[Message, bytes]]:
        """Yields every message that is complete with these bytes.

        Raises:
            ProtocolError: they are no messages.
        """
        self._pieces.append(data)
        self._length += len(data)
        if self._wanted and self._length < self._wanted:
            return
        if not self._wanted and b"\n" not in data:
            if self._length > MAX_LINE:
                raise ProtocolError("a line without end")
            return
        buffer = b"".join(self._pieces)
        at = 0
        while True:
            if self._wanted:
                if len(buffer) - at < self._wanted:
                    break
                payload = buffer[at : at + self._wanted]
                at += self._wanted
                self._wanted = 0
                yield self._message, payload
                continue
            end = buffer.find(b"\n", at)
            if end < 0:
                break
            self._message = parse(buffer[at:end])
            at = end + 1
            self._wanted = payload_size(self._message)
            if not self._wanted:
                yield self._message, b""
        rest = buffer[at:]
        self._pieces, self._length = [rest], len(rest)


def parse(line: bytes) -> Message:
    """Returns the message of one line.

    Raises:
        ProtocolError: it is none.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}: {line[:200]!r}") from None
    if not isinstance(message, dict):
        raise ProtocolError(f"not an object: {line[:200]!r}")
    return message


def payload_size(message: Message) -> int:
    """Returns how many raw bytes come after a message.

    Raises:
        ProtocolError: more than anybody may send at once, or no number.
    """
    size = message.get("size", 0)
    if type(size) is not int or not 0 <= size <= MAX_PAYLOAD:
        raise ProtocolError(f"a payload of {size!r} bytes")
    return size

"""A mail server for the demonstration: it takes messages over SMTP, keeps them as files, and has a bad start."""

from __future__ import annotations

import email
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parseaddr
from pathlib import Path

#: The longest line that is read, in bytes; a message's are far shorter.
LONGEST_LINE = 10_000


@dataclass
class Mishap:
    """What goes wrong with one message: the server says `reply`, or nothing, and does not keep it.

    Attributes:
        message: the message's id, once it has happened.

    """

    reply: str | None
    message: str | None = None

    @property
    def happened(self) -> bool:
        """Whether a message has met it."""
        return self.message is not None


@dataclass
class Mishaps:
    """What goes wrong with the first three messages that somebody wants to hand over."""

    silence: Mishap = field(default_factory=lambda: Mishap(None))
    busy: Mishap = field(default_factory=lambda: Mishap("451 4.3.2 too busy, try again later"))
    full: Mishap = field(default_factory=lambda: Mishap("552 5.2.2 the mailbox is full"))


class PostOffice(socketserver.TCPServer):
    """Takes messages on a port of this machine, from one sender after the other.

    Attributes:
        mishaps: what goes wrong at first.
        taken: how often each message was taken, by its id.

    """

    request_queue_size = 128

    def __init__(self, directory: Path, *, is_calm: bool = False) -> None:
        """Listen on a free port; messages go to `directory`, and nothing goes wrong where it is calm."""
        super().__init__(("127.0.0.1", 0), _Conversation)
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.mishaps = Mishaps()
        first = [self.mishaps.silence, self.mishaps.busy, self.mishaps.full]
        self._to_come = iter([] if is_calm else first)
        self.taken: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """Its address, as BRIEFING_SMTP_URL takes it."""
        return f"smtp://127.0.0.1:{self.server_address[1]}"

    def path_of(self, message: str) -> Path:
        """Return the file of a message."""
        return self._directory / f"{message}.eml"

    def take(self, content: bytes) -> str | None:
        """Keep a message, or let it meet the next mishap; return what the sender is told."""
        message = parseaddr(str(email.message_from_bytes(content)["Message-ID"]))[1].partition("@")[0]
        if mishap := next(self._to_come, None):
            mishap.message = message
            return mishap.reply
        self.path_of(message).write_bytes(content)
        self.taken[message] += 1
        return "250 OK"


@contextmanager
def open_at(directory: Path, *, is_calm: bool = False) -> Iterator[PostOffice]:
    """Run a mail server in a thread, whose messages go to `directory`; where it is calm, nothing goes wrong."""
    with PostOffice(directory, is_calm=is_calm) as office:
        threading.Thread(target=office.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield office
        finally:
            office.shutdown()


class _Conversation(socketserver.StreamRequestHandler):
    """As much of SMTP (RFC 5321) as the briefing speaks."""

    server: PostOffice

    def handle(self) -> None:
        with suppress(OSError):  # a sender may die
            self._say("220 localhost")
            while (line := self.rfile.readline(LONGEST_LINE)) and self._answer(line[:4].upper()):
                pass

    def _answer(self, verb: bytes) -> bool:
        """Answer one command; say whether there is more to come."""
        match verb:
            case b"EHLO":
                self._say("250-localhost\r\n250 SMTPUTF8")
            case b"DATA":
                self._say("354 go on")
                content = self._content()
                reply = None if content is None else self.server.take(content)
                if reply is None:
                    self.rfile.read()  # until the sender has gone
                    return False
                self._say(reply)
            case b"QUIT":
                self._say("221 bye")
                return False
            case _:
                self._say("250 OK")
        return True

    def _content(self) -> bytes | None:
        """Return a message up to the line with a dot, or None when the sender has gone before."""
        lines: list[bytes] = []
        while line := self.rfile.readline(LONGEST_LINE):
            if line == b".\r\n":
                return b"".join(lines)
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        return None

    def _say(self, reply: str) -> None:
        self.wfile.write(f"{reply}\r\n".encode())

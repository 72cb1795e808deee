"""Messages: composed with text and HTML, written to a file or handed to a mail server."""

from __future__ import annotations

import os
import re
import smtplib
import ssl
import tempfile
import textwrap
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, parseaddr
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

#: Seconds to wait for the mail server.
TIMEOUT = 10.0
WIDTH = 76

_ADDRESS = re.compile(r"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")


class Refused(Exception):
    """The mail server has refused the message for good (5xx); sent again as it is, it would be refused again."""


class Section(NamedTuple):
    """A part of the message: a heading, a text, and where the text comes from."""

    heading: str
    text: str
    sources: tuple[str, ...] = ()


def address_of(user_id: str, domain: str) -> str:
    """Return the address of a user: the id itself when it is one, else the id quoted as needed at `domain`."""
    return user_id if _ADDRESS.fullmatch(user_id) else Address(username=user_id, domain=domain).addr_spec


def compose(
    *, sender: str, to: str, subject: str, greeting: str, sections: list[Section], id: str, date: datetime
) -> EmailMessage:
    """Return a message as RFC 5322 wants it.

    Arguments:
        id: what makes the message unique; composed again with the same one it is the same, byte for byte.
        date: when what the message is about happened.

    """
    message = EmailMessage(policy=SMTP if to.isascii() and sender.isascii() else SMTPUTF8)
    message["From"] = sender
    message["To"] = to
    message["Subject"] = subject
    message["Date"] = format_datetime(date)
    message["Message-ID"] = f"<{id}@{parseaddr(sender)[1].rpartition('@')[2] or 'localhost'}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: keeps holiday notices from answering
    message.set_content(_text(greeting, sections), cte="quoted-printable")
    message.add_alternative(_html(subject, greeting, sections), subtype="html", cte="quoted-printable")
    for part in message.iter_parts():
        del part["MIME-Version"]  # belongs to the message as a whole
    message.set_boundary(f"=_{id}")
    return message


def _text(greeting: str, sections: list[Section]) -> str:
    parts = [textwrap.fill(greeting, WIDTH)]
    for section in sections:
        parts += [f"{section.heading}\n{'-' * min(len(section.heading), WIDTH)}", textwrap.fill(section.text, WIDTH)]
        if section.sources:
            parts.append(textwrap.fill(f"See: {', '.join(section.sources)}", WIDTH, subsequent_indent="     "))
    return "\n\n".join(parts) + "\n"


def _html(title: str, greeting: str, sections: list[Section]) -> str:
    parts = [f"<p>{escape(greeting)}</p>"]
    for section in sections:
        parts += [f"<h2>{escape(section.heading)}</h2>", f"<p>{escape(section.text)}</p>"]
        if section.sources:
            items = "".join(f"<li>{escape(source)}</li>" for source in section.sources)
            parts.append(f"<p>See:</p><ul>{items}</ul>")
    head = f'<head><meta charset="utf-8"><title>{escape(title)}</title></head>'
    return f'<!DOCTYPE html>\n<html lang="en">{head}\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def write(path: Path, message: EmailMessage) -> Path:
    """Write the message so that nobody sees half of it, and return its path; raise OSError when that fails."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(message.as_bytes())
            file.flush()
            os.fsync(file.fileno())  # "sent" must stay true after a power cut
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return path


def send(url: str, message: EmailMessage) -> None:
    """Hand the message to a mail server.

    Arguments:
        url: smtp://USER:PASSWORD@HOST:PORT, smtps://..., or smtp://...?starttls.

    Raises Refused when the server does not want it, and smtplib.SMTPException or OSError when it does not take it now,
    within TIMEOUT seconds.

    """
    parts = urlsplit(url)
    starttls = "starttls" in parse_qs(parts.query, keep_blank_values=True)
    host = parts.hostname or "localhost"
    with _connect(parts.scheme, host, parts.port or (587 if starttls else 0)) as server:
        if starttls:
            server.starttls(context=ssl.create_default_context())
        if parts.username:
            server.login(unquote(parts.username), unquote(parts.password or ""))
        try:
            server.send_message(message)
        except smtplib.SMTPException as exc:
            code, text = _reply(exc)
            if code >= 500:
                raise Refused(f"{code} {text}") from exc
            raise


def _reply(error: smtplib.SMTPException) -> tuple[int, str]:
    """Return what the server has answered, with the code 0 where the error is another one."""
    reply: tuple[int, bytes | str] = (0, "")
    if isinstance(error, smtplib.SMTPResponseException):
        reply = error.smtp_code, error.smtp_error
    elif isinstance(error, smtplib.SMTPRecipientsRefused):
        reply = next(iter(error.recipients.values()))
    code, text = reply
    return code, text.decode(errors="replace") if isinstance(text, bytes) else text


def _connect(scheme: str, host: str, port: int) -> smtplib.SMTP:
    if scheme == "smtps":
        return smtplib.SMTP_SSL(host, port, timeout=TIMEOUT, context=ssl.create_default_context())
    return smtplib.SMTP(host, port, timeout=TIMEOUT)

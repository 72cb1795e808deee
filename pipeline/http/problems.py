"""What an answer says when something is wrong: a problem document (RFC 9457) that names the field, and no traceback."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from ..core import errors
from ..core.errors import PipelineError, without_passwords
from ..core.observe import Log

logger = Log(logging.getLogger(__name__))

MEDIA_TYPE = "application/problem+json"
#: What every route may answer instead of what it is there for, as OpenAPI has it.
RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "What is wrong, and what to do (RFC 9457).",
        "content": {
            MEDIA_TYPE: {
                "schema": {
                    "type": "object",
                    "required": ["type", "title", "status", "detail"],
                    "properties": {
                        "type": {"type": "string", "description": "The kind of problem: urn:pipeline:problem:NAME."},
                        "title": {"type": "string"},
                        "status": {"type": "integer"},
                        "detail": {"type": "string", "description": "What is wrong, in words."},
                        "field": {"type": "string", "description": "The field that is to blame, as a dotted path."},
                    },
                }
            }
        },
    }
}
#: Seconds after which a client may try again what was too much, or for what something was away.
RETRY_AFTER = 5
#: What an error of the package is over HTTP; the nearest class among its bases counts.
STATUS: Mapping[type[PipelineError], int] = {
    errors.PipelineError: 500,
    errors.InvalidEvent: 422,
    errors.EventTooLarge: 413,
    errors.BlobTooLarge: 413,
    errors.IdTaken: 409,
    errors.InvalidPattern: 422,
    errors.InvalidFilter: 422,
    errors.InvalidAgent: 422,
    errors.InvalidSubscription: 422,
    errors.InvalidSelection: 422,
    errors.InvalidCollaboration: 422,
    errors.UnknownEvent: 404,
    errors.UnknownFlow: 404,
    errors.UnknownSubscription: 404,
    errors.UnknownBudget: 404,
    errors.BlobMissing: 404,
    errors.TreeWasCancelled: 409,
    errors.AlreadyDecided: 409,
    errors.NotAllowed: 403,
    errors.NoResponder: 404,
    errors.RequestTimeout: 504,
    errors.RequestFailed: 502,
    errors.Overloaded: 429,
    errors.EventRefused: 422,
    errors.BrokerUnavailable: 503,
    errors.EmbeddedBrokerError: 503,
    errors.BlobUnavailable: 503,
    errors.LedgerUnavailable: 503,
    errors.LedgerOff: 501,
}
#: How a message names the field that it is about: a dotted path before the first colon.
_FIELD = re.compile(r"([A-Za-z_][\w.\[\]-]*): ")
_BEFORE = re.compile(r"^.*? does not validate: ")


class Problem(Exception):
    """What is wrong with a request, for whoever has sent it.

    Arguments:
        status: the status of the answer.
        detail: what is wrong, and what to do.
        name: a word or two that stand for this kind of problem; default the status's own.
        more: further members of the document.

    """

    def __init__(
        self, status: int, detail: str, name: str = "", headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.name = name
        self.headers = dict(headers or {})
        self.more = more

    def document(self) -> dict[str, Any]:
        """Return the document as JSON data."""
        title = HTTPStatus(self.status).phrase
        kind = f"urn:pipeline:problem:{self.name}" if self.name else "about:blank"
        return {"type": kind, "title": title, "status": self.status, "detail": self.detail, **self.more}

    def answer(self) -> Response:
        """Return the answer that has the document."""
        return JSONResponse(self.document(), self.status, self.headers, MEDIA_TYPE)


#: What is said of an error that nobody has thought of.
UNKNOWN = Problem(500, "something is wrong here; the log of this server says what")


def problem_of(error: PipelineError, within: str = "") -> Problem:
    """Return an error of the package as a problem: with its status, its name, and the field where it names one.

    Arguments:
        within: the place that the field is in.

    """
    status = next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)
    detail = without_passwords(str(error)) if not within else f"{within}: {without_passwords(str(error))}"
    more: dict[str, Any] = {}
    if status in (413, 422) and (found := field_of(str(error)) or within):
        more["field"] = f"{within}.{found}" if within and found != within else found
    if isinstance(error, errors.RequestFailed):
        more |= {"code": error.code, "retryable": error.retryable}
    headers = {"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else {}
    return Problem(status, detail, _dashed(type(error).__name__), headers, **more)


def field_of(message: str) -> str | None:
    """Return the field that an error's message is about, as a dotted path."""
    match = _FIELD.match(_BEFORE.sub("", message, count=1))
    return match[1] if match else None


def install(app: FastAPI) -> None:
    """Let everything that goes wrong in a route be answered by a problem document."""

    def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, PipelineError)
        problem = problem_of(error)
        if problem.status >= 500:
            logger.warning("answered %d: %s", problem.status, problem.detail)
        return problem.answer()

    def unfit(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return invalid(error.errors(), "invalid-request").answer()

    def known(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return Problem(error.status_code, str(error.detail), headers=error.headers).answer()

    def others(_: Request, error: Exception) -> Response:
        logger.error("a route has failed", exc_info=error)
        return UNKNOWN.answer()

    app.add_exception_handler(PipelineError, ours)
    app.add_exception_handler(Problem, lambda _, problem: problem.answer())
    app.add_exception_handler(RequestValidationError, unfit)
    app.add_exception_handler(HTTPException, known)
    app.add_exception_handler(Exception, others)


def invalid(found: Sequence[Mapping[str, Any]], name: str) -> Problem:
    """Return what is wrong with a request as a problem: with each field by its path, and what would be right.

    Arguments:
        found: what pydantic has found.
        name: of the problem.

    """
    wrong = []
    for one in found:
        place = [str(part) for part in one["loc"]] or ["body"]
        inside = place[1:] if place[0] in ("body", "query", "path", "header") and len(place) > 1 else place
        wrong.append({"field": ".".join(inside), "detail": str(one["msg"])})
    shown = "; ".join(f"{one['field']}: {one['detail']}" for one in wrong[:3])
    return Problem(422, shown, name, field=wrong[0]["field"], errors=wrong)


def _dashed(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()

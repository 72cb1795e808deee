"""What `ctx.ask` asks: the event that proposes it, and what its answer is to the handler."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import orjson

from ...contracts import arguments
from ...contracts.arguments import Schema
from ...core.announcements import ActionProposed
from ...core.errors import InvalidEvent, InvalidStep, Vetoed
from ...core.event import MAX_LENGTH
from ...core.times import as_json_time, micros, seconds_of
from ...ledger.waiting.approval import APPROVED, EXPIRED, PENDING, Approval, Proposal

if TYPE_CHECKING:
    from ...ledger.ledger import Ledger

#: The name of the step that an answer is.
STEP = "ask {}"
#: What becomes of a veto: an error, or an answer as others.
OnVeto = Literal["raise", "return"]


@dataclass(frozen=True, slots=True)
class Ask:
    """What a handler asks for.

    Attributes:
        args: as JSON data.
        schema: what they have to be.
        deadline: when nobody is asked any more.
        on_veto: whether a veto is an error.

    """

    action: str
    args: dict[str, Any]
    schema: Schema
    message: str | None
    deadline: datetime | None
    n_of: int
    who: tuple[str, ...]
    on_veto: OnVeto

    @property
    def step(self) -> str:
        """The name of the step that the answer is."""
        return STEP.format(self.action)

    def reason(self, *, is_new: bool) -> str:
        """Return what a delivery waits for, for people; of what was proposed earlier the deadline is another one."""
        until = f" until {self.deadline.isoformat(sep=' ', timespec='seconds')}" if self.deadline and is_new else ""
        return f"waits for approval of {self.action}{until}"

    def proposal(self, id: str, agent: str) -> ActionProposed:
        """Return the event's payload."""
        return ActionProposed(
            action_id=id,
            agent_id=agent,
            action=self.action,
            params=self.args,
            deadline=self.deadline,
            message=self.message,
            response_schema=arguments.json_schema(self.schema, self.action),
            n_of=self.n_of,
            who=self.who,
        )

    def answer(self, ledger: Ledger, id: str, *, is_new: bool) -> tuple[int, str] | None:
        """Return when it was asked (microseconds) and the answer as a step's result; None as long as nobody decides.

        What was approved is checked again, and is only good until it expires.

        Arguments:
            is_new: whether it is proposed only now.

        """
        found = ledger.waiting.approvals.get(id)
        if found is None:
            if is_new:
                return None
            raise InvalidStep(f"the approval {id} of {self.action} is gone from the ledger; ask under another name")
        if found.status == PENDING:
            return None
        return micros(found.asked), orjson.dumps(_kept(self._checked(found))).decode()

    def _checked(self, found: Proposal) -> Approval:
        answer = found.answer
        if answer.status != APPROVED:
            return answer
        if found.expires is not None and found.expires <= datetime.now(UTC):
            by = f" by {found.by}" if found.by else ""
            reason = f"it was approved{by}, and nobody had begun with it when it expired"
            return Approval(id=found.id, status=EXPIRED, reason=reason, at=found.expires)
        try:
            arguments.read(self.schema, answer.payload, f"what was approved of {self.action}")
        except InvalidEvent as exc:
            raise InvalidStep(str(exc)) from None
        return answer

    def read(self, text: str) -> Approval:
        """Return the answer that was kept; raise Vetoed, unless the handler wants to see a veto, too."""
        said = orjson.loads(text)
        at = None if said["at"] is None else datetime.fromisoformat(said["at"])
        args = None
        if said["status"] == APPROVED:
            args = arguments.read(self.schema, said["payload"], f"what was approved of {self.action}")
        answer = Approval(said["id"], said["status"], said["payload"], args, said["by"], said["reason"], at)
        if answer or self.on_veto == "return":
            return answer
        by = f" by {answer.by}" if answer.by else ""
        raise Vetoed(f"{self.action} is {answer.status}{by}" + (f": {answer.reason}" if answer.reason else ""))


def _kept(answer: Approval) -> dict[str, Any]:
    return {**answer.as_data(), "by": answer.by, "reason": answer.reason, "at": as_json_time(answer.at)}


def asked(
    action: str,
    args: Any,
    *,
    schema: Schema,
    message: str | None,
    expires: float | timedelta | str | None,
    n_of: int,
    who: str | Iterable[str],
    veto: str,
) -> Ask:
    """Return what is asked for; raise InvalidStep that says what is wrong with it."""
    if not isinstance(action, str) or not 0 < len(action) <= MAX_LENGTH - len(STEP) - 60:
        raise InvalidStep(f"ask: {action!r:.60} is no action: a text of 1 to {MAX_LENGTH - len(STEP) - 60} characters")
    if isinstance(n_of, bool) or not isinstance(n_of, int) or n_of < 1:
        raise InvalidStep(f"ask {action!r}: n_of={n_of!r}: how many have to approve, 1 or more")
    if veto not in ("raise", "return"):
        raise InvalidStep(f'ask {action!r}: veto={veto!r}: it is "raise" or "return"')
    names = (who,) if isinstance(who, str) else tuple(who)
    seconds = None if expires is None else seconds_of(expires, "expires")
    if seconds == 0:
        raise InvalidStep(f"ask {action!r}: expires={expires!r}: nobody could decide in no time")
    schema = type(args) if schema is None and hasattr(type(args), "model_validate") else schema
    try:
        data = arguments.as_json(args, f"ask {action!r}")
        arguments.check(arguments.json_schema(schema, f"ask {action!r}"), data, f"ask {action!r}: what is proposed")
    except InvalidEvent as exc:
        raise InvalidStep(str(exc)) from None
    deadline = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
    return Ask(action, data, schema, message, deadline, n_of, names, "return" if veto == "return" else "raise")

"""What `ctx.ask` asks: the event that proposes it, and what its answer is to the handler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

import orjson

from ...contracts import arguments
from ...contracts.arguments import Schema
from ...core.announcements import ActionProposed
from ...core.errors import InvalidEvent, InvalidStep, Vetoed
from ...core.event import MAX_LENGTH
from ...core.ids import caused_id
from ...core.times import as_json_time, micros, time_limit, utc_now
from ...ledger.waiting.approval import APPROVED, EXPIRED, PENDING, Approval, Proposal

if TYPE_CHECKING:
    from ...ledger.ledger import Ledger

#: The name of the step that an answer is.
STEP = "ask {}"
#: How many hexadecimal digits tell arguments apart.
_DIGITS = 32
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

    @property
    def about(self) -> str:
        """What tells it apart from others of its action."""
        return _about(self.args)

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
        kept = {**_kept(self._checked(found)), "about": _about(found.proposed)}
        return micros(found.asked), orjson.dumps(kept).decode()

    def _checked(self, found: Proposal) -> Approval:
        answer = found.answer
        if answer.status != APPROVED:
            return answer
        if found.expires is not None and found.expires <= utc_now():
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


class Asked:
    """What a delivery asks for one action, each with its number: earlier runs have asked some of it already.

    What is asked side by side may come in another order each time, so it is found by its arguments.

    Arguments:
        before: by number, what earlier runs have asked about; None for answers from before that was kept.

    """

    def __init__(self, before: Sequence[str | None]) -> None:
        self._before, self._taken = before, set[int]()

    def number(self, wanted: Ask) -> int:
        """Return the number of what is asked, which is taken then; raise InvalidStep in the place of something else.

        Of what is equal the first one that is left has it.
        """
        left = [number for number in range(len(self._taken) + len(self._before) + 1) if number not in self._taken]
        same = (one for one in left if one < len(self._before) and self._before[one] == wanted.about)
        number = next(same, left[0])
        if number < len(self._before) and self._before[number] not in (wanted.about, None):
            raise InvalidStep(
                f"ask {wanted.action!r}: before it has waited, the handler asked for it with other arguments, and they "
                "have to be the same each time: let a step make them, or give what is asked side by side actions of "
                "its own"
            )
        self._taken.add(number)
        return number


def approval_ids(ledger: Ledger | None, delivery: str, step: str, times: int) -> Callable[[int], str]:
    """Return what gives the id of the approval of each number of an action.

    Arguments:
        times: how often steps of the delivery were forgotten: then it is asked anew.

    """
    key = "/".join((delivery, *[str(times)] * bool(times), step))
    return partial(caused_id, key, secret=b"" if ledger is None else ledger.secret)


def asked_before(
    ledger: Ledger | None, step: str, known: Mapping[tuple[str, int], str], id_of: Callable[[int], str]
) -> list[str | None]:
    """Return what earlier runs of a delivery have asked about, by number.

    Arguments:
        step: the name of the steps that the answers are.
        known: the results of the delivery's steps.
        id_of: returns the id of the approval of a number.

    """
    found: list[str | None] = []
    while ledger is not None:
        number = len(found)
        if (text := known.get((step, number))) is not None:
            found.append(orjson.loads(text).get("about"))
        elif (proposal := ledger.waiting.approvals.get(id_of(number))) is not None:
            found.append(_about(proposal.proposed))
        else:
            break
    return found


def _about(args: Any) -> str:
    return sha256(orjson.dumps(args, option=orjson.OPT_SORT_KEYS)).hexdigest()[:_DIGITS]


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
    seconds = None if expires is None else time_limit(expires, f"ask {action!r}: expires", InvalidStep)
    schema = type(args) if schema is None and hasattr(type(args), "model_validate") else schema
    try:
        data = arguments.as_json(args, f"ask {action!r}")
        arguments.check(arguments.json_schema(schema, f"ask {action!r}"), data, f"ask {action!r}: what is proposed")
    except InvalidEvent as exc:
        raise InvalidStep(str(exc)) from None
    deadline = None if seconds is None else utc_now() + timedelta(seconds=seconds)
    return Ask(action, data, schema, message, deadline, n_of, names, "return" if veto == "return" else "raise")

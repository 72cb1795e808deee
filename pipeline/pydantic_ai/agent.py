"""An agent whose runs are durable: each gets a capability, which wraps its model and its tools.

A handler that goes on starts at its top, and so does the run; what has an answer in the ledger returns it. It stands on
the hooks that pydantic-ai has for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from pydantic_ai.agent import AbstractAgent, AgentRun, WrapperAgent
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.models import Model
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, RunContext, ToolApproved, ToolDenied
from pydantic_ai.toolsets import AbstractToolset

from ..agents.context import Context
from ..agents.pausing.within import HANDLING, IN_STEP
from ..agents.waiting import Waiting
from ..contracts.arguments import check, json_schema
from ..core.errors import InvalidEvent, InvalidStep, PipelineError
from .answers import OnceModel
from .calls import OnceTools
from .run import Asking, Begun, Reserve, Run

if not hasattr(AbstractCapability, "get_wrapper_model"):  # it would ask nobody, and pay twice
    raise ImportError("it is older than 2.62", name="pydantic_ai")

Deps = TypeVar("Deps")
Output = TypeVar("Output")


def durable(
    agent: AbstractAgent[Deps, Output],
    ctx: Context | None = None,
    *,
    name: str | None = None,
    reserve: Reserve | None = None,
    ask: Asking | bool = True,
) -> WrapperAgent[Deps, Output]:
    """Return an agent like this one, each of whose model requests and tool calls is a step of the delivery it runs in.

    It may be made once, and run by any handler; runs outside of handlers are refused. What a tool returns has to be
    what JSON holds, and it comes back as that, at the first time too.

    Arguments:
        agent: any agent of pydantic-ai.
        ctx: the handler's context; default that of the handler that runs it.
        name: what its steps are called by; default the agent's name. Runs that begin at different times side by side,
            in one delivery, need one each.
        reserve: what each request takes from the delivery's budgets before it is made; default nothing. What it has
            used is settled after it.
        ask: whether tools that need an approval ask people for it with `ctx.ask`, and how; False leaves that to you.

    Raises PipelineError when it has no name. A run raises that outside of a handler, LedgerOff without a ledger,
    OverBudget where a budget has no room, InvalidStep for what a tool returns that JSON cannot hold and for runs that
    need a name each, and whatever pydantic-ai raises.

    """
    called = name or agent.name
    if not called:
        raise PipelineError(
            "durable(): the agent has no name, by which its steps are found again; Agent(..., name='writer') or "
            "durable(agent, name='writer')"
        )
    return Durable(agent, ctx, called, dict(reserve or {}), dict(ask) if isinstance(ask, Mapping) else ask)


#: The runs of each delivery, by the step that they are in and their name; while it is under way.
_RUNS: WeakKeyDictionary[Waiting, dict[Any, Begun]] = WeakKeyDictionary()


class Durable(WrapperAgent[Deps, Output]):
    """An agent whose runs are durable: each gets a capability, which wraps its model and its tools."""

    def __init__(
        self,
        agent: AbstractAgent[Deps, Output],
        ctx: Context | None,
        called: str,
        reserve: dict[str, Any],
        ask: dict[str, Any] | bool,
    ) -> None:
        super().__init__(agent)
        self._ctx, self._called, self._reserve, self._ask = ctx, called, reserve, ask

    @asynccontextmanager
    async def iter(  # its overloads all end here
        self, user_prompt: Any = None, *, capabilities: Any = None, **options: Any
    ) -> AsyncGenerator[AgentRun[Deps, Any]]:
        """Run the agent step by step; every way to run one comes here."""
        with self._begun() as run:
            added = [*(capabilities or ()), Steps(run)]
            async with self.wrapped.iter(user_prompt, capabilities=added, **options) as going:
                yield going

    @contextmanager
    def _begun(self) -> Iterator[Run]:
        """Return which run of which name this is."""
        ctx = self._ctx or HANDLING.get()
        if ctx is None:
            raise PipelineError(
                f"durable agent {self._called!r}: it runs in a handler, whose delivery keeps its answers; elsewhere "
                "run the agent itself, or pass the context: durable(agent, ctx)"
            )
        place = IN_STEP.get()
        every = _RUNS.setdefault(ctx._waits("a durable agent"), {})
        runs = every.setdefault((place, self._called), Begun())
        if runs.going and runs.ended:
            raise InvalidStep(
                f"durable agent {self._called!r}: one of its runs begins when another one has ended and a third one "
                "goes on, so that which is which may change; give each its own name: durable(agent, name=...)"
            )
        runs.number, runs.going, runs.ended = runs.number + 1, runs.going + 1, runs.ended if runs.going else 0
        if sum(one.going for one in every.values()) > 1:
            for one in every.values():
                one.beside = one.beside or one.going > 0
        number = f" ({runs.number})" if runs.number > 1 else ""
        within = f" in {place[0]}{f' ({place[1] + 1})' if place[1] else ''}" if place else ""
        try:
            yield Run(ctx, f"{self._called}{number}{within}", self._reserve, self._ask, runs)
        finally:
            runs.going, runs.ended = runs.going - 1, runs.ended + 1
            runs.beside = runs.beside and runs.going > 0


class Steps(AbstractCapability[Any]):
    """What pydantic-ai asks in one run: who sends its requests, calls its tools, and decides about them."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def get_ordering(self) -> CapabilityOrdering:
        """Stand where the provider and the tools are: what others make of their answers is made anew."""
        return CapabilityOrdering(position="innermost")

    def get_default_run_id(self) -> str:
        """Return an id that is the same when the delivery goes on."""
        return f"{self._run.ctx.delivery_id}/{self._run.name}"

    def get_wrapper_model(self, model: Model) -> Model:
        """Return the model that asks once."""
        return OnceModel(model, self._run)

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        """Return the tools that are called once."""
        return OnceTools(toolset, self._run)

    async def handle_deferred_tool_calls(
        self, ctx: RunContext[Any], *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        """Ask people about the calls that need it, one after the other; the delivery is parked meanwhile."""
        run = self._run
        if not requests.approvals or run.ask is False:
            return None
        if run.begun.beside:  # whose proposal is whose, goes by their order
            raise InvalidStep(
                f"durable agent {run.name!r}: a call of {requests.approvals[0].tool_name} needs an approval, and other "
                "runs of the delivery went on beside it: run it by itself, not side by side with others or in a tool"
            )
        results = DeferredToolResults()
        for call in requests.approvals:
            said = requests.metadata.get(call.tool_call_id, {}).get("message")
            message = said if isinstance(said, str) else f"{run.name} wants to call {call.tool_name}."
            how = run.ask if isinstance(run.ask, dict) else {}
            given = call.args_as_dict()
            tool = (ctx.tool_manager.tools or {}).get(call.tool_name) if ctx.tool_manager else None
            schema = tool.tool_def.parameters_json_schema if tool else None
            try:  # a number as a text passes pydantic's checks, and not those of people's tools
                check(json_schema(schema, call.tool_name), given, call.tool_name)
            except InvalidEvent as exc:
                results.approvals[call.tool_call_id] = ToolDenied(f"Nobody was asked: {exc}. Call it again.")
                continue
            ask = partial(run.ctx.ask, call.tool_name, given, schema=schema, message=message, veto="return", **how)
            answer = await asyncio.to_thread(ask)
            if answer:
                changed = None if answer.payload == given else answer.payload
                results.approvals[call.tool_call_id] = ToolApproved(override_args=changed)
            else:
                by = f" by {answer.by}" if answer.by else ""
                why = f": {answer.reason}" if answer.reason else "."
                results.approvals[call.tool_call_id] = ToolDenied(f"The call is {answer.status}{by}{why}")
        return results

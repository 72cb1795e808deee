"""The demonstrations: `pipeline demo` alone, or with questions, is the briefing."""

from __future__ import annotations

from typing import Any

from ..group import CommandSet, Group, examples
from .briefing import briefing
from .crew import crew
from .orders import orders
from .trading import trading

#: What `pipeline demo` runs where it is not said.
DEFAULT = "briefing"


class _Demos(Group):
    """The demonstrations, of which one need not be named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; what names no demonstration belongs to the default one."""
        is_named = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if is_named else [DEFAULT, *args])


commands = CommandSet(
    cls=_Demos,
    help="See it work; without a name it is the briefing.",
    rich_markup_mode=None,
    epilog=examples(
        "pipeline demo",
        'pipeline demo "What is a decorator?"',
        "pipeline demo orders",
        "pipeline demo trading",
        "pipeline demo crew",
        "pipeline demo --serve                              then look at it in a browser",
    ),
)
commands.command(
    epilog=examples(
        "pipeline demo briefing",
        'pipeline demo "How do exceptions work?" "How do I sort a list?" --directory /tmp/briefing',
    )
)(briefing)
commands.command(
    epilog=examples(
        "pipeline demo crew",
        'pipeline demo crew "lambdas, generators and modules" --yes',
        "pipeline demo crew --yes --json",
        "CREW_MODEL=openai:gpt-5 OPENAI_API_KEY=... pipeline demo crew",
    )
)(crew)
commands.command(epilog=examples("pipeline demo orders", "pipeline demo orders --directory /tmp/orders --json"))(orders)
commands.command(epilog=examples("pipeline demo trading", "pipeline demo trading --seed 3 --json"))(trading)

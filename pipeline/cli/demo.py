"""The command that shows the bus at work: demo."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from .group import CommandSet, examples
from .options import AsJson
from .output import out, print_json

if TYPE_CHECKING:
    from ..core.event import Event
    from ..examples.briefing.demo import Report, Story

commands = CommandSet()

LONGEST_QUESTION = 2000
#: The field of each of the briefing's events that says what happened.
_SAYS = {"user.query": "query", "user.notified": "message", "research.failed": "error", "email.sent": "to"}


@commands.command(
    epilog=examples(
        "pipeline demo", 'pipeline demo "How do exceptions work?" "How do I sort a list?" --directory /tmp/briefing'
    )
)
def demo(
    questions: Annotated[list[str] | None, typer.Argument(help="Questions about Python; default a few.")] = None,
    directory: Annotated[
        Path | None, typer.Option(file_okay=False, help="Where all state goes; default a new temporary directory.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for everything together.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Start a worker with the briefing example, ask it questions, and show what caused what."""
    from ..examples.briefing.demo import QUESTIONS, run

    asked = questions or list(QUESTIONS)
    if not all(0 < len(question.strip()) <= LONGEST_QUESTION for question in asked):
        raise typer.BadParameter(f"a question has 1 to {LONGEST_QUESTION} characters", param_hint="QUESTIONS")
    if as_json:
        print_json(run(asked, directory=directory, timeout=timeout).as_data())
        return
    with out.status("") if out.is_terminal else nullcontext() as status:

        def stage(text: str) -> None:
            if status is not None:
                status.update(f"{text} ...")
            else:
                out.print(f"{text} ...")

        report = run(asked, directory=directory, timeout=timeout, stage=stage, seen=_print_progress)
    _print_report(report)


def _print_progress(story: Story, event: Event) -> None:
    out.print(Text(f"  {story.seconds(event):5.2f} s  {event.type:<18} {_about(event)}"))


def _about(event: Event) -> str:
    """Return what an event of the briefing says, in a few words."""
    if event.type == "research.found":
        title = event.data["title"]
        return f"{event.data['researcher']}: {title}" if title else str(event.data["summary"])
    if event.type == "research.complete":
        return f"by {' and '.join(event.data['results'])}"
    return str(event.data.get(_SAYS.get(event.type, ""), ""))


def _print_report(report: Report) -> None:
    for story in report.stories:
        out.print()
        out.print(Text(story.question.data["query"], style="bold"))
        out.print(Text(story.answer), width=min(out.width, 100), soft_wrap=False)
        out.print(_tree(story))
    out.print()
    for story in report.stories:
        out.print(Text(f"message    {story.message}"))
    out.print(Text(f"audit log  {report.audit}"))
    out.print(Text(f"everything in {report.seconds:.1f} s; all state is in {report.directory}"))


def _tree(story: Story) -> Tree:
    """Return what caused what, with the seconds since the question."""

    def grow(branch: Tree, event: Event) -> None:
        for caused in story.caused_by(event):
            _, is_agent, name = caused.source.partition("/agent/")
            who = name if is_agent else "the join"
            grow(branch.add(Text(f"{caused.type}  +{story.seconds(caused):.2f} s  by {who}")), caused)

    root = Tree(Text(f"{story.question.type}  {story.question.id}"))
    grow(root, story.question)
    return root

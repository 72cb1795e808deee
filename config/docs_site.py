"""What the site of the documents has beside docs/*.md; mkdocs.yml names it as a hook.

The list of pages in README.md is the one source of the navigation, of docs/llms.txt and of the site's first page. The
reference of the API and of the commands is made when the site is built, and so is a page for each file of code that a
document leads to. `python config/docs_site.py` writes docs/llms.txt.
"""

from __future__ import annotations

import importlib
import inspect
import posixpath
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
#: Documents above docs/, and what they are called on the site.
ABOVE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
#: Modules with public names, beside `pipeline` itself.
MODULES = ("families", "filters", "testing", "http")
#: Where the pages are that show files of code.
CODE = "code/"
#: Room for tables, whose first column is not broken within names.
STYLE = """
.md-grid {max-width: 78rem}
.md-typeset table:not([class]) th {min-width: 3rem}
.md-typeset table:not([class]) td:first-child code {white-space: nowrap}
"""


_ENTRY = re.compile(r"^- \[([^\]]+)\]\(([^)]+)\): (.+?)(?=\n- |\n\n|\s*\Z)", re.MULTILINE | re.DOTALL)
_FENCES = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


@dataclass(frozen=True)
class Entry:
    """A page in the README's list: what it is called, where it lies in the repository, and a line about it."""

    title: str
    path: str
    about: str


def listed() -> dict[str, list[Entry]]:
    """Return the pages that the README lists, by kind."""
    text = (ROOT / "README.md").read_text().split("\n## Where to read on\n")[1]
    _, *kinds = text.split("\n### ")
    return {kind.partition("\n")[0]: entries_of(kind) for kind in kinds}


def entries_of(text: str) -> list[Entry]:
    """Return the pages that a part of the list names."""
    return [Entry(title, path, " ".join(about.split())) for title, path, about in _ENTRY.findall(text)]


def llms() -> str:
    """Return the list in the form of llmstxt.org; its links lead to Markdown, in the repository and on the site."""
    summary = (ROOT / "README.md").read_text().split("\n\n")[1]
    parts = ["# pipeline", f"> {' '.join(summary.split())}"]
    parts.append("On the site, llms-full.txt is the whole text of all these pages.")
    for kind, entries in listed().items():
        pages = [one for one in entries if one.path not in ABOVE]
        lines = [f"- [{one.title}]({one.path.removeprefix('docs/')}): {one.about}" for one in pages]
        parts += [f"## {kind}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


# -- links


def site_path(path: str) -> str:
    """Return where a file of the repository is on the site."""
    if path in ABOVE:
        return ABOVE[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{CODE}{path}.md"


def origin(page: str) -> str:
    """Return the file of the repository that a page of the site is made of; what site_path() undoes."""
    return next((path for path, name in ABOVE.items() if name == page), f"docs/{page}")


def targets(text: str) -> Iterator[str]:
    """Yield the links of a text that lead to files, without those in its code."""
    for part in _FENCES.split(text)[::2]:
        for _, link, _ in _LINK.findall(part):
            if not re.match(r"[a-z]+:|#", link):
                yield link


def turned(text: str, page: str) -> str:
    """Return a page's text with links that lead where the same files are on the site."""
    above = posixpath.dirname(origin(page))

    def turn(match: re.Match[str]) -> str:
        opened, link, closed = match.groups()
        if re.match(r"[a-z]+:|#", link):
            return match[0]
        path, hash, anchor = link.partition("#")
        target = site_path(posixpath.normpath(posixpath.join(above, path)))
        return f"{opened}{posixpath.relpath(target, posixpath.dirname(page) or '.')}{hash}{anchor}{closed}"

    parts = _FENCES.split(text)
    parts[::2] = [_LINK.sub(turn, part) for part in parts[::2]]
    return "".join(parts)


# -- pages that are made


def code_page(path: str) -> str:
    """Return a page that shows a file of the repository."""
    text = (ROOT / path).read_text()
    language = {".py": "python", ".yml": "yaml"}.get(Path(path).suffix, "text")
    return f"---\nsearch: {{exclude: true}}\nhide: [navigation]\n---\n\n# {path}\n\n````{language}\n{text}````\n"


def module_page(module: str) -> str:
    """Return the reference of a module: a directive of mkdocstrings for each of its public names."""
    found = importlib.import_module(module)
    names = [name for name in public_names(found) if not name.startswith("__")]
    errors = [name for name in names if _is_error(getattr(found, name))]
    about = inspect.cleandoc(found.__doc__ or "").split("\n\n")[0]
    parts = [f"# {module}", about, *(f"::: {module}.{name}" for name in names if name not in errors)]
    if errors:
        parts += ["## Errors", *(f"::: {module}.{name}\n    options: {{heading_level: 3}}" for name in errors)]
    return "\n\n".join(parts) + "\n"


def public_names(module: Any) -> list[str]:
    """Return what a module exports: what it lists, or its own classes in their order."""
    classes = {name: one for name, one in vars(module).items() if inspect.isclass(one)}
    listed = [name for name, one in classes.items() if one.__module__.startswith("pipeline.") and name != "Payload"]
    return getattr(module, "__all__", listed)


def _is_error(one: Any) -> bool:
    return inspect.isclass(one) and issubclass(one, Exception)


def commands_page() -> str:
    """Return what each command says of itself when it is asked with --help."""
    from typer.main import get_command

    from pipeline.cli.main import cli

    parts = ["# Commands", "What `--help` says of each. `celery -A shop pipeline ...` has the same ones."]

    def show(command: Any, name: str, parent: Any) -> None:
        context = command.context_class(command, info_name=name, parent=parent, terminal_width=100)
        with context:
            shown = command.get_help(context)
        parts.extend([f"## {context.command_path}", f"```text\n{shown.strip()}\n```"])
        for inner, one in sorted(getattr(command, "commands", {}).items()):
            show(one, inner, context)

    show(get_command(cli), "pipeline", None)
    return "\n\n".join(parts) + "\n"


def made() -> dict[str, str]:
    """Return the pages that are not in docs/, and their texts."""
    pages = {name: (ROOT / path).read_text() for path, name in ABOVE.items()}
    documents = {**pages, **{path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}}
    for name, text in documents.items():
        for link in targets(text):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(origin(name)), link.partition("#")[0]))
            if (page := site_path(path)).startswith(CODE) and page not in pages:
                pages[page] = code_page(path)
    pages |= {"api/pipeline.md": module_page("pipeline"), "api/commands.md": commands_page()}
    return pages | {f"api/{name}.md": module_page(f"pipeline.{name}") for name in MODULES}


# -- what mkdocs calls


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the navigation of the README's list."""
    kinds = {kind: [{one.title: site_path(one.path)} for one in entries] for kind, entries in listed().items()}
    api: list[dict[str, Any]] = [{"Commands": "api/commands.md"}, {"pipeline": "api/pipeline.md"}]
    api += [{f"pipeline.{name}": f"api/{name}.md"} for name in MODULES]
    kinds["Reference"] += api
    config.nav = [{"Home": "index.md"}, *({kind: entries} for kind, entries in kinds.items())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    for name, text in made().items():
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "assets/site.css", content=STYLE))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page that was written for the repository."""
    name = page.file.src_uri
    return markdown if name.startswith((CODE, "api/")) else turned(markdown, name)


def on_post_build(config: MkDocsConfig) -> None:
    """Lay the Markdown beside the pages, and all of it in one file, for language models."""
    site = Path(config.site_dir)
    whole = [(ROOT / "README.md").read_text()]
    for entry in (one for entries in listed().values() for one in entries):
        if entry.path.startswith("docs/"):
            shutil.copy(ROOT / entry.path, site / site_path(entry.path))
            whole.append((ROOT / entry.path).read_text())
    (site / "llms-full.txt").write_text("\n\n".join(whole))


if __name__ == "__main__":
    (ROOT / "docs" / "llms.txt").write_text(llms())

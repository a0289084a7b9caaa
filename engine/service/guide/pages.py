"""Markdown pages of `docs/` as HTML: anchors as GitHub makes them, links between pages, and a menu from the index.

Raw HTML in Markdown is shown as text. Links to files outside `docs/`, which an installation does not have, become plain
text.
"""

import html
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

ADDRESS = "/docs/guide"
INDEX = "README.md"
_PACKAGE = Path(__file__).resolve().parents[2]
_PACKED, _CHECKED_OUT = _PACKAGE / "docs", _PACKAGE.parent / "docs"
_formatter = HtmlFormatter(nowrap=True)


@dataclass(frozen=True)
class GuidePage:
    """One page: its title, and its content as HTML."""

    title: str
    content: str


def guide_folder() -> Path:
    """The folder of the documentation: in the package, or beside it where the repository is checked out."""
    return _PACKED if _PACKED.is_dir() else _CHECKED_OUT


def page_names(folder: Path) -> list[str]:
    """The pages of the guide, as paths below its folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.md"))


def address_of(name: str, anchor: str = "") -> str:
    """The address of a page, given as a path below the folder."""
    stem = name.removesuffix(".md")
    if posixpath.basename(name) == INDEX:
        stem = posixpath.dirname(name)
    return f"{ADDRESS}/{stem}".rstrip("/") + (f"#{anchor}" if anchor else "")


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def read_page(folder: Path, name: str) -> GuidePage:
    """Render one page, given as a path below the folder."""
    parser = MarkdownIt("commonmark", {"html": False, "highlight": _highlight}).enable("table")
    tokens = parser.parse((folder / name).read_text(encoding="utf-8"))
    title = next((text for level, text in _headings(tokens) if level == 1), name)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if before is not None and before.type == "heading_open":
            before.attrSet("id", slug(_text_of(token)))
        if token.children:
            token.children = list(_rewrite_links(token.children, folder, name))
    content = parser.renderer.render(tokens, parser.options, {})
    tables = content.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace(
        "</table>", "</table></div>"
    )
    return GuidePage(title, tables.replace("<pre>", '<pre tabindex="0">'))


def read_menu(folder: Path) -> str:
    """The menu: the sections of the index with the links of their lists."""
    tokens = MarkdownIt("commonmark", {"html": False}).enable("table").parse((folder / INDEX).read_text("utf-8"))
    parts: list[str] = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if before is not None and before.type == "heading_open" and before.tag == "h2":
            parts.append(f"<h2>{html.escape(_text_of(token).partition(':')[0])}</h2>")
        elif parts and token.type == "inline" and token.level > 1:
            parts += [f'<a href="{address}">{html.escape(text)}</a>' for address, text in _links(token, folder)]
    return "".join(parts)


def _links(token: Token, folder: Path) -> Iterator[tuple[str, str]]:
    """The addresses and texts of an item's links to pages of the guide."""
    address = ""
    for child in _rewrite_links(token.children or [], folder, INDEX):
        if child.type == "link_open":
            address = str(child.attrGet("href"))
        elif child.type == "text" and address:
            yield address, child.content
            address = ""


def _rewrite_links(children: Sequence[Token], folder: Path, name: str) -> Iterator[Token]:
    """The tokens of a line, with links and pictures pointing to the guide's addresses."""
    dropped = 0
    for token in children:
        if token.type == "link_close" and dropped:
            dropped -= 1
            continue
        if token.type == "link_open":
            found = _resolve(str(token.attrGet("href")), folder, name)
            if found is None:
                dropped += 1
                continue
            token.attrSet("href", found)
        elif token.type == "image":
            token.attrSet("src", _resolve(str(token.attrGet("src")), folder, name) or "")
        yield token


def _resolve(link: str, folder: Path, name: str) -> str | None:
    """The address of a page's link; None for a file outside the guide."""
    if "://" in link or link.startswith("/"):
        return link
    path, _, anchor = link.partition("#")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
    if target.startswith("..") or not (folder / target).exists():
        return None
    if target.endswith(".md"):
        return address_of(target, anchor)
    return f"{ADDRESS}/{target}" if (folder / target).is_file() else None


def _headings(tokens: Sequence[Token]) -> Iterator[tuple[int, str]]:
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            yield int(before.tag[1:]), _text_of(token)


def _text_of(token: Token) -> str:
    return "".join(child.content for child in token.children or [] if child.type in ("text", "code_inline"))


def _highlight(code: str, language: str, _: str) -> str:
    """The code with a CSS class per kind of word; unchanged for languages that pygments does not know."""
    try:
        marked: str = highlight(code, get_lexer_by_name(language), _formatter)
    except ClassNotFound:
        return html.escape(code)
    return marked

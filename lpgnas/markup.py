"""HTML and SVG elements as text in which everything that is not markup is escaped."""

from __future__ import annotations

from html import escape

_VOID = frozenset({"meta", "link", "br", "hr"})


class Html(str):
    """Text that is markup already; any other text is escaped where it becomes a child."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: object) -> Html:
    """One element.

    Args:
        tag: its name.
        children: `Html` as it is, anything else as escaped text.
        attributes: `class_` is `class`, other underscores become hyphens; None leaves an attribute out.
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Html(f"<{tag}{given}>")
    return Html(f"<{tag}{given}>{joined(*children)}</{tag}>")


def joined(*children: object) -> Html:
    """Children one after the other, escaped unless they are `Html`."""
    return Html("".join(child if isinstance(child, Html) else escape(str(child)) for child in children))

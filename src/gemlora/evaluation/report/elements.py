"""Elements of HTML and SVG as a tree; the serialiser escapes every text, so none ever becomes markup."""

from typing import TypeAlias
from xml.etree import ElementTree

Child: TypeAlias = "ElementTree.Element | str | None"

VISIBLE_CONTROLS = "\n\t"


def element(tag: str, *children: Child, **attributes: str | float) -> ElementTree.Element:
    """An element with these children; texts stay text. `class_` is `class`, and `_` in a name is `-`."""
    made = ElementTree.Element(tag, {_name(key): _clean(str(value)) for key, value in attributes.items()})
    for child in children:
        if isinstance(child, ElementTree.Element):
            made.append(child)
        elif child is not None:
            _add_text(made, _clean(child))
    return made


def document(root: ElementTree.Element) -> str:
    """A whole page."""
    return f"<!doctype html>\n{ElementTree.tostring(root, encoding='unicode', method='html')}\n"


def _add_text(parent: ElementTree.Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text


def _clean(text: str) -> str:
    """Without characters that no HTML may hold."""
    return "".join(
        mark
        if mark in VISIBLE_CONTROLS or not (mark < " " or "\x7f" <= mark <= "\x9f" or "\ud800" <= mark <= "\udfff")
        else "\ufffd"
        for mark in text
    )


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")

"""The fenced code blocks of our documents, so that tests can run what readers paste."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SNIPPETS = Path(__file__).parent / "snippets"
"""The model page's four examples, letter by letter; the page's copy has lost its indentation."""

HOSTED = "https://api.cloudflare.com"
LOCAL = "http://127.0.0.1:8790"
"""The address under which the documents show a server."""


def code_blocks(document: Path, language: str) -> list[str]:
    """All blocks of `document` fenced as `language`, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)


def statements(code: str) -> list[str]:
    """The lines of `code` without indentation and empty lines, which the page's copy lacks."""
    return [line.strip() for line in code.splitlines() if line.strip()]


def page_example(name: str) -> list[str]:
    """The statements of one of the page's examples with our host."""
    return statements((SNIPPETS / f"{name}.txt").read_text().replace(HOSTED, LOCAL))


def readme_example(language: str, name: str) -> str:
    """The README's block that equals the page's example; fails if there is none."""
    for block in code_blocks(REPOSITORY / "README.md", language):
        if statements(block) == page_example(name):
            return block
    raise AssertionError(f"README.md has no {language} block equal to the page's {name} example")

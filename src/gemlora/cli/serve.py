"""`gemlora serve`: starts the server and says how to talk to it."""

import shlex
from typing import TYPE_CHECKING
from urllib.parse import quote

import typer

from gemlora import __version__
from gemlora.cli.options import with_settings
from gemlora.settings import Settings

if TYPE_CHECKING:
    from gemlora.app.application import Announcement

BODY = (
    '{ "messages": [{ "role": "system", "content": "You are a friendly assistant" }, '
    '{ "role": "user", "content": "Why is pizza so good" }]}'
)
"""What the hosted model's page asks in its curl example."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@with_settings(*Settings.model_fields)
def serve(settings: Settings) -> None:
    """Start the server."""
    from gemlora.app.server import serve as run
    from gemlora.cli.progress import ProgressBar

    with ProgressBar() as progress:

        def announce(announcement: "Announcement") -> None:
            progress.close()
            print(welcome(announcement), flush=True)

        run(settings, announce, progress)


def welcome(announcement: "Announcement") -> str:
    """What `serve` prints once the server answers."""
    token = announcement.access.token
    return "\n".join(
        [
            f"gemlora {__version__} is ready. {announcement.model.notice}",
            "",
            f"  Base URL    {announcement.url}/client/v4",
            f"  Account id  {announcement.access.account_id}",
            f"  Token       {token or '(only its hash is known; set GEMLORA_API_TOKEN to add one)'}",
            *playground_lines(announcement.url, announcement.sign_in_code),
            "",
            "Try it:",
            "",
            f"  {curl_line(announcement.url, announcement.access.account_id, announcement.model.name, token)}",
            "",
        ]
    )


def playground_lines(url: str, code: str | None) -> list[str]:
    """The playground's address; with a code it signs in. Browsers send nothing of what stands behind a #."""
    if code is None:
        return [f"  Playground  {url}/"]
    return [
        f"  Playground  {url}/#code={code}",
        "              (the link signs you in once; after that, use the token)",
    ]


def curl_line(url: str, account_id: str, model: str, token: str | None) -> str:
    """The hosted model page's curl example with this server's address, account and token; works when pasted."""
    address = f"{url}/client/v4/accounts/{account_id}/ai/run/{quote(model, safe='@/')}"
    header = (
        '"Authorization: Bearer $GEMLORA_API_TOKEN"' if token is None else _quoted(f"Authorization: Bearer {token}")
    )
    return f"curl {shlex.quote(address)} -X POST -H {header} -d {shlex.quote(BODY)}"


def _quoted(text: str) -> str:
    """In double quotes as on the model's page where the shell leaves them alone, else in single quotes."""
    return shlex.quote(text) if any(character in text for character in '"$`\\!') else f'"{text}"'

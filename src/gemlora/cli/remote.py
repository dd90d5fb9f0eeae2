"""A server as the target of commands: a client of its HTTP API, so the one place here that knows the wire's words."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import quote

import httpx2

from gemlora.cli.tables import shown
from gemlora.cli.targets import CONFIG_FILE, WEIGHTS_FILE, Record
from gemlora.cli.transfers import CHUNK, Form, downloading, opened, write_download
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.errors import EvaluationInvalid, ServerRefused, ServerUnreachable
from gemlora.evaluation.asking import account_client

if TYPE_CHECKING:
    from gemlora.app.scoring import Exchange, Likelihood

T = TypeVar("T")

CONNECT_SECONDS = 10
ANSWER_SECONDS = 600
"""The answer to an adapter's second file comes after it was tried out, behind requests that run."""
PAGE = 1000
ACCOUNTS = "accounts"
NAME_TAKEN = 5004
UNKNOWN = 7003
EXPLANATIONS = {
    401: "the token is unknown, expired or revoked",
    403: "the token is of another account, or lacks the scope for this",
}


class RemoteTarget:
    """A server at `url`, asked with a token. `account` may be the placeholder that means the token's own."""

    def __init__(self, url: str, token: str, account: str, model: str, *, direct: bool = False) -> None:
        """`model` is what new adapters are made for. `direct` ignores the proxies of the environment."""
        self._account = account
        self._token = token
        self._direct = direct
        self.model = model
        self._url = url.rstrip("/").removesuffix("/client/v4")
        self._client = httpx2.Client(
            base_url=f"{self._url}/client/v4/",
            headers={"authorization": f"Bearer {token}"},
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            trust_env=not direct,
        )

    def list_adapters(self) -> list[Record]:
        """See `Target`."""
        adapters: list[Record] = self._ask("GET", self._finetunes())
        return adapters

    def show_adapter(self, name: str) -> Record:
        """See `Target`."""
        adapter: Record = self._ask("GET", self._finetune(name))
        return adapter

    def add_adapter(self, name: str, folder: Path, description: str, public: bool, progress: Progress) -> Record:
        """See `Target`. A finetune of that name that never got its files is replaced."""
        with opened(folder / CONFIG_FILE) as config, opened(folder / WEIGHTS_FILE) as weights:
            body = {"model": self.model, "name": name, "description": description, "public": public}
            adapter_id = self._create(body)["id"]
            with self._taken_back(adapter_id):
                self._upload(adapter_id, CONFIG_FILE, config, progress)
                self._upload(adapter_id, WEIGHTS_FILE, weights, progress)
        return self.show_adapter(adapter_id)

    def download_adapter(self, name: str, folder: Path, progress: Progress) -> None:
        """See `Target`."""
        adapter = self.show_adapter(name)
        with downloading(folder) as paths:
            for file_name, path in paths.items():
                address = f"{self._finetune(adapter['id'])}/finetune-assets/{file_name}"
                with self._connected(), self._client.stream("GET", address) as answer:
                    if answer.status_code != 200:
                        answer.read()
                        self._result(answer)
                    size = int(answer.headers.get("content-length", "0"))
                    write_download(path, answer.iter_raw(CHUNK), size, f"Downloading {file_name}", progress)

    def remove_adapter(self, name: str) -> None:
        """See `Target`."""
        self._ask("DELETE", self._finetune(name))

    def publish_adapter(self, name: str, public_name: str) -> Record:
        """See `Target`."""
        published: Record = self._ask("POST", f"{self._finetune(name)}/publish", json={"name": public_name})
        return published

    def converse(self, work: Callable[[httpx2.AsyncClient], Awaitable[T]], progress: Progress) -> T:  # noqa: ARG002
        """See `Target`. The server runs already, so there is no progress."""

        async def run() -> T:
            async with account_client(self._url, self._account, self._token, direct=self._direct) as client:
                return await work(client)

        return asyncio.run(run())

    def likelihoods(
        self,
        exchanges: "Sequence[Exchange]",  # noqa: ARG002
        adapters: Sequence[str | None],  # noqa: ARG002
        progress: Progress,  # noqa: ARG002
        counted: Callable[[int, int], None],  # noqa: ARG002
    ) -> "list[list[Likelihood]]":
        """See `Target`. The wire tells no probabilities. Raises `EvaluationInvalid`."""
        raise EvaluationInvalid("A server does not tell probabilities: --perplexity needs its data directory")

    def list_aliases(self) -> list[Record]:
        """See `Target`."""
        aliases: list[Record] = self._ask("GET", self._aliases())
        return aliases

    def show_alias(self, name: str) -> Record:
        """See `Target`."""
        alias: Record = self._ask("GET", self._alias(name))
        return alias

    def set_alias(self, name: str, wanted: Record) -> Record:
        """See `Target`."""
        try:
            alias: Record = self._ask("PUT", self._alias(name), json=wanted)
        except ServerRefused as error:
            if error.code != UNKNOWN:
                raise
            alias = self._ask("POST", self._aliases(), json={"name": name, **wanted})
        return alias

    def promote_alias(self, name: str, version: str, note: str) -> Record:
        """See `Target`."""
        alias: Record = self._ask("POST", f"{self._alias(name)}/promote", json={"version": version, "note": note})
        return alias

    def roll_back_alias(self, name: str, revision: int | None, note: str) -> Record:
        """See `Target`."""
        alias: Record = self._ask("POST", f"{self._alias(name)}/rollback", json={"revision": revision, "note": note})
        return alias

    def list_alias_revisions(self, name: str) -> list[Record]:
        """See `Target`."""
        return self._pages(f"{self._alias(name)}/revisions")

    def list_alias_pairs(self, name: str) -> list[Record]:
        """See `Target`."""
        return self._pages(f"{self._alias(name)}/shadows")

    def remove_alias(self, name: str) -> None:
        """See `Target`."""
        self._ask("DELETE", self._alias(name))

    def list_accounts(self) -> list[Record]:
        """See `Target`."""
        return self._pages(ACCOUNTS)

    def create_account(self, name: str) -> Record:
        """See `Target`."""
        account: Record = self._ask("POST", ACCOUNTS, json={"name": name})
        return account

    def delete_account(self, account_id: str) -> None:
        """See `Target`."""
        self._ask("DELETE", f"{ACCOUNTS}/{_segment(account_id)}")

    def list_tokens(self) -> list[Record]:
        """See `Target`."""
        return self._pages(self._tokens())

    def create_token(self, name: str, scopes: list[str], expires_at: datetime | None) -> Record:
        """See `Target`."""
        body = {"name": name, "scopes": scopes} | ({"expires_on": expires_at.isoformat()} if expires_at else {})
        token: Record = self._ask("POST", self._tokens(), json=body)
        return token

    def revoke_token(self, token_id: str) -> None:
        """See `Target`."""
        self._ask("DELETE", f"{self._tokens()}/{_segment(token_id)}")

    def close(self) -> None:
        """See `Target`."""
        self._client.close()

    def _tokens(self) -> str:
        return f"{ACCOUNTS}/{_segment(self._account)}/tokens"

    def _aliases(self) -> str:
        return f"{ACCOUNTS}/{_segment(self._account)}/ai/aliases"

    def _alias(self, name: str) -> str:
        return f"{self._aliases()}/{_segment(name)}"

    def _finetunes(self) -> str:
        return f"{ACCOUNTS}/{_segment(self._account)}/ai/finetunes"

    def _finetune(self, name: str) -> str:
        if name == "public":  # whose path is that of the shelf
            name = next((adapter["id"] for adapter in self.list_adapters() if adapter["name"] == name), name)
        return f"{self._finetunes()}/{_segment(name)}"

    def _create(self, body: Record) -> Record:
        try:
            created: Record = self._ask("POST", self._finetunes(), json=body)
        except ServerRefused as error:
            if error.code != NAME_TAKEN or not self._is_unfinished(body["name"]):
                raise
            self.remove_adapter(body["name"])
            created = self._ask("POST", self._finetunes(), json=body)
        return created

    def _is_unfinished(self, name: str) -> bool:
        return any(adapter["name"] == name for adapter in self.list_adapters()) and not self.show_adapter(name)["ready"]

    @contextmanager
    def _taken_back(self, adapter_id: str) -> Iterator[None]:
        """Remove the adapter again if the block fails."""
        try:
            yield
        except BaseException:
            with suppress(ServerRefused):
                self.remove_adapter(adapter_id)
            raise

    def _upload(self, adapter_id: str, file_name: str, file: BinaryIO, progress: Progress) -> None:
        form = Form(file_name, file, progress)
        self._ask(
            "POST",
            f"{self._finetune(adapter_id)}/finetune-assets",
            content=form.chunks(),
            headers={"content-type": form.content_type, "content-length": str(form.size)},
        )

    def _pages(self, path: str) -> list[Record]:
        found: list[Record] = []
        while page := self._ask("GET", path, params={"page": len(found) // PAGE + 1, "per_page": PAGE}):
            found += page
            if len(page) < PAGE:
                break
        return found

    def _ask(self, method: str, path: str, **content: Any) -> Any:
        with self._connected():
            return self._result(self._client.request(method, path, **content))

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ServerUnreachable(
                f"The server at {self._url} does not answer: {error or type(error).__name__}"
            ) from error

    def _result(self, answer: httpx2.Response) -> Any:
        """The envelope's content. Raises `ServerRefused`."""
        try:
            envelope = answer.json()
            success, result, errors = envelope["success"], envelope["result"], envelope["errors"]
            if success:
                return result
            text, code = shown(errors[0]["message"]), int(errors[0]["code"])
        except (ValueError, TypeError, KeyError, IndexError):
            raise ServerUnreachable(
                f"The server at {self._url} answers {answer.status_code}, but not as gemlora does"
            ) from None
        explanation = EXPLANATIONS.get(answer.status_code)
        raise ServerRefused(
            f"The server at {self._url} refuses: {f'{text}: {explanation}' if explanation else text}", code
        )


def _segment(text: str) -> str:
    """One segment of a path; dots too are encoded, since `..` would leave the path."""
    return quote(text, safe="").replace(".", "%2E")

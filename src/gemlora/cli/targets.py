"""What a command acts on: a data folder, or a server. Commands know neither; both answer in the wire's words."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from httpx2 import AsyncClient

    from gemlora.app.scoring import Exchange, Likelihood
    from gemlora.engines.cpu.weights.progress import Progress

T = TypeVar("T")

Record: TypeAlias = dict[str, Any]
"""An account, token or adapter as the API shows it."""

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


class Target(Protocol):
    """What all commands can ask for. Everything raises `GemloraError`."""

    @property
    def model(self) -> str:
        """The model that commands are about, by its catalogue id."""
        ...

    def list_adapters(self) -> list[Record]:
        """The account's adapters, oldest first."""
        ...

    def show_adapter(self, name: str) -> Record:
        """One of them, or a public one, with what is known of its files."""
        ...

    def add_adapter(self, name: str, folder: Path, description: str, public: bool, progress: "Progress") -> Record:
        """Register a folder; the adapter is ready, or nothing is left of it."""
        ...

    def download_adapter(self, name: str, folder: Path, progress: "Progress") -> None:
        """Write both files into a folder, whole or not at all."""
        ...

    def remove_adapter(self, name: str) -> None:
        """Remove one of the account's adapters."""
        ...

    def publish_adapter(self, name: str, public_name: str) -> Record:
        """Put a copy of one of the account's adapters on the shelf."""
        ...

    def converse(self, work: "Callable[[AsyncClient], Awaitable[T]]", progress: "Progress") -> T:
        """Do work with a client of the account's `…/ai/`; `progress` is of what a server needs to start."""
        ...

    def likelihoods(
        self,
        exchanges: "Sequence[Exchange]",
        adapters: Sequence[str | None],
        progress: "Progress",
        counted: Callable[[int, int], None],
    ) -> "list[list[Likelihood]]":
        """[exchange][adapter], None being the base; `counted` is called with how many are found, of all."""
        ...

    def list_aliases(self) -> list[Record]:
        """The account's aliases, oldest first."""
        ...

    def show_alias(self, name: str) -> Record:
        """One of them, with what was reported of its answers."""
        ...

    def set_alias(self, name: str, wanted: Record) -> Record:
        """Let an alias point to the `versions` of the body, with its `note` and `test`; make it if there is none."""
        ...

    def promote_alias(self, name: str, version: str, note: str) -> Record:
        """Give all weight to one of the alias's versions."""
        ...

    def roll_back_alias(self, name: str, revision: int | None, note: str) -> Record:
        """Point where the alias's previous revision pointed, or the one with that number."""
        ...

    def list_alias_revisions(self, name: str) -> list[Record]:
        """The alias's log, the newest revision first."""
        ...

    def list_alias_pairs(self, name: str) -> list[Record]:
        """The pairs of answers that the alias's shadow runs left, the newest first."""
        ...

    def remove_alias(self, name: str) -> None:
        """Remove an alias with its log."""
        ...

    def list_accounts(self) -> list[Record]:
        """All accounts, oldest first."""
        ...

    def create_account(self, name: str) -> Record:
        """A new account without tokens."""
        ...

    def delete_account(self, account_id: str) -> None:
        """Delete an account with everything that it holds."""
        ...

    def list_tokens(self) -> list[Record]:
        """The account's tokens, oldest first."""
        ...

    def create_token(self, name: str, scopes: list[str], expires_at: datetime | None) -> Record:
        """A new token of the account; `value` is its plain text."""
        ...

    def revoke_token(self, token_id: str) -> None:
        """Let one of the account's tokens open nothing any more."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...

"""What an account and a token are."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Scope(StrEnum):
    """What a token allows."""

    RUN = "run"
    FINETUNES_READ = "finetunes:read"
    FINETUNES_WRITE = "finetunes:write"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Account:
    """Owner of adapters and tokens. `id` has 32 hexadecimal digits."""

    id: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token of one account; the token itself is not kept, only its SHA-256."""

    id: str
    account_id: str
    label: str
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether the token opens anything at that time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just created, with its plain text, which nobody can be told again."""

    record: Token
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request: the account that the presented token belongs to, and what the token allows."""

    account: Account
    token: Token

    @property
    def account_id(self) -> str:
        """Id of the account."""
        return self.account.id

    def may(self, scope: Scope) -> bool:
        """Whether the token allows this."""
        return scope in self.token.scopes

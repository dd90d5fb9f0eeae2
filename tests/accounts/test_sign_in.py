"""A printed code signs in once, for one account, and not for long."""

import asyncio
from datetime import timedelta

import pytest

from gemlora.accounts.records import NewToken, Scope, Token
from gemlora.accounts.sign_in import CODE_BYTES, LABEL, TOKEN_FOR, SignIn
from gemlora.errors import Unauthenticated

ACCOUNT = "0" * 32
SECONDS = 900


class LendingAccounts:
    """Lends tokens, and remembers them."""

    def __init__(self) -> None:
        self.lent: list[tuple[str, str, timedelta]] = []

    async def lend_token(self, account_id: str, label: str, duration: timedelta) -> NewToken:
        await asyncio.sleep(0)
        self.lent.append((account_id, label, duration))
        return NewToken(Token("id", account_id, label, frozenset(Scope), created_at=None), "value")  # type: ignore[arg-type]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def accounts() -> LendingAccounts:
    return LendingAccounts()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sign_in(accounts: LendingAccounts, clock: Clock) -> SignIn:
    return SignIn(accounts, SECONDS, clock)  # type: ignore[arg-type]


def offered(sign_in: SignIn) -> str:
    code = sign_in.offer(ACCOUNT)
    assert code is not None
    return code


async def test_a_code_is_worth_a_token_of_its_account(sign_in: SignIn, accounts: LendingAccounts) -> None:
    new = await sign_in.exchange(offered(sign_in))

    assert new.value == "value"
    assert accounts.lent == [(ACCOUNT, LABEL, TOKEN_FOR)]


async def test_it_works_once_also_when_two_try_at_once(sign_in: SignIn, accounts: LendingAccounts) -> None:
    code = offered(sign_in)

    results = await asyncio.gather(*(sign_in.exchange(code) for _ in range(5)), return_exceptions=True)

    assert [type(result) for result in results] == [NewToken, *[Unauthenticated] * 4]
    assert len(accounts.lent) == 1


@pytest.mark.parametrize(("later", "works"), [(SECONDS - 1, True), (SECONDS, False)])
async def test_it_is_worth_nothing_after_its_time(sign_in: SignIn, clock: Clock, later: float, works: bool) -> None:
    code = offered(sign_in)
    clock.now += later

    if works:
        await sign_in.exchange(code)
    else:
        with pytest.raises(Unauthenticated):
            await sign_in.exchange(code)


async def test_a_wrong_code_opens_nothing_and_leaves_the_right_one(sign_in: SignIn) -> None:
    code = offered(sign_in)
    for wrong in ("", "x", code[:-1], code + "x", "ä" * 43):
        with pytest.raises(Unauthenticated):
            await sign_in.exchange(wrong)

    await sign_in.exchange(code)


async def test_without_an_offer_no_code_is_right(sign_in: SignIn) -> None:
    with pytest.raises(Unauthenticated):
        await sign_in.exchange("")


async def test_a_new_code_replaces_the_one_before(sign_in: SignIn) -> None:
    first, second = offered(sign_in), offered(sign_in)

    with pytest.raises(Unauthenticated):
        await sign_in.exchange(first)
    await sign_in.exchange(second)
    assert len(second) >= CODE_BYTES


def test_no_code_is_kept_in_the_clear(sign_in: SignIn) -> None:
    code = offered(sign_in)

    assert code not in repr(vars(sign_in))


def test_zero_seconds_offer_nothing(accounts: LendingAccounts) -> None:
    assert SignIn(accounts, 0).offer(ACCOUNT) is None  # type: ignore[arg-type]

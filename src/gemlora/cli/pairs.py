"""What `gemlora aliases shadows` prints: answers that callers got beside those of shadows."""

from statistics import mean

from gemlora.cli.tables import print_table, shown
from gemlora.cli.targets import Record

HEADS = ("PAIR", "REVISION", "MADE", "SERVED", "SHADOW", "EQUAL", "ENDED", "TOKENS", "SECONDS", "ERROR")


def print_pairs(pairs: list[Record]) -> None:
    """A summary of each two versions, then a line for each pair: what was served before what the shadow said."""
    compared: dict[tuple[str, str], list[Record]] = {}
    for pair in pairs:
        if pair["error"] is None:
            compared.setdefault((pair["served"]["version"], pair["shadow"]["version"]), []).append(pair)
    for (served, shadow), group in compared.items():
        equal = sum(pair["equal"] for pair in group)
        tokens, ended = _means(group, "completion_tokens"), _means(group, "ended")
        versions = f"{shown(served)}/{shown(shadow)}"
        print(f"{versions}: {len(group)} pairs, {equal} equal, mean tokens {tokens}, ended by themselves {ended}")
    print_table(HEADS, [_row(pair) for pair in pairs])


def print_pair(pair: Record) -> None:
    """The prompt and both answers, as they are."""
    print(f"--- pair {pair['pair']}, revision {pair['revision']}, {pair['made_at']}")
    if pair["messages"] is None:
        print("(texts are not kept)")
        return
    for message in pair["messages"]:
        print(f"{shown(message['role'])}: {_printable(message['content'])}")
    for answer in (pair["served"], pair["shadow"]):
        print(f"=> {shown(answer['version'])}: {_said(answer) or shown(pair['error'])}")


def _said(answer: Record) -> str:
    calls = [f"{call['name']}({call['arguments']})" for call in answer.get("tool_calls", [])]
    return "\n".join(_printable(text) for text in (answer.get("response", ""), *calls) if text)


def _row(pair: Record) -> tuple[object, ...]:
    served, shadow = pair["served"], pair["shadow"]
    failed = pair["error"] is not None

    def both(text: str, key: str) -> str:
        return f"{format(served[key], text)}/{'-' if failed else format(shadow[key], text)}"

    return (
        pair["pair"], pair["revision"], pair["made_at"], served["version"], shadow["version"],
        "yes" if pair["equal"] else "no", both("", "finish_reason"), both("", "completion_tokens"),
        both(".2f", "seconds"), pair["error"],
    )  # fmt: skip


def _means(pairs: list[Record], key: str) -> str:
    """Of what was served, and of what the shadow said."""
    return "/".join(f"{mean(_number(pair[side], key) for pair in pairs):.3g}" for side in ("served", "shadow"))


def _number(answer: Record, key: str) -> float:
    return float(answer["finish_reason"] != "length" if key == "ended" else answer[key])


def _printable(text: str) -> str:
    """With its line breaks, but without what would speak to the terminal."""
    return "\n".join(shown(line) if line else "" for line in text.split("\n"))

"""What can be said of a chat answer without knowing the right one."""

import re
from typing import Any

LONGEST_RUN = 3
"""So many times in a row the same words may come before it is a loop."""


def no_loop(case: dict[str, Any], answer: str) -> float:  # noqa: ARG001
    """1 if there is an answer in which no run of words comes four times in a row."""
    words = re.findall(r"\S+", answer)
    for length in range(1, len(words) // (LONGEST_RUN + 1) + 1):
        for start in range(len(words) - length * (LONGEST_RUN + 1) + 1):
            run = words[start : start + length]
            if all(words[start + n * length : start + (n + 1) * length] == run for n in range(LONGEST_RUN + 1)):
                return 0.0
    return float(bool(words))


def own_answer(case: dict[str, Any], answer: str) -> float:
    """1 if the answer does not merely repeat the question."""
    question = case["messages"][-1]["content"] if "messages" in case else case["prompt"]

    def plain(text: str) -> str:
        return re.sub(r"\W+", " ", text).strip().lower()

    return float(bool(plain(answer)) and not plain(answer).startswith(plain(question)))

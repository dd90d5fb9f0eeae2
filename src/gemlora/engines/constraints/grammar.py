"""Grammars become matchers, within bounds; what is wrong with one is said in a text that a client may read."""

import re
from typing import Final

from llguidance import LLMatcher, LLParserLimits

from gemlora.engines.constraints.vocabulary import GrammarVocabulary
from gemlora.errors import ConstraintInvalid

LONGEST_REASON = 500
"""Characters of the library's explanation that are passed on."""

INDENTATION = "    "
PATTERN_ERROR: Final = re.compile(
    rf"regex parse error:\n{INDENTATION}(?P<pattern>.*)\n(?P<before> +)\^+\nerror: (?P<why>.*)"
)
"""What the library says of a regular expression: the expression, marks below what is wrong, and why it is."""


def compile_grammar(grammar: str, vocabulary: GrammarVocabulary, symbols: int) -> LLMatcher:
    """A matcher at the beginning of a text. Raises `ConstraintInvalid`, also for a grammar of more symbols than that.

    The library bounds what a grammar may cost besides, and its messages must not show other requests' states.
    """
    limits = LLParserLimits(max_grammar_size=symbols, verbose_errors=False)
    try:
        matcher = LLMatcher(vocabulary.library, grammar, log_level=0, limits=limits)
    except (TypeError, ValueError) as error:
        raise ConstraintInvalid(reason(str(error))) from error
    if matcher.is_error():
        raise ConstraintInvalid(reason(matcher.get_error()))
    return matcher


def reason(text: str) -> str:
    """What fits of an explanation: what is wrong where in which pattern, else its first line."""
    wrong = PATTERN_ERROR.search(text)
    if wrong is not None:
        place = len(wrong["before"]) - len(INDENTATION) + 1
        said = f"{wrong['why']}, at character {place} of the pattern {wrong['pattern']}"
    else:
        said = text.strip().split("\n", 1)[0]
    return f"The grammar cannot be used: {said[:LONGEST_REASON]}"

"""Answers that are held to a grammar, one at a time: which tokens may come, and how the text can still end in time.

It knows tokens as bytes, no model and no engine; the grammars are llguidance's.
"""

from gemlora.engines.constraints.grammar import compile_grammar
from gemlora.engines.constraints.text import ConstrainedText, Taken
from gemlora.engines.constraints.vocabulary import GrammarVocabulary

__all__ = ["ConstrainedText", "GrammarVocabulary", "Taken", "compile_grammar"]

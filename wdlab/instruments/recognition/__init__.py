"""Which convention of the registry takes a leaf's steps: its answers on small problems tell."""

from wdlab.instruments.recognition.argument_meanings import first_moment
from wdlab.instruments.recognition.checking import NOT_FINITE, Rates, checked
from wdlab.instruments.recognition.differing_terms import differing_term
from wdlab.instruments.recognition.fit import Fit
from wdlab.instruments.recognition.matching_conventions import recognized
from wdlab.instruments.recognition.tried_problems import Tried, try_leaf

__all__ = [
    "NOT_FINITE",
    "Fit",
    "Rates",
    "Tried",
    "checked",
    "differing_term",
    "first_moment",
    "recognized",
    "try_leaf",
]

"""Patterns that could take exponential time are refused; what is accepted is quick."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wdlab.groups import Group
from wdlab.rules import Rule

SLOW = [
    "(a|a)*$", "(a+)+b", "(a*)*", "(.*/)*x", "(.*.*)*", "(a|ab|b)*c", "([a-z]+)*", r"(\w*)+$",
    "(a?){30}a{30}", "a?" * 30 + "a" * 30, "(x+x+)+y", "((a|b)+)*", "(?:[^/]*[^/]*/)*x",
    "(a{1,3})*", "(.*a){20}", "^(([a-z])+.)+[A-Z]([a-z])+$", "(?=(a+)+b)a", r"(\d+|\w+)*:",
    "(a|b|ab)*", "(a(b)?(b)?)*", r"(_?\w)*x", "(é|.x?)*x", "([^a]+|b)*c", ".*" * 9 + "x",
    "(/?[a-z]*)*", "((ab)?(a)?(b)?)*x", "(a??b??)*c", "(aa|aaa)*b", "(?P<x>a+)+b", "(?i:A|a+)*b",
    "((?>a+)b?)*c", "(a)(?(1)(b+)+|c)", r"((a+)\2)*b",
]  # fmt: skip
QUICK = [
    ".*", "(.*/)?bias", "([^/]+/)*kernel", r"(block_\d+/)+kernel", "((a|b)/)*x", r"(\w+\.)*x",
    r"layers_\d{1,2}/.*", "(?i).*bias.*", "(.*/){2}kernel", "([^/]*/){3}x", "(a{2}b)*",
    "(?!head).*", ".*(attn|mlp).*(kernel|bias).*", "((?!x/)[^/]+/)*x/.*", r"(\d\d)*", "[ab]*c",
    "(ab|cd)*", r"(layer_(\d+)/)*w", "(.*)(.*)", "a++b", "(query|key|value)+", "(.*?/)?w",
    r"(.*/)?(a|b|c)(_[^/]*)?(/.*)?", r"(([a-z]+_)*[a-z]+/)?w", r"(x(_\d+)?/)*w", "(a|A)*b",
    "|".join(f"enc/layer_{i}/kernel" for i in range(300)), "^.*?/kernel$",
]  # fmt: skip


@pytest.mark.parametrize("pattern", SLOW)
@pytest.mark.parametrize("make", [Rule, Group])
def test_a_pattern_of_exponential_time_is_refused(make, pattern):
    with pytest.raises(ValueError, match=f"{make.__name__}: pattern .* exponential time.*Repeat"):
        make(pattern)


@pytest.mark.parametrize("pattern", QUICK)
def test_what_people_write_is_accepted(pattern):
    assert Rule(pattern).pattern == pattern


atoms = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\w", "/", "ab"])
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,3}", "{30}"])).map(
            lambda part: f"({part[0]}){part[1]}"
        ),
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(patterns)
def test_what_is_accepted_is_quick(pattern):
    """Missed, a doubling per character would take minutes here."""
    try:
        rule = Rule(pattern)
    except ValueError:
        return
    start = time.process_time()
    for unit in ("a", "b", "ab", "ba", "/", "a/"):
        rule.matches(unit * (36 // len(unit)) + "!", 1)
    assert time.process_time() - start < 1.0

"""What the texts say holds: names exist, pages that show code run, results are the stored ones."""

import ast
import doctest
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

import wdlab
from wdlab import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *ROOT.glob("examples/**/*.md"), *ROOT.glob("tests/*.md")]
NAME = re.compile(r"\bwdlab((?:\.[A-Za-z_]\w*)+)")
RESOLVE = """
import sys, wdlab
for name in sys.stdin.read().split():
    value = wdlab
    for part in name.split("."):
        value = getattr(value, part, None)
    if value is None:
        print(name)
"""


def docstrings(path):
    nodes = ast.walk(ast.parse(path.read_text()))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return "\n".join(ast.get_docstring(n) or "" for n in nodes if isinstance(n, kinds))


def names_in(text):
    """The names behind ``wdlab.``, without those of commands (``python -m``) and files."""
    lines = [line for line in text.splitlines() if "python -m wdlab" not in line]
    return {match[1:] for match in NAME.findall("\n".join(lines)) if not match.endswith(".py")}


def public(name):
    """Whether each part of the path is in the ``__all__`` of the one before."""
    value = wdlab
    for part in name.split("."):
        if part not in getattr(value, "__all__", dir(value)):
            return False
        value = getattr(value, part)
    return True


def test_every_name_in_a_page_is_public():
    found = {str(page.relative_to(ROOT)): names_in(page.read_text()) for page in PAGES}
    assert {
        p: hidden for p, n in found.items() if (hidden := {x for x in n if not public(x)})
    } == {}


def test_every_name_in_a_docstring_exists_after_import_wdlab_alone():
    modules = [*ROOT.glob("wdlab/**/*.py"), *ROOT.glob("examples/**/*.py")]
    found = {str(m.relative_to(ROOT)): names_in(docstrings(m)) for m in modules}
    run = [sys.executable, "-c", RESOLVE]
    wanted = " ".join(set().union(*found.values()))
    answer = subprocess.run(run, input=wanted, capture_output=True, text=True, cwd=ROOT, check=True)
    missing = set(answer.stdout.split())
    assert {path: names & missing for path, names in found.items() if names & missing} == {}


def anchors(page):
    titles = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_exist(page):
    text = page.read_text().replace("\\\n", " ")
    for module in re.findall(r"python -m ((?:examples|tests)[\w.]*\w)", text):
        assert importlib.util.find_spec(module), module
    for command in re.findall(r"(?:^    |`)wdlab ([a-z].*?)(?:`|$)", text, re.MULTILINE):
        cli._parser().parse_args(shlex.split(command))


def test_the_code_of_the_front_page_runs():
    params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    for code in re.findall("```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        exec(code, {"params": params})


@pytest.mark.parametrize("page", sorted(ROOT.glob("examples/guide/*.md")), ids=lambda p: p.stem)
def test_the_code_of_a_guide_page_gives_the_output_shown(page):
    text = re.sub(r"^```.*", "", page.read_text(), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    flags, failures = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS, []
    doctest.DocTestRunner(optionflags=flags).run(test, out=failures.append)
    assert not failures, "".join(failures)

"""Templates place text and compute nothing: the rule, enforced on their syntax trees."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest
from jinja2 import nodes

from mcugen import rendering
from mcugen.resources import data_dir

TEMPLATES = sorted(data_dir("templates").rglob("*.j2"))

ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Const,
    nodes.For, nodes.If, nodes.Not, nodes.Filter,
)  # fmt: skip
FILTERS = {"join", "length"}


def broken_rules(source: str) -> list[str]:
    """What a template does beyond placing values: constructs and filters that are not allowed, by name."""
    tree = jinja2.Environment().parse(source)
    found = {type(node).__name__ for node in tree.find_all(nodes.Node) if not isinstance(node, ALLOWED)}
    return sorted(
        found | {f"|{node.name}" for node in tree.find_all(nodes.Filter)} - {f"|{name}" for name in FILTERS}
    )


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_template_only_places_text(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert broken_rules(source) == []
    assert source.endswith("\n")
    assert "\t" not in source or path.name.startswith("Makefile")
    assert not any(line.endswith(" ") for line in source.splitlines())


@pytest.mark.parametrize(
    ("source", "broken"),
    [
        ("{{ a + 1 }}", ["Add"]),
        ("{{ a - 1 }}{{ a * 2 }}{{ a // 2 }}{{ a % 2 }}", ["FloorDiv", "Mod", "Mul", "Sub"]),
        ("{{ a ~ b }}", ["Concat"]),
        ("{% set a = 1 %}", ["Assign"]),
        ("{% macro m() %}{% endmacro %}", ["Macro"]),
        ("{% include 'x' %}", ["Include"]),
        ("{% extends 'x' %}", ["Extends"]),
        ("{{ f(1) }}", ["Call"]),
        ("{% if a == 1 %}{% endif %}", ["Compare", "Operand"]),
        ("{{ 'x' if a else 'y' }}", ["CondExpr"]),
        ("{{ a | upper }}", ["|upper"]),
        ("{{ a.b }}{% for x in a %}{{ x | join(', ') }}{% endfor %}{% if not a %}{% endif %}", []),
    ],
)
def test_the_rule_sees_what_breaks_it(source: str, broken: list[str]) -> None:
    assert broken_rules(source) == broken


def test_a_name_that_is_not_there_is_an_error() -> None:
    environment = rendering.environment()
    with pytest.raises(jinja2.UndefinedError, match="'arena_sise' is undefined"):
        environment.from_string("[{{ arena_sise }}]").render(arena_size=1)
    assert environment.from_string("{% if a %}\nb\n{% endif %}\n").render(a=1) == "b\n"


def test_every_template_is_used_and_gives_one_file() -> None:
    """model.h.j2 makes random.h: the template's name is its output's, with the model's name for "model"."""
    assert [path.name for path in TEMPLATES if path.parent.name == "c"] == [
        "Makefile.j2", "README.md.j2", "build_id.h.j2", "linker.ld.j2", "main.c.j2", "model.c.j2", "model.h.j2",
        "vocabulary.c.j2", "weights.c.j2", "weights.h.j2",
    ]  # fmt: skip

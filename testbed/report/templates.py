"""How pages and a bundle's README are made from the templates beside this file."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from testbed.report.figures import ratio_in_words
from testbed.report.pairing import estimate_in_words

__all__ = ["render"]


def render(template: str, **values: object) -> str:
    """What `values` give in a template. Pages are escaped; Markdown is not."""
    return _environment.get_template(template).render(values)


def _fine_ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.3f}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"


def _word(held: bool | None) -> str:
    return "cannot be told" if held is None else ("held" if held else "broken")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


_environment = Environment(
    loader=PackageLoader("testbed.report", "."),
    autoescape=select_autoescape(["html.j2"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals.update(
    ms=_ms,
    fine_ms=_fine_ms,
    word=_word,
    cell=_cell,
    estimate=estimate_in_words,
    ratio_in_words=ratio_in_words,
)

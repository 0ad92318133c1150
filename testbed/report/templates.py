"""How pages and a bundle's README are made from the templates beside this file."""

from __future__ import annotations

from functools import partial

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from testbed.report.figures import ratio_in_words
from testbed.report.pairing import estimate_in_words, ms_in_words

__all__ = ["render"]


def render(template: str, **values: object) -> str:
    """What `values` give in a template. Pages are escaped; Markdown is not."""
    return _environment.get_template(template).render(values)


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
    ms=ms_in_words,
    fine_ms=partial(ms_in_words, digits=3),
    word=_word,
    cell=_cell,
    estimate=estimate_in_words,
    ratio_in_words=ratio_in_words,
)

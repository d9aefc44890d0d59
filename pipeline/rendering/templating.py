"""The one Jinja environment: HTML is escaped, cards are Markdown, a name that is missing is an error."""

from __future__ import annotations

from typing import Any

from pipeline.rendering.formats import FILTERS


def render(template: str, **values: Any) -> str:
    """Return a template of `templates/` filled in.

    Args:
        template: its file name. `.html.j2` escapes what it is given; in `.md.j2` outside text goes through
            the filter `plain`.
        values: what it names.

    Raises:
        jinja2.UndefinedError: the template names something that `values` lacks.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.rendering"),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(FILTERS)
    return environment.get_template(template).render(**values)

"""Draws charts as SVG images; pygal is loaded by the first of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from starlette.responses import Response

# An image runs no script whatever its policy; pygal's own styles stand inside it.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_LIGHT: Final = {"text": "#525c6e", "line": "#dfe3ea", "colors": ("#2c9a63", "#d2414f", "#3b6fe0")}
_DARK: Final = {"text": "#a3adbd", "line": "#2b313c", "colors": ("#46b27d", "#e46570", "#6d97f5")}


def bars(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    dark: bool,
    stacked: bool = True,
) -> Response:
    """A bar chart; `series` in the order of the colours: good, bad, neutral."""
    import pygal
    from pygal.style import Style

    look = _DARK if dark else _LIGHT
    style = Style(
        background="transparent",
        plot_background="transparent",
        foreground=look["text"],
        foreground_strong=look["text"],
        foreground_subtle=look["line"],
        guide_stroke_color=look["line"],
        major_guide_stroke_color=look["line"],
        colors=look["colors"] if len(series) > 1 else look["colors"][2:],
        opacity="1",
        font_family="system-ui, sans-serif",
        label_font_size=13,
        major_label_font_size=13,
        legend_font_size=13,
        no_data_font_size=16,
    )
    kind = pygal.StackedBar if stacked else pygal.Bar
    chart = kind(
        style=style,
        js=[],
        width=800,
        height=220,
        margin=8,
        spacing=14,
        show_legend=len(series) > 1,
        legend_at_bottom=True,
        legend_box_size=11,
        truncate_legend=-1,
        show_minor_x_labels=False,
        x_labels_major_every=max(1, len(labels) // 8),
        truncate_label=-1,
        show_y_guides=True,
        value_formatter=lambda value: f"{value:,.0f}",
        no_data_text="Nothing yet",
        disable_xml_declaration=True,
        explicit_size=False,
        print_values=False,
        rounded_bars=1,
        min_scale=3,
        max_scale=5,
        range=(0, max([4, *map(sum, zip(*series.values(), strict=True))])),
        pretty_print=False,
    )
    chart.x_labels = list(labels)
    for name, values in series.items():
        chart.add(name, list(values))
    headers = {"content-security-policy": _POLICY, "cache-control": "private, max-age=10"}
    return Response(chart.render(), media_type="image/svg+xml", headers=headers)

"""Draws charts as SVG images; pygal is loaded by the first of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from starlette.responses import Response

# An image runs no script whatever its policy; pygal's own styles stand inside it.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_LIGHT: Final = {
    "text": "#525c6e", "line": "#dfe3ea", "good": "#2c9a63", "bad": "#d2414f", "plain": "#3b6fe0",
    "warn": "#c98a1b", "soft": "#a9b4c8",
}  # fmt: skip
_DARK: Final = {
    "text": "#a3adbd", "line": "#2b313c", "good": "#46b27d", "bad": "#e46570", "plain": "#6d97f5",
    "warn": "#d9a441", "soft": "#6b7690",
}  # fmt: skip


def bars(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    dark: bool,
    small: bool = False,
    stacked: bool = True,
    tones: Sequence[str] = ("plain",),
    unit: str = "",
) -> Response:
    """A bar chart; `tones` are the colours of the series: good, bad, warn, plain, soft."""
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
        colors=tuple(look[tone] for tone in tones),
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
        width=460 if small else 800,
        height=200 if small else 220,
        margin=8,
        spacing=14,
        show_legend=len(series) > 1,
        legend_at_bottom=True,
        legend_box_size=11,
        truncate_legend=-1,
        show_minor_x_labels=False,
        x_labels_major_every=max(1, len(labels) // (4 if small else 8)),
        truncate_label=-1,
        show_y_guides=True,
        value_formatter=lambda value: f"{value:,.0f}{unit}",
        no_data_text="Nothing yet",
        disable_xml_declaration=True,
        explicit_size=False,
        print_values=False,
        rounded_bars=1,
        min_scale=3,
        max_scale=5,
        range=(0, _top(series, stacked=stacked)),
        pretty_print=False,
    )
    chart.x_labels = list(labels)
    for name, values in series.items():
        # What is nothing is drawn as nothing, not as a hair on the line.
        chart.add(name, [value or None for value in values])
    headers = {"content-security-policy": _POLICY, "cache-control": "private, max-age=10"}
    return Response(chart.render(), media_type="image/svg+xml", headers=headers)


def _top(series: Mapping[str, Sequence[float]], *, stacked: bool) -> float:
    columns = list(zip(*series.values(), strict=True))
    return max(4.0, *(float(sum(one) if stacked else max(one)) for one in columns), 0.0)

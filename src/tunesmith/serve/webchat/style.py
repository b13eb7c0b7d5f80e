"""How the page looks: system fonts with Chinese ones named, one quiet colour, much room. Nothing is fetched from elsewhere."""

from __future__ import annotations

import gradio as gr

_TEXT_FONTS = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "sans-serif",
)
_CODE_FONTS = ("ui-monospace", "Cascadia Code", "Menlo", "Consolas", "Noto Sans Mono CJK SC", "monospace")

CSS = """
.gradio-container { padding: 0 !important; }
main.contain, .contain { gap: 0 !important; }
footer { display: none !important; }
#frame { max-width: 1180px; width: 100%; margin: 0 auto; padding: 14px 24px 16px; gap: 10px; height: 100dvh; }
#frame.wide { max-width: none; }
#head { align-items: center; gap: 14px; flex-wrap: wrap; }
#brand { font-weight: 600; font-size: 1.05rem; letter-spacing: .01em; white-space: nowrap; }
#brand p { margin: 0; }
#panes { flex: 1 1 auto; min-height: 240px; gap: 14px; align-items: stretch; }
#panes > * { height: 100%; }
#panes .message { font-size: 1rem; line-height: 1.7; }
#panes .message code, #panes .message pre { font-size: .9rem; }
#status { min-height: 1.4em; font-size: .82rem; color: var(--body-text-color-subdued); text-align: center; }
#status p { margin: 0; }
#choice, #toolbox { align-items: center; gap: 10px; }
#choice p { margin: 0; }
#ask textarea { line-height: 1.6; }
.quiet { font-size: .85rem; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.sidebar-content .label-wrap { font-weight: 600; }
"""


def theme() -> gr.themes.Base:
    """The colours and fonts of the page."""
    return gr.themes.Base(
        primary_hue="teal",
        neutral_hue="stone",
        font=[gr.themes.Font(name) for name in _TEXT_FONTS],
        font_mono=[gr.themes.Font(name) for name in _CODE_FONTS],
        radius_size="lg",
    ).set(
        body_background_fill="*neutral_50",
        block_border_width="1px",
        block_shadow="none",
        input_shadow="none",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
    )

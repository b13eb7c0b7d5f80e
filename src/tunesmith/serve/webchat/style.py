"""How the page looks: system fonts with Chinese ones named, one quiet colour, much room; nothing is fetched."""

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
html, body { overflow: hidden; }
.gradio-container .main.fillable { padding: 0 !important; }
footer { display: none !important; }

#frame { max-width: 1080px; width: 100%; margin: 0 auto; padding: 14px 28px 10px; gap: 10px; height: 100dvh;
  flex-wrap: nowrap; }
#frame:has(#pane-right) { max-width: 1680px; }
#head { align-items: center; justify-content: flex-start; gap: 14px; flex: 0 0 auto; padding-right: 28px; }
#head > *, #head .form, #head .form > * { flex: 0 0 auto !important; margin: 0; min-width: 0 !important;
  width: auto; border-width: 0 !important; background: transparent; }
#brand { font-weight: 650; font-size: 1.02rem; letter-spacing: .01em; white-space: nowrap;
  margin-right: 6px; }
#head .model { flex: 0 1 300px !important; border-width: 1px !important; background: var(--block-background-fill); }
#compare { border-width: 0 !important; background: transparent; padding: 0 6px; white-space: nowrap; }
#head #language { margin-left: auto; box-shadow: none; color: var(--body-text-color-subdued); font-weight: 500; }

#panes { flex: 1 1 auto; min-height: 200px; gap: 24px; align-items: stretch; flex-wrap: nowrap; }
#pane-left, #pane-right { height: 100% !important; border-width: 0 !important; background: transparent; }
#pane-right { border-left: 1px solid var(--border-color-primary) !important; border-radius: 0; padding-left: 12px; }
#panes .bubble-wrap, .sidebar .sidebar-content { scrollbar-width: thin;
  scrollbar-color: var(--border-color-primary) transparent; }
#panes .bubble-wrap { padding-top: 14px; }
#panes .message-wrap { margin-bottom: 8px; }
#panes .message-row { margin: 14px 6px 2px; }
#panes .message { font-size: 1rem; line-height: 1.75; color: var(--body-text-color); }
#panes .bot.message { background: transparent; border: none; padding: 2px 0; box-shadow: none; }
#panes .user.message { border: none; box-shadow: none; border-radius: 14px; padding: 6px 14px; 
  background: color-mix(in srgb, var(--primary-500) 13%, transparent); }
#panes .message pre, #panes .message code { font-size: .88rem; line-height: 1.55; }
#panes .message-buttons .icon-button-wrapper { margin: 0 6px; border: none; background: transparent; opacity: .55;
  box-shadow: none; transition: opacity .15s; }
#panes .message-buttons .icon-button, #panes .top-panel .icon-button { border: none; box-shadow: none;
  background: transparent; }
#panes .message-buttons .icon-button-wrapper:hover, #panes .message-buttons:focus-within .icon-button-wrapper
  { opacity: 1; }
#panes .top-panel { border: none; box-shadow: none; background: transparent; opacity: .6; }
#panes .top-panel:hover { opacity: 1; }
#panes .placeholder, #panes .placeholder-content { color: var(--body-text-color-subdued); }

#panes .thought-group, #panes .message > .thought { border-color: var(--border-color-primary); box-shadow: none; }
#choice { flex: 0 0 auto; align-items: center; justify-content: center; gap: 10px; }
#choice > * { flex: 0 0 auto; width: auto; min-width: 0; }
#choice button { padding: 4px 14px; }
#toolbox { flex: 0 0 auto; align-items: flex-end; gap: 10px; }
#frame > .form:has(#ask) { flex: 0 0 auto; border-radius: 16px; overflow: hidden;
  background: var(--block-background-fill); }
#ask { background: transparent; padding: 8px 12px; }
#ask textarea { background: transparent; border: none; box-shadow: none; line-height: 1.6; font-size: 1rem; }
#status { flex: 0 0 auto; height: 1.5em; overflow: hidden; text-align: center; }
#status p, #status span { margin: 0; font-size: .8rem; color: var(--body-text-color-subdued); }
.quiet, .quiet p, .quiet li { font-size: .85rem; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.quiet code { white-space: pre-wrap; overflow-wrap: anywhere; }
.sidebar { background: var(--background-fill-primary) !important; }
.sidebar .sidebar-content { padding: 18px 22px !important; }
@media (max-width: 700px) { #frame { padding: 10px 10px 6px; } #panes { gap: 8px; } #brand { display: none; } }
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

"""The page in Gradio: its parts, and what happens when one is used."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from soloist.cli.studio.segmented import Choice, Segmented, segment_file
from soloist.errors import DataError
from soloist.inference.segmenter import Segmenter

# Fonts of the machine: the theme's own would come with the page, or from outside.
THEME = gr.themes.Default(
    primary_hue="blue",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
CSS = """
.soloist-problem { color: #b91c1c; }
.dark .soloist-problem { color: #fca5a5; }
.soloist-picture img { width: 100%; height: 100%; object-fit: contain; }
"""

_HELP = """# Soloist
Drop a picture to see what the network takes for objects. It runs once for each picture; the sliders
choose among what it found. Nothing leaves this machine.
"""
_FIRST = "No picture yet."

# Given a file of the server, the browser saves it under its own name.
_SAVE = """file => {
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name;
  link.click();
}"""

_Found = Segmented | str | None
"""What the network found; the problem with the picture; or nothing, without a picture."""

_Save = Callable[[Segmented, Choice, Path], Path]


def build_page(segmenter: Segmenter, folder: Path) -> Any:
    """The page, ready to be launched.

    Args:
        segmenter: The network to try.
        folder: For the files that are downloaded; Gradio must be allowed to serve it.

    Returns:
        The `gradio.Blocks`.
    """
    percent = "Percent of the picture."
    with gr.Blocks(
        title="Soloist", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)
    ) as page:
        found = gr.State()
        download = gr.File(visible=False)
        gr.Markdown(_HELP)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                file = gr.File(label="Picture", file_types=["image"], height=150)
                recommended = segmenter.config.inference.recommended_score
                score = gr.Slider(0, 1, recommended, step=0.01, label="Least score")
                least = gr.Slider(0, 25, 0, step=0.1, label="Least area", info=percent)
                most = gr.Slider(0, 100, 100, step=1, label="Largest area", info=percent)
                gr.Markdown("Download what is shown:")
                with gr.Row():
                    saves: dict[Any, _Save] = {
                        _button("COCO JSON"): Segmented.save_coco,
                        _button("Overlay PNG"): Segmented.save_overlay,
                        _button("Label PNG"): Segmented.save_labels,
                    }
            with gr.Column(scale=3, min_width=480):
                status = gr.HTML(_line(_FIRST))
                picture = gr.Image(
                    label="Masks",
                    elem_classes="soloist-picture",
                    format="jpeg",
                    interactive=False,
                    height="70vh",
                    buttons=["fullscreen"],
                )

        def predict(path: str | None) -> _Found:
            if path is None:
                return None
            try:
                return segment_file(segmenter, Path(path))
            except DataError as error:
                return str(error)

        def show(found: _Found, *sliders: float) -> list[Any]:
            drawn, line = None, _line(_FIRST)
            if isinstance(found, str):
                line = _line(found, "problem")
            elif found is not None:
                choice = _choice(*sliders)
                drawn, line = found.draw(choice), _line(found.summary(choice))
            return [drawn, line, *(gr.update(interactive=drawn is not None) for _ in saves)]

        def export(save: _Save) -> Callable[..., str]:
            def write(found: Segmented, *sliders: float) -> str:
                return str(save(found, _choice(*sliders), Path(tempfile.mkdtemp(dir=folder))))

            return write

        # The functions serve the page, and are no interface of their own.
        own: dict[str, Any] = {"api_visibility": "private"}
        chosen = [found, score, least, most]
        shown = [picture, status, *saves]
        # Sliders may move while the network runs: what is shown is chosen after it.
        predicted = file.change(predict, file, found, show_progress_on=picture, **own)
        predicted.then(show, chosen, shown, show_progress="hidden", **own)
        gr.on(
            [score.change, least.change, most.change],
            show,
            chosen,
            shown,
            trigger_mode="always_last",
            show_progress="hidden",
            **own,
        )
        for button, save in saves.items():
            written = button.click(export(save), chosen, download, **own)
            written.success(None, download, None, js=_SAVE, **own)
    return page


def _button(label: str) -> Any:
    return gr.Button(label, size="sm", interactive=False, min_width=80)


def _choice(score: float, least_percent: float, most_percent: float) -> Choice:
    return Choice(score, least_percent / 100, most_percent / 100)


def _line(text: str, kind: str = "status") -> str:
    return f'<p class="soloist-{kind}">{escape(text)}</p>'

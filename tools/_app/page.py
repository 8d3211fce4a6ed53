"""The page itself, in the toolkit Gradio; one for each language.

What a browser shows of jobs and results comes as HTML from `_app.shown`; Gradio has the forms, the
uploads and the timer.
"""
from html import escape

import gradio as gr

from _app import forms, shown
from _app.texts import say
from sgm.common.errors import InputError

EVERY = 1.0             # seconds between two looks at the queue
THEME = gr.themes.Default(font=["system-ui", "Noto Sans CJK SC", "Microsoft YaHei", "sans-serif"],
                          font_mono=["ui-monospace", "monospace"])
CSS = """
.strip { width: 100%; border: 1px solid #ddd; background: #fff; }
iframe.viewer { width: 100%; height: 500px; border: 1px solid #ddd; background: #fff; }
iframe.brush { width: 100%; height: 430px; border: 1px solid #ddd; background: #fff; }
video { width: min(100%, 320px); border: 1px solid #ddd; }
.bar { height: .7rem; background: #e5e5e5; border-radius: 4px; overflow: hidden; margin: .4rem 0; }
.bar div { height: 100%; background: #3a78a0; }
.state { font-weight: 600; }
.error { color: #b02a2a; }
.links a { margin-right: 1rem; }
figure { margin: .6rem 0; }
"""
# The toolkit only says "Error" of a file that is too large; this says why, before it is sent.
TOO_LARGE = """<script>
for (const kind of ["change", "drop"]) document.addEventListener(kind, event => {
  const place = document.getElementById("upload");
  if (!place?.contains(event.target)) return;
  document.getElementById("too_large")?.remove();
  const [file] = event.target.files || event.dataTransfer?.files || [];
  if (!file || file.size <= %d) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  place.insertAdjacentHTML("afterend", '<p id="too_large" class="error">%s</p>');
}, true);
</script>"""


def build(app, studio, language, most_bytes):
    """Put the page of a language under /<language>. most_bytes: of an upload."""
    def text(key, **values):
        return say(language, key, **values)

    def choices(group, names):
        return [(text(f"{group}_{name}"), name) for name in names]

    spec = studio.spec
    with gr.Blocks(title=text("title"), analytics_enabled=False, delete_cache=(600, 3600)) as page:
        token, opened, version = gr.State(None), gr.State(None), gr.State(None)
        with gr.Row(equal_height=True):
            gr.Markdown(f"# {text('title')}")
            other = "zh" if language == "en" else "en"
            gr.HTML(f'<p style="text-align:right"><a href="../{other}/">{text("other")}</a></p>')
        with gr.Row():
            # 1. on the left: image, settings
            with gr.Column(scale=2, min_width=440):
                gr.Markdown(f"## {text('image')}")
                upload = gr.File(label=text("drop"), type="filepath", height=120, elem_id="upload",
                                 file_types=["image"])
                note = gr.Markdown(elem_id="note")
                brush = gr.HTML(elem_id="brush")
                gr.Markdown(f"## {text('views')}")
                model = text("model", name=spec.name, frames=spec.num_frames, height=spec.height,
                             width=spec.width, device=studio.device)
                gr.Markdown(model + (" " + text("small")) * studio.is_embedded)
                elevation = gr.Slider(-89, 89, 10, step=1, label=text("elevation"),
                                      info=None if spec.is_posed else text("elevation_label"))
                with gr.Row():
                    orbit = gr.Dropdown(choices("orbit", forms.ORBITS), value="default",
                                        label=text("orbit"))
                    amplitude = gr.Slider(0, 60, 30, step=1, label=text("amplitude"))
                with gr.Row():
                    steps = gr.Number(spec.sampling.steps, precision=0, minimum=1,
                                      maximum=forms.MOST_STEPS, label=text("steps"), min_width=90)
                    seed = gr.Number(23, precision=0, minimum=0, label=text("seed"), min_width=90)
                    guidance = gr.Number(spec.sampling.max_scale, minimum=0, min_width=90,
                                         label=text("guidance"))
                with gr.Row():
                    make_views = gr.Button(text("make_views"), variant="primary",
                                           elem_id="make_views")
                    # a network that makes a mesh in one pass belongs here once it has weights
                    gr.Button(text("fast"), interactive=False)
                gr.Markdown(f"<small>{text('fast_off')}</small>")
                gr.Markdown(f"## {text('mesh')}")
                with gr.Row():
                    config = gr.Dropdown(list(forms.MESHES), value="default", label=text("config"),
                                         elem_id="config")
                    light = gr.Dropdown(choices("light", forms.LIGHTS), value="separate",
                                        label=text("light"))
                    elevation_from = gr.Dropdown(
                        choices("elevation", forms.ELEVATIONS), label=text("elevation_from"),
                        value="cameras" if spec.is_posed else "auto")
                distill = gr.Checkbox(False, label=text("distill"))
                resume = gr.Checkbox(False, label=text("resume"), elem_id="resume")
                make_mesh = gr.Button(text("make_mesh"), variant="primary", elem_id="make_mesh")
            # 2. on the right: what happens, and what there is
            with gr.Column(scale=3, min_width=440):
                with gr.Row(equal_height=True):
                    names = gr.Dropdown(studio.results.names(), value=None, label=text("results"),
                                        elem_id="results", scale=4)
                    refresh = gr.Button(text("refresh"), elem_id="refresh", min_width=80)
                status = gr.HTML(elem_id="status")
                cancel = gr.Button(text("cancel"), variant="stop", interactive=False,
                                   elem_id="cancel")
                result = gr.HTML(shown.result(studio.results, None, language), elem_id="result")
                gr.Markdown(f"### {text('queue')}")
                queued = gr.HTML(shown.queue_list(studio.queue, language), elem_id="queue")

        # 3. what the buttons do
        def chosen(path):
            if path is None:
                return None, "", ""
            try:
                found_token, found = studio.open_upload(path)
            except InputError as error:
                return None, f'<p class="error">{escape(str(error))}</p>', ""
            lines = [text("cut_done", name=found.name, how=found.how)] if found.how else []
            lines += [text("cut_doubt", doubt=found.doubt)] if found.doubt else []
            lines.append(text("cut"))
            frame = f'<iframe class="brush" src="../brush/{language}/{found_token}"></iframe>'
            return found_token, "\n\n".join(map(escape, lines)), frame

        def views(token, elevation, orbit, amplitude, steps, seed, guidance):
            form = {"elevation": elevation, "orbit": orbit, "amplitude": amplitude, "steps": steps,
                    "seed": seed, "guidance": guidance}
            try:
                return studio.make_views(token, form).folder
            except InputError as error:
                raise gr.Error(str(error), print_exception=False) from None

        def mesh(name, elevation, config, light, elevation_from, distill, resume):
            form = {"elevation": elevation, "config": config, "light": light, "distill": distill,
                    "elevation_from": elevation_from, "resume": resume}
            try:
                return studio.make_mesh(name, form).folder
            except InputError as error:
                raise gr.Error(str(error), print_exception=False) from None

        def stop(name):
            job = studio.queue.of(name)
            if job is not None:
                studio.queue.cancel(job)

        def look(name, before):
            """Return what has changed; what has not is left alone, so that a viewer stays."""
            job, found = studio.queue.of(name), studio.results.get(name) if name else None
            now = (name, job and job.is_over, found and shown.version(studio.results, found))
            unchanged = now == before
            return (shown.status(studio.queue, job, language),
                    gr.Button(interactive=job is not None and not job.is_over),
                    gr.skip() if unchanged else shown.result(studio.results, found, language),
                    now, shown.queue_list(studio.queue, language))

        def listed():
            return gr.Dropdown(choices=studio.results.names())

        def seen(name):
            """Return the list with a new result in it, which is the one that is open."""
            names = studio.results.names()
            return gr.Dropdown(choices=names, value=name if name in names else None)

        shows = [status, cancel, result, version, queued]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        one = {"concurrency_limit": 1, "api_visibility": "private"}
        upload.change(chosen, upload, [token, note, brush], **one)
        make_views.click(views, [token, elevation, orbit, amplitude, steps, seed, guidance],
                         opened, **quiet).then(look, [opened, version], shows, **quiet)
        make_mesh.click(mesh, [opened, elevation, config, light, elevation_from, distill, resume],
                        opened, **quiet).then(look, [opened, version], shows, **quiet)
        cancel.click(stop, opened, None, **quiet)
        # not looked up in the list that this page began with: another user's result may be newer
        names.input(lambda name: name, names, opened, preprocess=False, **quiet).then(
            look, [opened, version], shows, **quiet)
        refresh.click(listed, None, names, **quiet)
        page.load(listed, None, names, **quiet)
        version.change(seen, opened, names, **quiet)
        gr.Timer(EVERY).tick(look, [opened, version], shows, concurrency_limit=None, **quiet)

    gr.mount_gradio_app(app, page, f"/{language}", max_file_size=most_bytes, ssr_mode=False,
                        footer_links=[], theme=THEME, css=CSS, mcp_server=False, pwa=False,
                        head=TOO_LARGE % (most_bytes, text("too_large", most=most_bytes >> 20)),
                        enable_monitoring=False, run_history=False, show_error=True)

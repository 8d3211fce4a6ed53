"""The page itself, in the toolkit Gradio; one for each language.

What a browser shows of jobs and results comes as HTML from `_app.shown`; Gradio has the forms, the
uploads and the timer.
"""
from html import escape

import gradio as gr

from _app import forms, shown
from _app.studio import EMBEDDED
from _app.texts import say
from sgm.common.errors import InputError

EVERY = 1.0             # seconds between two looks at the queue
OF_VIEWS = ("model", "elevation", "orbit", "amplitude", "steps", "seed", "guidance")
OF_MESH = ("elevation", "config", "light", "elevation_from", "distill", "resume")
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


class Handlers:
    """What happens on the page of a language when somebody does something.

    The components' values come in, their new values go out, in the order in which `build` names
    them.
    """

    def __init__(self, studio, language):
        self.studio, self.language = studio, language

    def text(self, key, **values):
        """Return a text in the page's language."""
        return say(self.language, key, **values)

    def of_model(self, name):
        """Return what depends on the model.

        That is a line on it, one on the elevation, steps, guidance, and whence the mesh has the
        elevation.
        """
        spec = self.studio.models[name].spec
        line = self.text("model", name=name, frames=spec.num_frames, height=spec.height,
                         width=spec.width, device=self.studio.device)
        return (line + (" " + self.text("small")) * (name == EMBEDDED),
                None if spec.is_posed else self.text("elevation_label"), spec.sampling.steps,
                spec.sampling.max_scale, "cameras" if spec.is_posed else "auto")

    def changed(self, name):
        """Set what depends on the model, which was chosen."""
        line, info, steps, guidance, source = self.of_model(name)
        return line, gr.Slider(info=info), steps, guidance, source

    def chosen(self, path):
        """Cut a new image out: its token, notes, and the brush."""
        if path is None:
            return None, "", ""
        try:
            token, found = self.studio.open_upload(path)
        except InputError as error:
            return None, f'<p class="error">{escape(str(error))}</p>', ""
        lines = [self.text("cut_done", name=found.name, how=found.how)] if found.how else []
        lines += [self.text("cut_doubt", doubt=found.doubt)] if found.doubt else []
        lines.append(self.text("cut"))
        brush = f'<iframe class="brush" src="../brush/{self.language}/{token}"></iframe>'
        return token, "".join(f"<p>{escape(line)}</p>" for line in lines), brush

    def views(self, token, *values):
        """Queue the views of an image; return what is then open: their folder, and no estimate."""
        return _or_error(self.studio.make_views, token, dict(zip(OF_VIEWS, values))).folder, None

    def fast(self, token, elevation):
        """Queue the mesh of an image in one pass; return its folder, and no estimate."""
        return _or_error(self.studio.make_fast, token, {"elevation": elevation}).folder, None

    def estimate(self, token):
        """Queue the estimate of the elevation of an image; return the id of its job."""
        return _or_error(self.studio.estimate, token).id

    def mesh(self, name, *values):
        """Queue the mesh of the folder that is open; return its name, and no estimate."""
        return _or_error(self.studio.make_mesh, name, dict(zip(OF_MESH, values))).folder, None

    def stop(self, name, estimate):
        """Cancel the estimate of an id if it is not over, else the job of a folder."""
        for job in (self.studio.queue.known.get(estimate), self.studio.queue.of(name)):
            if job is not None and not job.is_over:
                return self.studio.queue.cancel(job)

    def look(self, name, estimate, before):
        """Return what has changed; a result that has not is left alone, so that a viewer stays.

        name: of the folder that is open; estimate: the id of the job that estimates an elevation,
        which is set once; both None without one. before: what this returned for it the last time.
        """
        queue, results = self.studio.queue, self.studio.results
        job, found = queue.of(name), results.get(name) if name else None
        asked = queue.known.get(estimate)
        now = (name, job and job.is_over, found and shown.version(results, found))
        told = None if asked is None or asked.elevation is None else (asked.id, asked.elevation)
        was, was_told = before or (None, None)
        return (shown.status(queue, asked, self.language) + shown.status(queue, job, self.language),
                gr.Button(interactive=any(one and not one.is_over for one in (asked, job))),
                gr.skip() if now == was else shown.result(results, found, self.language),
                (now, told), shown.queue_list(queue, self.language),
                gr.skip() if told in (None, was_told) else round(asked.elevation))

    def listed(self):
        """Return the list of results as it is now."""
        return gr.Dropdown(choices=self.studio.results.names())

    def seen(self, name):
        """Return the list with a new result in it, which is the one that is open."""
        names = self.studio.results.names()
        return gr.Dropdown(choices=names, value=name if name in names else None)


def _or_error(make, *what):
    """Return the job that make(*what) queues; its error is shown on the page."""
    try:
        return make(*what)
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from None


def build(app, studio, language, most_bytes):
    """Put the page of a language under /<language>. most_bytes: of an upload."""
    do = Handlers(studio, language)
    text = do.text

    def choices(group, names):
        return [(text(f"{group}_{name}"), name) for name in names]

    said, info, steps_of, scale, source = do.of_model(studio.spec.name)
    with gr.Blocks(title=text("title"), analytics_enabled=False, delete_cache=(600, 3600)) as page:
        token, opened, asked, version = (gr.State(None) for _ in range(4))
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
                note = gr.HTML(elem_id="note")
                brush = gr.HTML(elem_id="brush")
                gr.Markdown(f"## {text('views')}")
                model = gr.Dropdown(list(studio.models), value=studio.spec.name,
                                    label=text("models"), elem_id="model",
                                    visible=len(studio.models) > 1)
                line = gr.Markdown(said, elem_id="line")
                elevation = gr.Slider(-89, 89, 10, step=1, label=text("elevation"),
                                      elem_id="elevation", info=info)
                with gr.Row():
                    estimate = gr.Button(text("estimate"), size="sm", interactive=studio.estimates,
                                         elem_id="estimate", scale=0, min_width=120)
                    who = (text("estimate_on", name=studio.fast.name) if studio.estimates
                           else text("estimate_off"))
                    gr.HTML(f"<small>{escape(who)}</small>")
                with gr.Row():
                    orbit = gr.Dropdown(choices("orbit", forms.ORBITS), value="default",
                                        label=text("orbit"))
                    amplitude = gr.Slider(0, 60, 30, step=1, label=text("amplitude"))
                with gr.Row():
                    steps = gr.Number(steps_of, precision=0, minimum=1, elem_id="steps",
                                      maximum=forms.MOST_STEPS, label=text("steps"), min_width=90)
                    seed = gr.Number(23, precision=0, minimum=0, label=text("seed"), min_width=90)
                    guidance = gr.Number(scale, minimum=0, min_width=90, label=text("guidance"))
                with gr.Row():
                    make_views = gr.Button(text("make_views"), variant="primary",
                                           elem_id="make_views")
                    make_fast = gr.Button(text("fast"), interactive=studio.fast is not None,
                                          elem_id="make_fast")
                fast = text("fast_on", name=studio.fast.name) if studio.fast else text("fast_off")
                gr.HTML(f"<small>{escape(fast)}</small>")
                gr.Markdown(f"## {text('mesh')}")
                with gr.Row():
                    config = gr.Dropdown(list(forms.MESHES), value="default", label=text("config"),
                                         elem_id="config")
                    light = gr.Dropdown(choices("light", forms.LIGHTS), value="separate",
                                        label=text("light"))
                    elevation_from = gr.Dropdown(
                        choices("elevation", forms.ELEVATIONS), label=text("elevation_from"),
                        value=source)
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
        shows = [status, cancel, result, version, queued, elevation]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        one = {"concurrency_limit": 1, "api_visibility": "private"}
        upload.change(do.chosen, upload, [token, note, brush], **one)
        # in the order of OF_VIEWS and OF_MESH
        of_views = [model, elevation, orbit, amplitude, steps, seed, guidance]
        of_mesh = [elevation, config, light, elevation_from, distill, resume]
        look = (do.look, [opened, asked, version], shows)
        what = [opened, asked]
        model.change(do.changed, model, [line, elevation, steps, guidance, elevation_from], **quiet)
        make_views.click(do.views, [token, *of_views], what, **quiet).then(*look, **quiet)
        make_fast.click(do.fast, [token, elevation], what, **quiet).then(*look, **quiet)
        estimate.click(do.estimate, token, asked, **quiet).then(*look, **quiet)
        make_mesh.click(do.mesh, [opened, *of_mesh], what, **quiet).then(*look, **quiet)
        cancel.click(do.stop, what, None, **quiet)
        # not looked up in the list that this page began with: another user's result may be newer
        names.input(lambda name: (name, None), names, what, preprocess=False, **quiet).then(
            *look, **quiet)
        refresh.click(do.listed, None, names, **quiet)
        page.load(do.listed, None, names, **quiet)
        version.change(do.seen, opened, names, **quiet)
        gr.Timer(EVERY).tick(*look, concurrency_limit=None, **quiet)

    page.has_launched = True        # else any path is an upload: the toolkit copies the file
    gr.mount_gradio_app(app, page, f"/{language}", max_file_size=most_bytes, ssr_mode=False,
                        footer_links=[], theme=THEME, css=CSS, mcp_server=False, pwa=False,
                        head=TOO_LARGE % (most_bytes, text("too_large", most=most_bytes >> 20)),
                        enable_monitoring=False, run_history=False, show_error=True)

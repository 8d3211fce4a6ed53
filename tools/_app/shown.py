"""What the page shows of jobs and results, as HTML; everything in it is escaped."""
from html import escape
from urllib.parse import quote

from tqdm import tqdm

from _app.texts import say, stage

MOST_DOUBTS = 8


def url(name, file):
    """Return the URL of a result's file, relative to the page's folder."""
    return f"../files/{quote(name, safe='')}/{quote(file)}"


def status(queue, job, language):
    """Return the state of a job: a sentence, a bar, the preview, and what it has said."""
    if job is None:
        return ""
    folder, state = job.folder, job.state
    progress = job.progress
    bar, picture = "", ""
    if state == "waiting":
        text = say(language, "waiting", folder=folder, place=queue.place(job))
    elif state == "running" and job.cancelled:
        text = say(language, "cancelling", folder=folder)
    elif state == "running" and not progress.get("number"):
        text = say(language, "begins", folder=folder)
    elif state == "running":
        text = _running(job, language)
        took, left = progress["took"], progress["left"]
        bar = (f'<div class="bar"><div style="width:{100 * took / max(took + left, 1e-9):.1f}%">'
               "</div></div>")
    elif state == "done" and job.elevation is not None:
        text = say(language, "estimated", folder=folder, degrees=job.elevation)
    else:
        text = say(language, state, folder=folder)
    if state == "running" and job.steps_drawn and progress.get("stage") in ("sample", "decode"):
        text_of = escape(say(language, "preview", step=job.steps_drawn))
        picture = (f'<figure><img class="strip" src="../preview/{quote(job.id)}?{job.steps_drawn}"'
                   f' alt=""><figcaption>{text_of}</figcaption></figure>')
    html = f'<p class="state {state}">{escape(text)}</p>{bar}{picture}'
    return html + _said(job, language)


def _running(job, language):
    progress = job.progress
    text = say(language, "running", folder=job.folder, number=progress["number"],
               stages=progress["stages"], stage=stage(language, progress["stage"]))
    if progress["steps"]:
        done, total = progress["steps"]
        text += ", " + say(language, "step", done=done, total=total)
    if progress["note"]:
        text += f", {progress['note']}"
    left = tqdm.format_interval(round(progress["left"]))
    return text + ", " + say(language, "left", left=left)


def _said(job, language):
    """Return the last lines of a job: open if it failed, else to be opened."""
    lines = [line.removeprefix("app.py: ") for line in list(job.lines)]
    if not lines:
        return ""
    if job.state == "failed":
        error = f'<p class="error">{escape(lines[-1])}</p>'
    else:
        error = ""
    told = escape("\n".join(lines))
    return (f"{error}<details><summary>{escape(say(language, 'said'))}</summary><pre>{told}</pre>"
            "</details>")


def result(results, found, language):
    """Return a `Result` as HTML: facts, viewer, strip, video, downloads."""
    if found is None:
        return f"<p>{escape(say(language, 'none_open'))}</p>"
    parts = [f"<h3>{escape(found.name)}</h3>", _facts(found, language)]
    if {"transforms.json", "mesh/mesh.glb"} & found.files:
        title = escape(say(language, "viewer"))
        parts.append(f'<iframe class="viewer" title="{title}" src="../viewer/{language}/'
                     f'{quote(found.name, safe="")}?{version(results, found)}"></iframe>')
    if "contact.png" in found.files:
        parts.append(_figure(found, "contact.png", say(language, "strip")))
    if "views.mp4" in found.files:
        parts.append(f'<video src="{url(found.name, "views.mp4")}" controls loop muted autoplay'
                     ' playsinline></video>')
    for file, text in (("mesh/contact.png", "beside"), ("mesh/light.png", "lit")):
        if file in found.files:
            parts.append(f"<details><summary>{escape(say(language, text))}</summary>"
                         f"{_figure(found, file)}</details>")
    links = [f'<a href="{url(found.name, file)}"'
             f'{" target=_blank" if file == "report.html" else " download"}>'
             f'{escape(say(language, "report") if file == "report.html" else file.split("/")[-1])}'
             "</a>" for file in results.downloads(found)]
    if links:
        parts.append(f"<h4>{escape(say(language, 'downloads'))}</h4><p class=links>"
                     f"{' '.join(links)}</p>")
    return "\n".join(parts)


def version(results, found):
    """Return a query that changes with the mesh, or the views: a browser then loads the new one."""
    has_cameras = "transforms.json" in found.files
    for kind, file in (("mesh" if has_cameras else "alone", "mesh/mesh.glb"),
                       ("views", "transforms.json")):
        path = results.path(found.name, file)
        if path:
            return f"{kind}={path.stat().st_mtime_ns}"
    return ""


def _figure(found, file, caption=""):
    source = url(found.name, file)
    return (f'<figure><a href="{source}" target=_blank><img class="strip" src="{source}" alt="'
            f'{escape(file)}"></a><figcaption>{escape(caption)}</figcaption></figure>')


def _facts(found, language):
    """Return lines on the views and the mesh; what a damaged file lacks is left out."""
    run, report = found.run, found.report
    lines, doubts = [], []
    try:
        facts = {name: run[name] for name in ("model", "seed", "steps", "device")}
        lines.append(say(language, "facts" if facts["steps"] else "fast_facts", **facts))
    except KeyError:
        pass
    try:
        mesh = report["mesh"]
        closed = say(language, "closed" if mesh["watertight"] else "open")
        line = say(language, "mesh_facts", faces=mesh["faces"], closed=closed)
        if report.get("interrupted"):
            line += ", " + say(language, "interrupted")
        lines.append(line)
        doubts = [str(doubt) for doubt in report.get("doubts", [])][:MOST_DOUBTS]
        against = report["metrics"]["input"]
        lines.append(say(language, "psnr", psnr=against["psnr_fg"], iou=against["iou"]))
        elevation = report["views"]["elevation"]
        lines.append(say(language, "outlines", used=elevation["used"], told=elevation["told"]))
    except (KeyError, TypeError, ValueError):
        pass
    items = "".join(f'<li class="error">{escape(doubt)}</li>' for doubt in doubts)
    return "".join(f"<p>{escape(line)}</p>" for line in lines) + f"<ul>{items}</ul>" * bool(items)


def queue_list(queue, language):
    """Return the jobs that run or wait, in order."""
    jobs = queue.unfinished()
    if not jobs:
        return f"<p>{escape(say(language, 'nothing'))}</p>"
    rows = "".join(f"<li>{escape(job.folder)}: {escape(say(language, 'job_' + job.kind))}</li>"
                   for job in jobs)
    return f"<ol>{rows}</ol>"

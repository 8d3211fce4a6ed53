"""Contact sheets of held-out clips, true views above generated ones, and their agreement."""
import cv2
import numpy as np

from sgm import ops
from sgm.views.images import WHITE
from sgm.views.metrics import compare, on_white, psnr
from sgm.views.preprocessing import from_network

# views of a clip that are shown, pixels of their side, of a line of text
COLUMNS, SIDE, CAPTION = 8, 128, 20


def draw_sheet(engine, examples, recipe):
    """Return (picture (H, W, 3) uint8, {"val_psnr_fg": dB, "val_iou": 0 .. 1}).

    The figures are means over the clips' generated views. examples: the held-out `Examples`;
    `sheet_clips` of them are used, evenly from those that lie on white (from all, if none does), as
    neighbors may be the same object. Each is sampled in `sheet_steps` steps with the model's own
    sampler and guidance. Where there is no silhouette,
    in videos and on colored backgrounds, the PSNR is that of whole frames, and val_iou is left out.
    A clip whose views are not finite is drawn gray where they are not, and its numbers are NaN. All
    randomness comes from the recipe's seed and the clip's place, apart from that of the steps,
    whose losses are the same with a sheet and without.
    """
    everything = range(len(examples))
    usable = [k for k in everything if _has_silhouette(examples.clips[k])] or everything
    chosen = np.linspace(0, len(usable) - 1, min(recipe.sheet_clips, len(usable))).astype(int)
    rows, measured = [], []
    for place, index in enumerate(usable[k] for k in chosen):
        rng = np.random.default_rng([recipe.seed, place, 2])
        example, truth, made, finite = generate(engine, examples, rng, index, recipe.sheet_steps,
                                                recipe.encode_chunk)
        found = measure(truth, made, example, examples.clips[example.index])
        measured.append({name: value if finite else np.nan for name, value in found.items()})
        rows.append(_pair(examples.clips[example.index].name, truth, made, measured[-1]))
    names = [name for name in ("val_psnr_fg", "val_iou") if all(name in clip for clip in measured)]
    return np.concatenate(rows), {
        name: float(np.mean([clip[name] for clip in measured])) for name in names
    }


def generate(engine, examples, rng, index, steps, chunk):
    """Return clip `index` as the engine generates it from its condition.

    The result is (its Example, true and generated views, each (T, H, W, 3) uint8, whether the
    generated ones were finite).
    """
    loaded = examples.load(rng, index, 0.0)
    example = loaded[0]
    c = dict(zip(("crossattn", "concat", "vector"), examples.conditions(rng, [loaded], 0.0)))
    uc = {**c, **{name: np.zeros_like(c[name]) for name in ("crossattn", "concat")}}
    noise = rng.standard_normal((examples.num_frames, *examples.latent_shape), dtype=np.float32)
    # One side of the guidance after the other: it then takes no more memory than a step of
    # training.
    frames = engine.decode(ops.fetch(engine.sample(noise, c, uc, steps, sequential=True)), chunk)
    truth = examples.clips[example.index].frames(example.views)
    finite = bool(np.isfinite(frames).all())
    if not finite:
        frames = np.nan_to_num(frames, nan=0.0, posinf=1.0, neginf=-1.0)
    truth = ((truth + 1) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1)
    return example, truth, from_network(frames), finite


def measure(truth, made, example, clip):
    """Return {"val_psnr_fg", and where there are silhouettes "val_iou"}.

    They are means over all views but the condition.
    """
    views = [k for k, view in enumerate(example.views) if view != example.condition]
    if not _has_silhouette(clip):
        found = [psnr(on_white(made[k]), on_white(truth[k])) for k in views]
        return {"val_psnr_fg": float(np.mean(found))}
    found = [compare(made[k], truth[k]) for k in views]
    return {"val_psnr_fg": float(np.mean([view["psnr_fg"] for view in found])),
            "val_iou": float(np.mean([view["iou"] for view in found]))}


def _has_silhouette(clip):
    return clip.angles is not None and getattr(clip, "background", WHITE) == WHITE


def _pair(name, truth, made, measured):
    """Return a clip's part of the sheet: a line of text, true views and generated views."""
    text = f"{name[-60:]}: true, generated; {measured['val_psnr_fg']:.1f} dB"
    text += f", silhouettes {measured['val_iou']:.2f}" if "val_iou" in measured else ""
    return captioned(text, truth, made)


def captioned(text, *series):
    """Return a picture of a line of text above series of views (T, H, W, 3) uint8, a row each.

    At most COLUMNS views of each are shown, evenly spaced.
    """
    shown = np.unique(np.linspace(0, len(series[0]) - 1, COLUMNS).round().astype(int))
    rows = [np.concatenate([_sized(views[k]) for k in shown], 1) for views in series]
    width = max(rows[0].shape[1], COLUMNS * SIDE)           # wide enough for the text
    pad = [
        np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in rows
    ]
    caption = np.full((CAPTION, width, 3), 255, np.uint8)
    cv2.putText(caption, text, (4, CAPTION - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1,
                cv2.LINE_AA)
    return np.concatenate([caption, *pad])


def _sized(view):
    """Return a view (H, W, 3) of at most SIDE pixels a side, enlarged as often as fits."""
    height, width = view.shape[:2]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return np.repeat(np.repeat(view, int(scale), 0), int(scale), 1)
    return cv2.resize(view, (round(width * scale), round(height * scale)),
                      interpolation=cv2.INTER_AREA)

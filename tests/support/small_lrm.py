"""A feed-forward network that takes a second, and exact views of one ball for each object."""
import numpy as np

from sgm.views.cameras import FOV_DEG, camera_to_world, focal_length, rays

CHANGES = ["image_size=16", "encoder.image_size=16", "encoder.width=24", "encoder.layers=1", "encoder.heads=2",
           "triplane.width=32", "triplane.layers=1", "triplane.heads=2", "triplane.side=4", "triplane.upsampling=2",
           "triplane.channels=4", "triplane.camera_width=16", "decoder.width=8", "decoder.layers=2", "volume.samples=16",
           "volume.threshold=0.1", "volume.grid=16", "elevation_width=8"]
CENTERS, RADIUS = np.float64([[0.2, 0.1, -0.1], [-0.1, 0.2, 0.15]]), 0.2


def hits(origins, directions, center, radius):
    """Whether rays, of directions of length 1, meet a ball."""
    to = center - origins
    along = (to * directions).sum(-1)
    return (to ** 2).sum(-1) - along ** 2 < radius ** 2


def write_balls(folder, side=32, views=6):
    """Balls beside the origin, as `render_orbits.py --pack` writes them; -> folder."""
    folder.mkdir()
    azimuths = (np.arange(1, views + 1) * 360 / views + [0, 5, 0, 20, 0, 0][:views]) % 360
    elevations = np.float64([10, 20, 0, 30, 15, 25][:views])
    origins, directions = rays(camera_to_world(azimuths, elevations, 2.0), side, side, focal_length(side, FOV_DEG))
    clips = np.zeros((len(CENTERS), views, side, side, 4), np.uint8)
    for k, center in enumerate(CENTERS):
        clips[k, ..., 3] = 255 * hits(origins, directions, center, RADIUS)
        clips[k, ..., :3] = np.uint8([200 - 90 * k, 60, 30 + 90 * k])
    for name, values in (("clips", clips), ("azimuths", np.tile(np.float32(azimuths), (len(CENTERS), 1))),
                         ("elevations", np.tile(np.float32(elevations), (len(CENTERS), 1)))):
        np.save(folder / f"{name}.npy", values)
    return folder


def flags(data, output, *changes, val=None, more=(), model_changes=()):
    """Those of train.py."""
    values = [f"data=[{data}]", "batch=2", "views=2", "crop=8", "stages=[16,32]", "samples=16", "hold_out=3", "warmup=1",
              "save_every=9", "log_every=1", "sheet_every=0", "schedule=constant", "perceptual_from=0.5", f"val=[{val or data}]",
              *changes]
    command = ["--model_cfg", "lrm_small", "--train_cfg", "lrm_small", "--output", str(output), *map(str, more)]
    for flag, settings in (("--set", values), ("--model-set", [*CHANGES, *model_changes])):
        for setting in settings:
            command += [flag, setting]
    return command

"""A small picture of a mesh, flat and from the front."""
from sgm.render.zbuffer import Lighting, render_views
from sgm.views.cameras import FOV_DEG, camera_to_world, focal_length

FLAT = Lighting(ambient=1, key=0, fill=0, sky=0)
FRONT = camera_to_world(0.0, 0.0, 2.0)
SIZE = 64
FOCAL = focal_length(SIZE)


def picture(mesh, size=SIZE, camera=FRONT, lighting=FLAT, supersample=2):
    return render_views(mesh, camera[None], size, FOV_DEG, supersample=supersample, lighting=lighting)[0]

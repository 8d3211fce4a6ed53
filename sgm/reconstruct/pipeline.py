"""From a views folder to mesh files: the sequence of stages, what they save, and how a run goes on after it ended.

Every stage leaves one file in `<output>/work`, written whole or not at all, with the settings it was made with; a stage
in which something was optimised saves now and then on its way.
"""
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sgm import ops
from sgm.common.cli import until_stopped
from sgm.common.files import atomic
from sgm.config.reconstruction import load_mesh_spec
from sgm.geometry import cleaning, mesh_writer, topology
from sgm.ops.profiling import StageTimer
from sgm.reconstruct import report
from sgm.reconstruct.dmtet import pixel_batches, refinement, tet_grid
from sgm.reconstruct.hull import flat_base, scene_box, sdf_grid, visual_hull
from sgm.reconstruct.nerf import depth_fusion, training
from sgm.reconstruct.optimization import optimize
from sgm.reconstruct.posed_views import HALF, MIN_VIEWS, ShapeError, read_views
from sgm.reconstruct.stage_files import Work, load_state, mesh_folder, save_state
from sgm.reconstruct.texture import baking
from sgm.views.images import save_png

STAGES = ("nerf", "dmtet", "texture")
FORMATS = ("glb", "obj", "ply")
PICTURES = ("contact.png", "turntable.mp4", "turntable.gif")


class Reconstruction:
    """A run: views, settings, output folder, and what its stages have made so far.

    source: a views folder or transforms.json. spec: a `specs.MeshSpec`. output: a folder, made if need be. stages: of
    STAGES, those to run; what the others made in `output` before is used. resume: go on from what is saved of the stages
    to run. azimuth_sign: -1 counts the cameras' azimuths the other way. Raises ShapeError and its like.
    """

    def __init__(self, source, spec, output, stages=STAGES, resume=False, azimuth_sign=1, progress=True):
        self.source, self.spec, self.output, self.stages = str(source), spec, Path(output), stages
        self.resume, self.progress, self.azimuth_sign = resume, progress, azimuth_sign
        self.work = Work(self.output / "work")
        self.stage, self.report = StageTimer(), {}
        self.interrupted = False

    def run(self):
        """Do the stages -> the report, as report.json has it. Ctrl-C during an optimisation, that of the texture too, ends
        it, skips those that would follow, and makes files of what there is; in the last stage it also leaves out figures
        and pictures not yet made. `interrupted` then says so."""
        with self.stage("views"):
            self.read()
        self.work.folder.mkdir(parents=True, exist_ok=True)
        with self.stage("hull"):
            self.carve()
        with self.stage("nerf"):
            self.radiance()
        with self.stage("surface"):
            self.surface()
        with self.stage("dmtet"):
            self.refine()
        with until_stopped() as stopped:        # from here on what is done is written down before the end
            with self.stage("texture"):
                self.finish(stopped)
            self.interrupted |= bool(stopped)
            return self.save_report()

    def read(self):
        """Views into the box; those to be held back aside."""
        spec = self.spec
        views = read_views(self.source, spec.side, spec.views, spec.matte, self.progress)
        if self.azimuth_sign == -1:
            views = scene_box.mirrored(views, np.zeros(3))
        views = scene_box.framed(views, self.source)
        kept = np.arange(len(views))
        if spec.hold_out:
            kept = kept[kept % spec.hold_out != spec.hold_out // 2]
            if len(kept) < MIN_VIEWS:
                raise ShapeError(f"hold_out={spec.hold_out} leaves {len(kept)} of {len(views)} views, expected at least"
                                 f" {MIN_VIEWS}; hold fewer back")
        self.views, self.held_back = views.subset(kept), views.subset(np.setdiff1d(np.arange(len(views)), kept))
        digest = hashlib.sha256(self.views.c2w.tobytes() + self.views.rgb.tobytes() + self.views.mask.tobytes())
        self.made_with = {"views": digest.hexdigest()[:16], "seed": spec.seed}
        self.report["views"] = {"source": self.source, "count": len(self.views), "held_back": len(self.held_back),
                                "width": self.views.w, "height": self.views.h, "scale": self.views.scale,
                                "centre": self.views.centre.tolist()}

    def carve(self):
        """The hull's distance on the grid of the mesh, and the height of its underside."""
        spec = self.spec
        outvoted = scene_box.outvoted(self.views)
        fine = visual_hull.closed(visual_hull.hull_sdf(self.views, spec.hull.resolution, HALF, outvoted), HALF)
        self.base = flat_base.base_height(fine, HALF, self.views) if spec.hull.base else None
        self.hull_fine = fine if self.base is None else flat_base.cut_below(fine, HALF, self.base)
        self.hull_open = visual_hull.hull_sdf(self.views, spec.depth.resolution, HALF, outvoted)
        self.report["hull"] = {"base": self.base, "outvoted": outvoted,
                               "coverage": round(scene_box.coverage(fine, self.views.resized(144)), 4)}

    def radiance(self):
        """The field: trained, or taken from an earlier run; without either, an untrained one and no trainer."""
        spec = self.spec
        made_with = {**self.made_with, "hull": asdict(spec.hull), "nerf": _of_result(spec.nerf)}
        saved = self.saved("nerf", made_with)
        self.trainer = None
        if "nerf" not in self.stages and saved is None:
            self.field = training.make_field(spec.nerf, spec.seed)
            return
        self.trainer = training.NerfTrainer(self.views, self.hull_fine, spec.nerf, spec.seed)
        self.field = self.trainer.field
        if saved is not None:
            self.trainer.restore(saved)
        if "nerf" in self.stages:
            self.work.note("nerf", made_with, self.resume)
            self.interrupted = not self.optimize(self.trainer, lambda: report.of_field(self.trainer))
        self.report["nerf"] = {"steps": self.trainer.done, "encoding": spec.nerf.encoding, "psnr": _psnr(self.trainer)}

    def surface(self):
        """The signed distance that the mesh starts from."""
        spec = self.spec
        made_with = {**self.made_with, "hull": asdict(spec.hull), "depth": asdict(spec.depth),
                     "nerf": _of_result(spec.nerf) if self.trainer else None,
                     "steps": self.trainer.done if self.trainer else 0}
        saved = self.saved("surface", made_with)
        if saved is not None:
            self.sdf, chosen = saved["sdf"], json.loads(str(saved["chosen"]))
        elif self.trainer is None or self.trainer.done == 0:
            outside = self.hull_open if self.base is None else flat_base.cut_below(self.hull_open, HALF, self.base)
            outside = sdf_grid.blurred(outside, spec.depth.smooth)
            self.sdf, chosen = sdf_grid.one_piece(visual_hull.closed(outside, HALF)), {"fusion": "hull", "candidates": {}}
        else:
            self.sdf, chosen = depth_fusion.surface(self.trainer, self.hull_open, self.base, spec.depth, self.progress)
        self.work.note("surface", made_with, self.resume)
        save_state(self.work.file("surface"), {"sdf": self.sdf, "chosen": np.array(json.dumps(chosen))})
        self.report["surface"] = chosen
        self.trainer = None                     # its graphs and Adam's moments are not needed any more
        self.field.forget_graphs()
        ops.release()

    def refine(self):
        """DMTet, or the surface as it is."""
        spec = self.spec
        made_with = {**self.made_with, "surface": hashlib.sha256(self.sdf.tobytes()).hexdigest()[:16],
                     "dmtet": _of_result(spec.dmtet)}
        saved = self.saved("dmtet", made_with)
        runs = "dmtet" in self.stages and not self.interrupted
        if not runs and saved is None:
            surface = pixel_batches.surface_of(tet_grid.sealed(self.sdf, HALF), HALF)
            self.vertices, self.faces = surface.vertices, surface.faces
            self.report["dmtet"] = {"steps": 0}
            return
        refiner = refinement.Refiner(self.views, self.sdf, self.field, spec.dmtet, spec.seed)
        if saved is not None:
            refiner.restore(saved)
        if runs:
            def picture():
                surface = refiner.surface()     # without faces the next step says what to do
                return report.of_surface(surface, self.field, self.views) if len(surface.faces) else None

            self.work.note("dmtet", made_with, self.resume)
            self.interrupted |= not self.optimize(refiner, picture)
        self.sdf, surface = refiner.sdf, refiner.surface()
        self.vertices, self.faces = surface.vertices, surface.faces
        self.report["dmtet"] = {"steps": refiner.done, "psnr": _psnr(refiner)}
        self.field.forget_graphs()
        ops.release()

    def optimize(self, trainer, picture):
        """Run a NerfTrainer or a Refiner -> whether it got to its end. Its checkpoints and previews, which picture() makes,
        go to the work folder."""
        def preview():
            found = picture()
            if found is not None:
                save_png(self.work.folder / f"{trainer.name}_{trainer.done:05d}.png", found)

        def save(arrays):
            save_state(self.work.file(trainer.name), arrays)

        with tqdm(total=trainer.total, initial=trainer.done, desc=trainer.name, disable=not self.progress, unit="step") as bar:
            def tell(psnr):
                bar.set_postfix(psnr=f"{psnr:.2f} dB", refresh=False)
                bar.update()

            return optimize(trainer, save=save, preview=preview, progress=tell)

    def finish(self, stopped=()):
        """Clean, texture, write files and figures; without the texture stage, figures of the surface as it is.

        stopped: a list that a signal's handler fills; the files of the mesh are written nevertheless.
        """
        spec, output = self.spec, self.output
        if self.base is not None:
            self.vertices = flat_base.flattened(self.vertices, self.faces, self.base, self.hull_open, HALF)
        if "texture" not in self.stages:
            self.report["mesh"] = topology.describe(self.vertices, self.faces)
            return
        settings = cleaning.CleanSettings(faces=spec.clean.faces, floaters=spec.clean.floaters)
        self.vertices, self.faces = cleaning.clean(self.vertices, self.faces, settings)
        settings = baking.TextureSettings(size=spec.texture.size, padding=spec.texture.padding, atlas=spec.texture.atlas,
                                           refine=spec.texture.refine)
        self.mesh = baking.bake(self.vertices, self.faces, self.views, settings, stopped=stopped)
        placed = self.mesh.placed(self.views.scale, self.views.centre)
        for kind in FORMATS:
            mesh_writer.save(placed, output / f"mesh.{kind}")
        self.report["mesh"] = report.facts(placed)
        for name in PICTURES:                   # of the mesh that was there before
            (output / name).unlink(missing_ok=True)
        for look in (self.measure, self.draw, self.turn):
            if not stopped:
                look()

    def measure(self):
        """How near the mesh comes to the views, those held back apart, into the report."""
        self.report["metrics"] = {"input": _rounded(report.view_metrics(self.mesh, self.views))}
        if len(self.held_back):
            self.report["metrics"]["held_back"] = _rounded(report.view_metrics(self.mesh, self.held_back))

    def draw(self):
        """The mesh beside its views."""
        report.write_contact_sheet(self.output / PICTURES[0], self.mesh, self.views)

    def turn(self):
        """The mesh on a turntable."""
        report.write_turntable(self.output, report.turntable(self.mesh))

    def saved(self, stage, made_with):
        """{name: array} that `stage` saved, or None: nothing is there, or it shall be made anew.

        Raises ShapeError if it was made with other settings or views.
        """
        wanted = self.resume or {"surface": "nerf"}.get(stage, stage) not in self.stages
        differing = self.work.differing(stage, made_with) if wanted else None
        if differing is None:
            return None
        if not differing:
            return load_state(self.work.file(stage))
        if stage == "surface" or self.resume and stage == "dmtet" and differing == ["surface"]:
            return None                         # follows what comes before it
        raise ShapeError(f"{self.work.file(stage)}: was made with another {', '.join(differing)}; run without --resume to"
                         " make it anew, or with the views and settings of then")

    def save_report(self):
        """Write report.json -> what is in it."""
        self.report["stages"] = self.stage.log
        self.report["settings"] = asdict(self.spec)
        self.report["interrupted"] = self.interrupted
        with atomic(self.output / "report.json") as temporary:
            temporary.write_text(json.dumps(self.report, indent=1))
        return self.report


def views_to_mesh(views, output=None, config="default", overrides=(), **options):
    """Views with cameras to a mesh, as tools/views_to_mesh.py does it -> TexturedMesh in the views' own world, z up.

    views: a views folder, or the path of a transforms.json. output: the folder to write; None = `mesh` within the views
    folder. config: default, fast, fine or a YAML file; overrides: ["nerf.steps=300", ...]. options: of Reconstruction.
    The device is that of sgm.ops.set_device, a CPU if nobody called it. Raises ShapeError, CameraError, ImageError,
    ConfigError (all sgm.common.errors.InputError).
    """
    views = Path(views)
    run = Reconstruction(views, load_mesh_spec(config, list(overrides)), output or mesh_folder(views), **options)
    run.run()
    return run.mesh.placed(run.views.scale, run.views.centre)


def _psnr(trainer):
    """dB, of the last steps; None if there was none."""
    return round(float(trainer.history[-1][2]), 2) if trainer.history else None


def _rounded(figures):
    """Figures for people."""
    return {name: round(float(value), 4) for name, value in figures.items()}


def _of_result(spec):
    """The settings of a NerfSpec or DMTetSpec that its result depends on."""
    return {key: value for key, value in asdict(spec).items() if key not in ("preview_every", "save_every")}

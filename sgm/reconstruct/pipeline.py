"""The pipeline from a views folder to mesh files: stages, what they save, and resuming.

Every stage leaves one file in `<output>/work`, written whole or not at all, with the settings it
was made with; a stage that optimizes something also saves checkpoints on its way.
"""
import hashlib
import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from sgm import ops
from sgm.common.cli import until_stopped
from sgm.common.errors import argument
from sgm.common.files import atomic
from sgm.common.locks import locked
from sgm.common.progress import Bar
from sgm.config.reconstruction import load_mesh_spec
from sgm.geometry import mesh_writer, topology
from sgm.ops.profiling import StageTimer
from sgm.reconstruct import doubts, report, upright
from sgm.reconstruct import stages as steps
from sgm.reconstruct.dmtet.refinement import Refiner
from sgm.reconstruct.hull import camera_alignment, scene_box
from sgm.reconstruct.hull.elevation import tilted
from sgm.reconstruct.nerf.training import NerfTrainer, make_field
from sgm.reconstruct.optimization import optimize
from sgm.reconstruct.posed_views import ShapeError
from sgm.reconstruct.stage_files import (
    STAGES,
    Work,
    check_kept,
    load_state,
    mesh_folder,
    restore_state,
    save_state,
)
from sgm.views.frames import write_views
from sgm.views.images import save_png
from sgm.views.transforms import read_transforms, replace_poses

FORMATS = ("glb", "obj", "ply")
PICTURES = ("contact.png", "light.png", "turntable.mp4", "turntable.gif")
log = logging.getLogger("sgm")


class Reconstruction:
    """A run of the stages in one output folder: what is reused, what is saved, and the report.

    source: a views folder or transforms.json. spec: a `MeshSpec`. output: a folder, created if
    necessary. stages: which of STAGES to run; results of the others are taken from `output`, and
    without those they are left out. resume: continue from what is saved of the stages to run.
    azimuth_sign: -1 counts the cameras' azimuths the other way. obj_up: the axis that is up in
    mesh.obj, "y" or "z"; None: as in the views' world. up: what is up in that world, see
    `upright.turned_upright`. original_world: write OBJ and PLY in the world that the poses were in
    before another program moved them (applied_transform, applied_scale). elevation: degrees, "auto"
    or None, see `elevation.settled`. write_cameras: put the elevation that is used into the
    source's transforms.json. orbit: one of `sgm.views.frames.RIGS` if the source has no cameras; it
    is then a folder of pictures, a video, a GIF or a sheet; fov: the field of view of its cameras
    in degrees, None: the orbit's own. distiller: an `sgm.reconstruct.distill.goals.Distiller`, or
    None. outdated: paths of files that tell of an earlier mesh; they are removed when it is
    replaced.
    Raises ShapeError and the like.
    """

    def __init__(
        self, source, spec, output, stages=STAGES, resume=False, azimuth_sign=1, progress=True,
        obj_up=None, up="auto", original_world=False, elevation=None, write_cameras=False,
        orbit=None, fov=None, distiller=None, outdated=(),
    ):
        unknown = [name for name in stages if name not in STAGES]
        if unknown:
            raise ShapeError(
                f"stages: found {', '.join(unknown)}, expected some of {', '.join(STAGES)}"
            )
        if obj_up not in mesh_writer.UP:
            raise ShapeError(f"{argument('obj_up')}: found {obj_up!r}, expected y or z")
        self.source, self.spec, self.output, self.stages = (
            str(source),
            spec,
            Path(output),
            tuple(stages),
        )
        upright.rotation(up)                    # it is named before anything is read
        self.resume, self.progress, self.azimuth_sign = resume, progress, azimuth_sign
        self.obj_up = obj_up
        self.up, self.original_world = up, original_world
        self.elevation, self.write_cameras, self.orbit = elevation, write_cameras, orbit
        self.fov, self.distiller, self.outdated = fov, distiller, outdated
        self.work, self.timer = Work(self.output / "work"), StageTimer()
        self.report, self.interrupted, self.kept = {}, False, False

    def run(self):
        """Run the stages, as `_run` says, alone in the output folder. Raises LockedError."""
        with locked(self.output, argument("output")):
            return self._run()

    def _run(self):
        """Run the stages. Return the TexturedMesh, as OBJ and PLY files have it.

        Without the texture stage that is None. `report` then holds what report.json does. Ctrl-C
        during an optimization, that of the texture too, ends it, skips those that would follow, and
        makes files of what there is; in the last stage it also leaves out figures and pictures that
        are not made yet. `interrupted` then says so. A finished mesh of an earlier run is not
        replaced by such a one: it stays as it was with its report.json, `kept` says so, and None is
        returned.
        """
        had_mesh = is_finished(self.output)
        with self.timer("views"):
            if self.orbit is not None:
                self.report["frames"] = {"source": self.source, "orbit": self.orbit}
                self.source = str(write_views(self.source, self.work.folder / "views", self.orbit,
                                              self.fov))
            views, held_out, elevation = steps.read(
                self.source, self.spec, self.azimuth_sign, self.progress, self.up, self.elevation
            )
            self.report["views"] = {
                "source": self.source,
                "count": len(views),
                "held_back": len(held_out),
                "width": views.w,
                "height": views.h,
                "scale": views.scale,
                "centre": views.center.tolist(),
                "upright": views.upright.tolist(),
                "world": self.world_of(views),
            }
            if elevation is not None:
                self.report["views"]["elevation"] = elevation.rounded()
                log.info("%s: %s", self.source, elevation)
            if self.write_cameras:
                self.put_cameras_right(elevation)
            digest = hashlib.sha256(
                views.c2w.tobytes() + views.rgb.tobytes() + views.mask.tobytes()
                + (b"" if views.known is None else views.known.tobytes())
            )
            origin = {"views": digest.hexdigest()[:16], "seed": self.spec.seed}
        self.work.folder.mkdir(parents=True, exist_ok=True)
        with self.timer("hull"):
            hull = steps.carve(views, self.spec, self.source)
            self.report["hull"] = {
                "base": hull.base,
                "outvoted": hull.allowed_outliers,
                "coverage": round(hull.coverage, 4),
            }
            even, spread, disagree = steps.even(views, hull, self.spec.disagreement)
            self.report["exposure"] = {
                "spread": None if spread is None else round(spread, 4),
                "disagree": disagree,
            }
            if disagree:
                hull = hull._replace(agreeing=None)
                origin["disagreement"] = _of_field(self.spec.disagreement)
            if disagree and self.spec.disagreement.cure == "auto":
                log.info("%s: the views' exposures differ by %.0f%%, so they are taken to disagree"
                         " and disagreement.* is used (%s disagreement.cure=never says otherwise)",
                         self.source, 100 * spread, argument("overrides", "--set"))
        with self.timer("nerf"):
            field, trainer = self.field(even, hull, disagree, origin)
            plain = even                        # without highlights that move with the camera
            if trainer is not None and trainer.appearance:
                plain = trainer.appearance.removed(even)
        with self.timer("surface"):
            depth = steps.depth_settings(self.spec, disagree, hull)
            sdf = self.distance(trainer, hull, depth, origin)
            del trainer  # its graphs and Adam's moments are not needed any more
            field.forget_graphs()
            ops.release()
        surface, imagined = self.surface(plain, sdf, field, origin)
        self.kept = self.interrupted and had_mesh
        if self.kept:
            return None
        with until_stopped() as stopped:        # what is done is saved before the end
            with self.timer("texture"):
                mesh = self.mesh(surface, views, even, imagined, held_out, hull, stopped, had_mesh)
            self.interrupted |= bool(stopped)
            if self.kept:
                return None
            if not self.interrupted:
                iou = self.report.get("metrics", {}).get("input", {}).get("iou")
                self.report["doubts"] = doubts.of_mesh(views, hull.coverage, iou, elevation)
                for doubt in self.report["doubts"]:
                    log.warning("%s: %s", self.source, doubt)
            self.save_report()
        return mesh

    def put_cameras_right(self, elevation):
        """Write the elevation that is used into the transforms.json of the views.

        elevation: an `elevation.Elevation` or None. One that the outlines do not tell is not
        written, unless it was asked for.
        """
        asked = self.elevation not in (None, "auto")
        is_sure = elevation is not None and (asked or elevation.certain)
        if not is_sure or elevation.used == elevation.cameras:
            log.warning("%s: its cameras are not changed, there is no other elevation to write",
                        self.source)
            return
        posed, by = read_transforms(self.source), elevation.used - elevation.cameras
        old = replace_poses(self.source, tilted(posed.poses, by), posed.elevations_deg + by)
        log.info("%s: its cameras now stand at %.1f degrees; as they were: %s", self.source,
                 elevation.used, old.name)

    def world_of(self, views):
        """Return which world OBJ and PLY are in, as a sentence's end."""
        moved = not np.allclose(views.applied, np.eye(4), atol=1e-9)
        if self.original_world and moved:
            return "the world before applied_transform"
        if self.original_world:
            log.warning("%s: %s: it has no applied_transform to undo", self.source,
                        argument("original_world"))
        said = "the world of the poses in transforms.json"
        flag = argument("original_world")
        return f"{said}, with applied_transform; {flag} undoes it" if moved else said

    def field(self, views, hull, disagree, origin):
        """Return the Field and its NerfTrainer: trained now, or restored from an earlier run.

        Without either, the Field is untrained and the trainer None. disagree: whether each view is
        to have an appearance of its own.
        """
        spec, settings = self.spec, steps.field_settings(self.spec, disagree)
        made_with = {**origin, "hull": asdict(spec.hull), "nerf": _of_result(settings)}
        saved = self.saved("nerf", made_with)
        if "nerf" not in self.stages and saved is None:
            return make_field(settings, spec.seed), None
        cells = spec.disagreement.grid if disagree else 0
        trainer = NerfTrainer(views, hull.closed, settings, spec.seed, cells,
                              spec.disagreement.weight)
        if saved is not None:
            restore_state(self.work.file("nerf"), trainer.restore, saved)
        if "nerf" in self.stages:
            self.work.note("nerf", made_with, self.resume)
            self.optimize(trainer, lambda: report.of_field(trainer))
        self.report["nerf"] = {
            "steps": trainer.done,
            "encoding": spec.nerf.encoding,
            "psnr": _psnr(trainer),
        }
        return trainer.field, trainer

    def distance(self, trainer, hull, depth, origin):
        """Return the signed distance that the mesh starts from. depth: a `DepthSpec`."""
        spec = self.spec
        made_with = {
            **origin,
            "hull": asdict(spec.hull),
            "depth": asdict(depth),
            "nerf": _of_result(spec.nerf) if trainer else None,
            "steps": trainer.done if trainer else 0,
        }
        saved = self.saved("surface", made_with)
        if saved is not None:
            sdf, chosen = restore_state(self.work.file("surface"), _of_surface, saved)
        else:
            sdf, chosen = steps.distance(trainer, hull, depth, self.progress)
        self.work.note("surface", made_with, self.resume)
        save_state(self.work.file("surface"), {"sdf": sdf, "chosen": np.array(json.dumps(chosen))})
        self.report["surface"] = chosen
        return sdf

    def surface(self, views, sdf, field, origin):
        """Return the Surface of a signed distance: refined, from an earlier run, or as it is.

        Second, PosedViews of what was distilled, or None. The steps that distill are a stage of
        their own, "distill".
        """
        spec, distiller = self.spec, self.distiller
        made_with = {
            **origin,
            "surface": hashlib.sha256(sdf.tobytes()).hexdigest()[:16],
            "dmtet": _of_result(spec.dmtet),
        }
        if distiller:
            made_with["distill"] = {**asdict(spec.distill), "model": distiller.denoise.name}
        with self.timer("dmtet"):
            saved = self.saved("dmtet", made_with)
            runs = "dmtet" in self.stages and not self.interrupted
            if not runs and saved is None:
                self.report["dmtet"] = {"steps": 0}
                return steps.surface(sdf), None
            if distiller:
                distiller.begin(views, spec.dmtet, spec.seed)
            refiner = Refiner(views, sdf, field, spec.dmtet, spec.seed, distiller)
            if saved is not None:
                restore_state(self.work.file("dmtet"), refiner.restore, saved)

            def picture():
                surface = refiner.surface()     # without faces the next step says what to do
                return report.of_surface(surface, field, views) if len(surface.faces) else None

            if runs:
                self.work.note("dmtet", made_with, self.resume)
                self.optimize(refiner, picture, distiller and distiller.first)
        imagined = None
        if distiller and not (runs and self.interrupted):
            with self.timer("distill"):
                if runs:
                    self.optimize(refiner, picture, label="distill")
                if refiner.done > distiller.first:
                    imagined = distiller.imagined(refiner.surface(), field)
                    self.report["distill"] = distiller.report
        self.report["dmtet"] = {"steps": refiner.done, "psnr": _psnr(refiner)}
        field.forget_graphs()
        ops.release()
        return refiner.surface(), imagined

    def optimize(self, trainer, picture, end=None, label=None):
        """Run a NerfTrainer or a Refiner, with checkpoints and previews in the work folder.

        picture() makes a preview, or returns None. end: the step to stop before, None: its last.
        label: what the bar says, None: the trainer's name.
        """
        def preview():
            found = picture()
            if found is not None:
                save_png(self.work.folder / f"{trainer.name}_{trainer.done:05d}.png", found)

        def save(arrays):
            save_state(self.work.file(trainer.name), arrays)

        end = trainer.total if end is None else end
        with Bar(
            end,
            label or trainer.name,
            initial=trainer.done,
            waiting="compiling the first step" * (trainer.done < end),
            leave=True,
            quiet=not self.progress,
        ) as bar:

            def show(psnr):
                bar.say(f"psnr {psnr:.2f} dB")
                bar.update()

            self.interrupted |= not optimize(trainer, end=end, save=save, preview=preview,
                                             progress=show)

    def mesh(self, surface, views, even, imagined, held_out, hull, stopped, had_mesh):
        """Clean, texture, write files and figures. Return the TexturedMesh in the files' world.

        Without the texture stage: report the surface as it is, and return None. even: the views in
        one exposure, which give the texture; imagined: views of what they do not show, or None;
        figures compare with `views` and `held_out`, as they came. stopped: the list of
        `until_stopped`; the files of the mesh are written even if it holds something, unless
        `had_mesh`, a finished one is there: then it is `kept`.
        """
        vertices, faces = steps.flattened(surface, hull)
        if "texture" not in self.stages:
            self.report["mesh"] = topology.describe(vertices, faces)
            return None
        mesh, found, facts = steps.texture(vertices, faces, even, self.spec, stopped, imagined,
                                           hull.agreeing)
        self.kept = bool(stopped) and had_mesh
        if self.kept:
            return None
        if found is not None:
            self.report["light"] = facts
        saved = replace(mesh, albedo=None) if self.spec.light.bake else mesh
        placed = saved.placed(views.scale, views.center).turned_back(views.upright)
        if self.original_world:
            placed = placed.undone(views.applied)
        for file in (*self.outdated, *(self.output / name for name in (*PICTURES, "report.json"))):
            file.unlink(missing_ok=True)        # those of an earlier mesh
        for kind in FORMATS:
            mesh_writer.save(placed, self.output / f"mesh.{kind}", self.obj_up)
        self.report["mesh"] = report.facts(placed)
        if not stopped:
            self.report["metrics"] = {"input": _rounded(report.view_metrics(mesh, views))}
            if len(held_out):
                self.report["metrics"]["held_back"] = _rounded(report.view_metrics(mesh, held_out))
                if scene_box.is_measured(held_out.c2w):     # these were not turned
                    # Held-out poses are as far off as the others were: compared without that, too.
                    fitted = camera_alignment.fitted(held_out, hull.closed)
                    self.report["metrics"]["held_back_fitted"] = _rounded(
                        report.view_metrics(mesh, fitted))
        if not stopped:
            report.write_contact_sheet(self.output / PICTURES[0], mesh, views)
        if found is not None and not stopped:
            save_png(self.output / "light.png", report.of_light(mesh, found, views))
        if not stopped:
            report.write_turntable(self.output, report.turntable(mesh))
        return placed

    def saved(self, stage, made_with):
        """Return {name: array} that `stage` saved, or None if there is nothing to reuse.

        Raises ShapeError if it was made with other settings or views.
        """
        wanted = self.resume or {"surface": "nerf"}.get(stage, stage) not in self.stages
        differing = self.work.differing(stage, made_with) if wanted else None
        if differing is None:
            return None
        if not differing:
            return load_state(self.work.file(stage))
        if stage == "surface" or self.resume and stage == "dmtet" and differing == ["surface"]:
            return None  # follows what comes before it
        raise ShapeError(
            f"{self.work.file(stage)}: was made with another {', '.join(differing)}; run without"
            f" {argument('resume')} to make it again, or with the views and settings of then"
        )

    def save_report(self):
        """Write report.json."""
        self.report["stages"] = self.timer.log
        self.report["settings"] = asdict(self.spec)
        self.report["interrupted"] = self.interrupted
        with atomic(self.output / "report.json") as temporary:
            temporary.write_text(json.dumps(self.report, indent=1))


def is_finished(folder):
    """Return whether a folder has a mesh that its report.json says is whole, with its figures."""
    try:
        found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        is_whole = found["interrupted"] is False and "input" in found["metrics"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return False
    return is_whole and (folder / "mesh.glb").is_file()


def views_to_mesh(views, output=None, config="default", overrides=(), **options):
    """Make a mesh of views with cameras, as tools/views_to_mesh.py does it.

    Return the TexturedMesh in the views' own world. views: a views folder, or the path of a
    transforms.json. output: the folder to write; None = `mesh` within the views folder. config:
    default, fast, fine or a YAML file; overrides: ["nerf.steps=300", ...]. options: those of
    `Reconstruction`; with `stages` that leave out "texture" there is no mesh yet and None is
    returned: `output` holds what they made. None, too, after Ctrl-C where `output` has a finished
    mesh, which stays.
    The device is that of sgm.ops.set_device, a CPU if nobody called it. Raises ShapeError,
    CameraError, ImageError, ConfigError (all sgm.common.errors.InputError).
    """
    views = Path(views)
    spec = load_mesh_spec(config, list(overrides))
    output = Path(output or mesh_folder(views))
    check_kept(output, (*(f"mesh.{kind}" for kind in (*FORMATS, "mtl", "png")), *PICTURES))
    return Reconstruction(views, spec, output, **options).run()


def _of_surface(saved):
    """Return (signed distance, how it was chosen) of what the surface stage saved."""
    sdf, chosen = saved["sdf"], json.loads(str(saved["chosen"]))
    if sdf.ndim != 3 or len(set(sdf.shape)) > 1 or not isinstance(chosen, dict):
        raise ValueError(f"sdf has the shape {sdf.shape}")
    return sdf, chosen


def _psnr(trainer):
    """Return the PSNR of the last steps in dB; None if there was none."""
    return round(float(trainer.history[-1][2]), 2) if trainer.history else None


def _rounded(figures):
    """Return figures for people."""
    return {name: round(float(value), 4) for name, value in figures.items()}


def _of_field(settings):
    """Return the settings of a DisagreementSpec that the field depends on."""
    return {name: getattr(settings, name) for name in (
        "exposure", "grid", "weight", "finest", "side", "steps")}


def _of_result(spec):
    """Return the settings of a NerfSpec or DMTetSpec that its result depends on."""
    return {
        key: value
        for key, value in asdict(spec).items()
        if key not in ("preview_every", "save_every")
    }

"""The fields of a transforms.json: read, known to be harmless, refused, or warned of.

A field that says how to read the others must not be passed over: a picture of a fisheye taken for a
pinhole's gives a mesh of the wrong size without a word.
"""
import logging
import re
import reprlib

from sgm.views.cameras import CameraError
from sgm.views.lenses import KEYS

# Read by transforms.py and lenses.py, next to frames and in every frame
READ = {*KEYS, "frames", "distance", "applied_transform", "applied_scale"}
READ_OF_FRAMES = {*KEYS, "file_path", "mask_path", "transform_matrix", "azimuth_deg",
                  "elevation_deg"}
# Known to leave poses, lenses and colors as they are. nerfstudio: subsets, points, depth maps, how
# its own scene is laid; Instant-NGP: its own box and scene, sharpness; Blender: rotation is that of
# its turntable; Polycam and other scanners: notes on the moment of a picture.
HARMLESS = set("""
    aabb aabb_scale angular_velocity author auto_scale_poses_override bbox blur_score cam_id
    camera_id camera_label center_depth cluster_id colmap_id colmap_im_id colmap_image_id comment
    confidence_path copyright created date depth_file_path depth_map_scale depth_path depth_scale
    depth_unit_scale_factor description device enable_depth_loading enable_ray_loading exported_by
    far far_plane filename fps frame_count frame_id frame_index frame_number frame_rate generator
    id image_id img_id index integer_depth_scale is_keyframe keyframe label latitude lens_make
    lens_name location longitude manual_keyframe n_extra_learnable_dims n_frames name near
    near_plane neighbors normal_file_path normal_path notes num_frames object object_id offset
    orientation_override original_fps outline_path ply_file_path points3d_path position_uncertainty
    render_aabb rotation scale scene scene_id scene_name seed segmentation_path semantic_path
    semantics_path sequence sharpness sharpness_discard_threshold software source sparse_pcd_path
    split tags test_filenames time time_stamp timestamp timestep title train_filenames uid
    val_filenames version video view_id
""".split())
# Cameras that are not modeled, by other programs' names
REFUSED = re.compile(
    r"equirectangular|latlong|orthographic|ortho_scale|omega|ftheta.*|distort\w*|dist_coeff\w*"
    r"|lens_(model|mode|type|params?|distortion)|k[7-9]|s[1-4]|sx[12]|sy[12]|tau_?[xy]",
    re.IGNORECASE)
# What tells such a camera by the name of a field, or by its value
OTHER_CAMERA = re.compile("fish_?eye|equirect|orthograph|panoram|spherical|lat_?long|cylindric"
                          "|omnidirect", re.IGNORECASE)
# What other fields mean, of which there is only a warning
WARNED = {
    "white_transparent": "white pixels are transparent to Instant-NGP; give pictures with alpha",
    "black_transparent": "black pixels are transparent to Instant-NGP; give pictures with alpha",
    "mask_color": "a color stands for what is masked out; give a mask_path",
    "rolling_shutter": "rows are taken one after the other; poses are taken for those of all rows",
    "rolling_shutter_time": "rows are taken one after the other; poses are taken for those of all"
                            " rows",
    "transform_matrix_start": "the camera moves during a picture; its transform_matrix is used",
    "transform_matrix_end": "the camera moves during a picture; its transform_matrix is used",
    "from_mitsuba": "poses are taken for OpenGL's, not Mitsuba's; convert them",
    "from_na": "poses are taken for OpenGL's; convert them",
    "fix_premult": "colors are taken for not multiplied by alpha; save the pictures with straight"
                   " alpha",
    "is_hdr": "colors are taken for sRGB",
    "up": "which way is up is found by the cameras, or said by views_to_mesh's argument up",
}
log = logging.getLogger("sgm")


def check_fields(path, data, frames):
    """Look at all fields of a transforms.json and of its frames.

    A field without a value (false, 0, null, empty, none, all zero) says nothing. One warning names
    each field that is not read and not known to be harmless. Raises CameraError for a camera that
    is not modeled.
    """
    found = {}
    for k, place in enumerate([data, *frames]):
        for key, value in place.items():
            if key in (READ_OF_FRAMES if k else READ) or key.lower() in HARMLESS:
                continue
            if key in found or _is_nothing(value):
                continue
            found[key] = f"frames[{k - 1}]" if k else "the file"
            told = f"{key} {value}" if isinstance(value, str) else key
            if REFUSED.fullmatch(key) or OTHER_CAMERA.search(told):
                where = f"{path}: frames[{k - 1}]" if k else path
                raise CameraError(f"{where}: {key} is {reprlib.repr(value)[:60]}, a camera or"
                                  " distortion that is not modeled; undistort the pictures, or give"
                                  " the k1 ... of camera_model OPENCV or OPENCV_FISHEYE")
    for key in sorted(found.keys() & WARNED.keys()):
        log.warning("%s: %s is not applied: %s", path, key, WARNED[key])
    unknown = sorted(found.keys() - WARNED.keys())
    if unknown:
        log.warning("%s: has fields that are not known and not read: %s; if one of them says how"
                    " poses, lenses or colors are meant, bring them to the form of nerfstudio",
                    path, ", ".join(reprlib.repr(key) for key in unknown[:20]))


def _is_nothing(value):
    """Return whether a value is false, 0, null, empty or "none", or a list of such values alone.
    """
    if isinstance(value, list):
        return all(map(_is_nothing, value))
    return not value or str(value).lower() in ("none", "pinhole", "perspective")

"""The fields of a transforms.json: those of known programs pass, others are named."""
import json

import numpy as np
import pytest

from sgm.views.cameras import CameraError, Orbit
from sgm.views.transforms import read_transforms, write_transforms

POSES = Orbit.static(num_frames=3).poses(2.0)
SIZE = {"w": 64, "h": 48}
LENS = {"fl_x": 70.0, "fl_y": 70.5, "cx": 32.5, "cy": 23.5}
ANGLES = {"camera_angle_x": 2 * np.arctan(32 / 70), "camera_angle_y": 2 * np.arctan(24 / 70.5)}


def frames(**fields):
    return [{"file_path": f"images/{k}.png", "transform_matrix": pose.tolist(), **fields} for k, pose in enumerate(POSES)]


# As the programs write them, by their sources and by files of theirs.
GENUINE = {
    "nerfstudio, COLMAP": dict(**SIZE, **LENS, k1=0.05, k2=-0.01, p1=0.001, p2=0.0, camera_model="OPENCV",
                               frames=frames(colmap_im_id=3, mask_path="images/0.png", depth_file_path="depth/0.png"),
                               applied_transform=[[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]], ply_file_path="sparse_pc.ply",
                               train_filenames=["images/0.png"], val_filenames=[], test_filenames=[]),
    "nerfstudio, Metashape": dict(camera_model="OPENCV_FISHEYE", **SIZE, **LENS, k1=0.01, k2=0.0, k3=0.0, k4=0.0,
                                  frames=frames(), applied_transform=np.eye(4)[:3].tolist(), applied_scale=1.0,
                                  orientation_override="none", auto_scale_poses_override=False, fisheye_crop_radius=30.0),
    "nerfstudio, Record3D": dict(**SIZE, **LENS, frames=frames(), camera_model="OPENCV"),
    "Instant-NGP": dict(**ANGLES, **SIZE, **LENS, k1=0.04, k2=-0.02, k3=0, k4=0, p1=-0.0005, p2=0.0003, is_fisheye=False,
                        aabb_scale=32, scale=0.33, offset=[0.5, 0.5, 0.5], frames=frames(sharpness=31.2)),
    "NeRFCapture": dict(**SIZE, **LENS, integer_depth_scale=0.0002, enable_depth_loading=True,
                        frames=frames(timestamp=1.5, depth_path="images/0.depth.png", **SIZE, **LENS)),
    "Blender": dict(camera_angle_x=0.69, **SIZE, frames=frames(rotation=0.0126)),
    "BlenderNeRF": dict(**ANGLES, **SIZE, **LENS, k1=0.0, k2=0.0, p1=0.0, p2=0.0, aabb_scale=4, offset=[0, 0, 0],
                        frames=frames()),
    "Polycam": dict(camera_model="OPENCV", frames=frames(**SIZE, **LENS, blur_score=8.1, timestamp=40321.5,
                                                         depth_file_path="depth/0.png", manual_keyframe=False, neighbors=[1])),
    "Spectacular AI": dict(camera_model="OPENCV", applied_transform=np.eye(4)[:3].tolist(), **SIZE,
                           frames=frames(**LENS, camera_linear_velocity=[0, 0, 0], motion_blur_score=None)),
}


def read(folder, data):
    (folder / "images").mkdir()
    for k in range(3):
        (folder / "images" / f"{k}.png").touch()
    (folder / "transforms.json").write_text(json.dumps(data))
    return read_transforms(folder)


@pytest.mark.parametrize("program", GENUINE)
def test_files_of_known_programs_give_no_warning(tmp_path, caplog, program):
    views = read(tmp_path, GENUINE[program])
    assert not caplog.records and len(views.lenses) == 3 and views.lenses[0].width == 64
    assert views.lenses[0].fl_x == pytest.approx(70 if program != "Blender" else 32 / np.tan(0.345))


def test_our_own_files_give_no_warning(tmp_path, caplog):
    for k in range(3):
        (tmp_path / f"{k:03d}.png").touch()
    write_transforms(tmp_path, Orbit.static(num_frames=3), 64)
    assert read_transforms(tmp_path).lens.fl_x == pytest.approx(105.32, abs=0.01) and not caplog.records


def test_unknown_fields_are_named_in_one_line(tmp_path, caplog):
    data = GENUINE["Blender"] | {"camera_type": "perspective", "description": "once a fisheye's", "handedness": "left", "nothing": [0, 0.0], "white_transparent": True, "mask_path": "a.png"}
    data["frames"][1]["exposure"] = 1.2
    data["frames"][2]["exposure"] = 1.3
    read(tmp_path, data)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "white_transparent is not applied: white pixels are transparent" in said[0]
    assert "not known and not read: 'exposure', 'handedness', 'mask_path'; if one" in said[1]
    del data["frames"][1]["exposure"], data["frames"][2]["exposure"]


@pytest.mark.parametrize("fields", [{"equirectangular": True}, {"ftheta_p0": 0.1}, {"distortion": [0.1, 0]}, {"k7": 0.1},
                                    {"lens_model": "fisheye"}, {"s1": 1e-3}, {"camera_type": "FISHEYE"},
                                    {"projection": "equirectangular"}])
def test_cameras_that_are_not_modeled_are_refused(tmp_path, fields):
    with pytest.raises(CameraError, match=rf"transforms.json: {list(fields)[0]} is .* not modeled; undistort"):
        read(tmp_path, GENUINE["Blender"] | fields)
    with pytest.raises(CameraError, match=rf"frames\[0\]: {list(fields)[0]} is "):
        (tmp_path / "transforms.json").write_text(json.dumps(GENUINE["Blender"] | {"frames": frames(**fields)}))
        read_transforms(tmp_path)

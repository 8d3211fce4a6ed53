"""Catalogue objects, of a library that is made here."""
import zipfile

import numpy as np
import pytest
from support.commands import load_tool

from sgm.common.errors import InputError
from sgm.geometry.mesh_reader import load_mesh
from sgm.render import catalogue
from sgm.render.catalogue import catalogue_items, check_whole, java_properties, missing_libraries

render_orbits = load_tool("render_orbits")
# a wedge: 2 wide, 1 high at the back (-z), 4 deep; the front edge is at z = 4
WEDGE = "v 0 0 0\nv 2 0 0\nv 0 1 0\nv 2 1 0\nv 0 0 4\nv 2 0 4\nf 1 3 4\nf 1 4 2\nf 3 5 6\nf 3 6 4\nf 1 2 6\nf 1 6 5\nf 1 5 3\nf 2 4 6\n"
HEADER = "library,id,name,category,file,faces,size_x,size_y,size_z,licence,creator,use,split,rotation,sibling\n"
LISTED = HEADER + "".join(f"Tiny,{k},Wedge,Office,wedge.obj,8,2,1,4,CC0-1.0,me,{use},{split},,\n"
                          for k, use, split in ((1, "yes", "train"), (2, "yes", "test"), (3, "no", ""), (12, "yes", "train")))
MODEL = "name#{0}=W\\u00e9dge\nmodel#{0}=/tiny/wedge{0}/wedge.obj\nwidth#{0}=2\nheight#{0}=1\ndepth#{0}=4\n"
# (x, y, z) of the file is (x, z, -y) of the object
TIPPED = "modelRotation#2=1 0 0 0 0 1 0 -1 0\nwidth#2=2\nheight#2=4\ndepth#2=1\n"


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Return the path of a library of four wedges; the list knows it."""
    monkeypatch.setattr(catalogue, "LIST", tmp_path / "catalogue.csv")
    (tmp_path / "catalogue.csv").write_text(LISTED)
    with zipfile.ZipFile(tmp_path / "Tiny.sh3f", "w") as archive:
        archive.writestr(catalogue.PROPERTIES, "id=Tiny\n" + "".join(map(MODEL.format, (1, 2, 3, 12))) + TIPPED)
        for k in (1, 2, 3, 12):
            archive.writestr(f"tiny/wedge{k}/wedge.obj", "mtllib wedge.mtl\nusemtl red\n" + WEDGE)
            archive.writestr(f"tiny/wedge{k}/wedge.mtl", "newmtl red\nKd 1 0 0\n")
    return str(tmp_path / "Tiny.sh3f")


def test_objects_of_a_split(library):
    assert [name for name, _ in catalogue_items([library, library], "train")] == ["Tiny-001", "Tiny-012"]
    assert [name for name, _ in catalogue_items([library], "train", 2)] == [
        "Tiny-001-00", "Tiny-001-01", "Tiny-012-00", "Tiny-012-01"]
    assert [(name, each.yaw) for name, each in catalogue_items([library], "test")] == [
        ("Tiny-002-front", 15), ("Tiny-002-quarter", 50)]


def test_libraries_that_were_not_given(library, tmp_path, caplog):
    """Those that hold objects of the split are named with their number: rendering goes on, figures are refused."""
    row = "{},{},Wedge,Office,wedge.obj,8,2,1,4,CC0-1.0,me,{},{},,\n"
    (tmp_path / "catalogue.csv").write_text(LISTED + "".join(row.format(*values) for values in (
        ("One", 1, "yes", "train"), ("Two", 1, "yes", "train"), ("Two", 2, "yes", "train"), ("Two", 3, "no", "train"),
        ("One", 2, "yes", "val"))))
    assert missing_libraries([library], "train") == "Two (2), One (1)"
    assert missing_libraries([library], "val") == "One (1)"
    assert missing_libraries([library], "test") == missing_libraries(["a/Two.sh3f", library, "One.sh3f"], "train") == ""
    check_whole([library], "test", "--catalogue")
    with pytest.raises(InputError, match=r"^--catalogue: objects of train are also in Two \(2\), One \(1\), .*five libraries"):
        check_whole([library], "train", "--catalogue")
    flags = ["--size", "16", "--frames", "2", "--supersample", "1", "--workers", "1", "--out", str(tmp_path / "set"), "--pack"]
    assert render_orbits.run(["catalogue", library, "--split", "train", *flags]) == 0
    assert "objects of train are also in Two (2), One (1), which were not given" in caplog.text


def test_how_an_object_lies(library, caplog):
    """Its height goes up, its front to +x; modelRotation comes first; it is red."""
    (_, wedge), _ = catalogue_items([library], "train")
    mesh = wedge.load()
    assert np.ptp(mesh.vertices, axis=0).tolist() == [4, 2, 1] and mesh.materials[0].color[:3] == (1, 0, 0)
    assert mesh.vertices[mesh.vertices[:, 2] == 1][:, 0].max() == 0        # the high edge is at the back
    _, tipped = catalogue_items([library], "test")[0]
    mesh = tipped.load()
    forward = mesh.vertices @ [np.cos(np.radians(15)), np.sin(np.radians(15)), 0]
    assert (mesh.vertices[:, 2].min(), mesh.vertices[:, 2].max()) == (0, 4)         # the front edge is on top
    assert (forward.min(), forward.max()) == pytest.approx((-1, 0), abs=1e-6)
    assert not caplog.records


def test_sizes_are_checked(library, caplog):
    """Without its turn an object's sides are not those that the library says."""
    from dataclasses import replace
    _, tipped = catalogue_items([library], "test")[0]
    replace(tipped, rotation=(1, 0, 0, 0, 1, 0, 0, 0, 1)).load()
    assert ["Tiny-002: measures 2 x 1 x 4, and its library says 2 x 4 x 1" in each.message for each in caplog.records] == [True]


def test_command(library, tmp_path):
    flags = ["--size", "16", "--frames", "4", "--supersample", "1", "--workers", "1", "--out", str(tmp_path / "set"), "--pack"]
    assert render_orbits.run(["catalogue", library, "--split", "train", "--variations", "2", *flags]) == 0
    again = flags[:-3] + ["--out", str(tmp_path / "folders")]
    for _ in range(2):                                  # finished ones stay, with their truth
        assert render_orbits.run(["catalogue", library, "--split", "test", *again, "--overwrite"]) == 0
    truth = load_mesh(tmp_path / "folders" / "Tiny-002-quarter" / "truth" / "mesh.ply")
    assert np.linalg.norm(truth.vertices, axis=1).max() == pytest.approx(0.5)
    assert np.load(tmp_path / "set" / "clips.npy").shape == (4, 4, 16, 16, 4)
    assert np.load(tmp_path / "set" / "names.npy").tolist() == ["Tiny-001-00", "Tiny-001-01", "Tiny-012-00", "Tiny-012-01"]


def test_libraries_that_cannot_be_used(library, tmp_path):
    def said(path, split="train"):
        with pytest.raises(InputError) as error:
            catalogue_items([str(path)], split)
        return str(error.value)
    assert "Tiny.sh3f: no such file" in said(tmp_path / "no" / "Tiny.sh3f") and "docs/training.md" in said(tmp_path / "no" / "Tiny.sh3f")
    assert "Other.sh3f: is none of the libraries in catalogue.csv (Tiny)" in said(tmp_path / "Other.sh3f")
    assert "--split val: none of the objects" in said(library, "val")
    (tmp_path / "catalogue.csv").write_text(LISTED.replace("wedge.obj", "cone.obj"))
    assert "object 1 (Wedge): found the model tiny/wedge1/wedge.obj, expected cone.obj" in said(library)
    (tmp_path / "catalogue.csv").write_text(LISTED)
    whole = (tmp_path / "Tiny.sh3f").read_bytes()
    (tmp_path / "Tiny.sh3f").write_bytes(whole[:200])
    assert "Tiny.sh3f: is no zip archive" in said(library)
    with zipfile.ZipFile(library, "w") as archive:
        archive.writestr(catalogue.PROPERTIES, MODEL.format(1) + MODEL.format(12) + "modelRotation#12=1 0 nan\n")
    assert "object 12 (Wedge): its properties are damaged (found '1 0 nan', expected 9 numbers)" in said(library)


def test_properties_as_java_reads_them():
    """The example of java.util.Properties.load, and more."""
    text = ("Truth = Beauty\n Truth:Beauty\nTruth \t:Beauty\n# no\n ! no\n\nfruits   apple, banana, \\\n   pear, \\\n  cantaloupe\n"
            "cheeses\nname\\#1=H\\u00f4i\\tAn\\\\\nkey\\ with\\=:a=b")
    assert list(java_properties(text)) == [("Truth", "Beauty")] * 3 + [
        ("fruits", "apple, banana, pear, cantaloupe"), ("cheeses", ""), ("name#1", "Hôi\tAn\\"), ("key with=", "a=b")]


def test_the_list():
    """602 objects to train on, 31 to validate, 62 to test; names are unique, every one has a creator and a license."""
    rows = catalogue.read_list()
    counts = {split: sum(row["use"] == "yes" and row["split"] == split for row in rows) for split in ("train", "val", "test")}
    assert counts == {"train": 602, "val": 31, "test": 62} and len({catalogue.object_name(row) for row in rows}) == 820
    test, train = ({catalogue.object_name(row) for row in rows if row["split"] == split} for split in ("test", "train"))
    siblings = {catalogue.object_name(row): row["sibling"] for row in rows if row["sibling"]}
    assert len(siblings) == 20 and siblings.keys() <= test and set(siblings.values()) <= train
    assert all(row["creator"] and row["licence"] in ("CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US") for row in rows)

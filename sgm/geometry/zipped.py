"""Mesh files within zip archives, with the materials and textures next to them."""
from __future__ import annotations

import posixpath
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from sgm.common.errors import os_reason
from sgm.geometry.mesh import Mesh, MeshError
from sgm.geometry.mesh_reader import load_mesh

MAX_BYTES = 1 << 30     # unpacked, of one mesh with what lies next to it
# what the standard library raises for archives of which any byte may be damaged
DAMAGED = (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, ValueError, KeyError)


@dataclass(frozen=True)
class ZippedMesh:
    """The mesh file `member` of the zip `archive`."""
    archive: str
    member: str

    def __str__(self):
        return f"{self.archive}/{self.member}"

    def load(self, up: str = "auto", strict: bool = True) -> Mesh:
        """Return the mesh, as `load_mesh` does. Raises MeshError as it does.

        Its folder, with all below, is unpacked for as long as it takes.
        """
        folder = posixpath.dirname(self.member) + "/" if "/" in self.member else ""
        try:
            with zipfile.ZipFile(self.archive) as archive, tempfile.TemporaryDirectory() as place:
                members = [entry for entry in archive.infolist()
                           if entry.filename.startswith(folder)]
                if sum(entry.file_size for entry in members) > MAX_BYTES:
                    raise MeshError(f"{self}: its folder is over {MAX_BYTES >> 30} GB unpacked;"
                                    " unpack the archive, and give the mesh file")
                archive.extractall(place, members)      # which leaves out "..", and the root
                return load_mesh(Path(place, self.member), up, strict=strict)
        except MeshError as error:
            raise MeshError(str(error).replace(place, self.archive)) from None
        except OSError as error:
            raise MeshError(f"{self}: cannot be unpacked: {os_reason(error)}") from None
        except DAMAGED as error:
            raise MeshError(f"{self}: cannot be unpacked ({error}); fetch the archive"
                            " again") from None


def members(archive: Path) -> list[str]:
    """Return the names in a zip archive. Raises MeshError."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.namelist()
    except OSError as error:
        raise MeshError(f"{archive}: cannot be read: {os_reason(error)}") from None
    except DAMAGED as error:
        raise MeshError(f"{archive}: is no zip archive ({error}); fetch it again") from None

"""Views with known cameras to a textured mesh: hull, NeRF, DMTet, cleaning, texture, export.

Everything happens in the normalized box: `posed_views.PosedViews` carries the similarity from it to
the input's own world, and `geometry.mesh_writer` writes it back. Numpy and numba do what depends on
the data (topology, visibility, indices) on the host; MindSpore graphs of static shape do what is
differentiated.
"""

"""Triangle meshes: files, topology, cleaning, measures."""

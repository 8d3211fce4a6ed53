"""The surface, refined by differentiable rasterization of marching tetrahedra."""

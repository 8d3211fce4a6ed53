"""The networks of SVD and SV3D and what samples them."""

"""From one image to a field of density and color in one pass: VFusion3D, OpenLRM, TripoSR.

An encoder turns the image into tokens, a transformer turns learned tokens that attend to them into
three planes of features (a triplane: Chan et al. 2022, arXiv 2112.07945), and a small network turns
the features of a point into density and color. `reconstructor` is the public face; `networks` puts
the parts together under the published names.
"""

"""Image to an orbit of views to a mesh, on MindSpore; the README explains the public names."""
import os

__version__ = "0.5.0"

os.environ.setdefault("GLOG_v", "3")  # MindSpore logs warnings that concern its developers only

_WHERE = {
    "load_model": "sgm.diffusion.pipeline", "generate": "sgm.diffusion.pipeline",
    "load_autodecoder": "sgm.autodecoder.pipeline",
    "load_lrm": "sgm.feedforward.reconstructor",
    "PipelineError": "sgm.diffusion.guards", "views_to_mesh": "sgm.reconstruct.pipeline",
    "ShapeError": "sgm.reconstruct.posed_views", "Orbit": "sgm.views.cameras",
    "Views": "sgm.views.folder", "CheckpointError": "sgm.checkpoints.store",
    "ConfigError": "sgm.config.yaml_reader",
}
__all__ = list(_WHERE)


def __getattr__(name):
    """Import a public name on first use: cameras and the renderer then do not load MindSpore."""
    if name in _WHERE:
        from importlib import import_module
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'sgm' has no attribute {name!r}")


def __dir__():
    """Return the public names, whether they are imported yet or not."""
    return sorted([*__all__, "__version__"])

"""Makes our classes findable by name, for ``DiffusionPipeline``, ``AutoModel`` and pipelines on a model hub.

diffusers resolves a component by the module path in ``model_index.json`` and accepts paths of a private table only.
There is no public way to add to it, so this writes into the table and hangs the classes into the ``diffusers`` module.
Where the table is gone, everything but these generic entry points still works.
"""

import diffusers
from diffusers.pipelines import pipeline_loading_utils

METHODS = {"ModelMixin": ["save_pretrained", "from_pretrained"]}


def register(*classes: type) -> None:
    """Add classes by their full module path; adding them again changes nothing."""
    table = getattr(pipeline_loading_utils, "LOADABLE_CLASSES", None)
    for one in classes:
        if isinstance(table, dict):
            table.setdefault(one.__module__, METHODS)
        if not hasattr(diffusers, one.__name__):
            setattr(diffusers, one.__name__, one)

"""A classifier on disk: ``model.safetensors``, ``config.json``, ``README.md``.

The folder follows timm's own layout, so that a linear head on a timm network also loads without headstart:
``timm.create_model("local-dir:OUT/model", pretrained=True)``. What timm has no place for (temperature, flip
averaging, origin of the weights, measured scores) is in the block ``headstart`` of ``config.json``. Everything in
that file either takes effect or is refused: a bundle that this version does not fully understand is never half
loaded. Nothing is unpickled.
"""

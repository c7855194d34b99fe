"""Features of frozen backbones, kept on disk."""

"""Backbones and where their weights come from, heads, and what stays frozen."""

from headstart.models.timm_import import import_timm

# Before any module of this room imports timm itself.
import_timm()

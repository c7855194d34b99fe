"""Backbones and where their weights come from, heads, and what stays frozen."""

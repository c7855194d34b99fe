"""Recipes that come with headstart, as YAML."""

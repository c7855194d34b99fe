"""Runs side by side: read and checked to be comparable, compared in pairs, put into words and onto a page."""

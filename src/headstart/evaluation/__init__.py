"""Measuring a finished classifier; the only room that opens the test split."""

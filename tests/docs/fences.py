"""What the documents show in fences, and what they link."""

import re

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def commands(text, *languages):
    """Every ``headstart ...`` line of the fences in a language, or in any."""
    fences = [fence for language, fence in FENCE.findall(text) if not languages or language in languages]
    return [line for fence in fences for line in fence.splitlines() if line.startswith("headstart ")]

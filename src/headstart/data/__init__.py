"""Where images come from, how they are split, and how they become network input."""

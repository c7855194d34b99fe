"""Downloads: one HTTP client, one npm client."""

"""HTTP over a Predictor: a server that classifies images, and a page to try it with."""

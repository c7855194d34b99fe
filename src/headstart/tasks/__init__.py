"""What is predicted: one label per image. The loss, what selects, the probabilities, and the one list of metrics."""

"""From a bundle to a file that other runtimes run, with golden predictions that show it computes the same."""

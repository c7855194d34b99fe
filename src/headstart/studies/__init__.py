"""Studies: a list of stages, each an ordinary recipe, run one after the other and told on one page."""

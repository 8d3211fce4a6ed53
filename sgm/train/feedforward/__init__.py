"""Training of feed-forward networks, and of the estimator of an input's elevation."""

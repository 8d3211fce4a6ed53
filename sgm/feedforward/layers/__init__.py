"""What the networks are made of: encoders, transformers, planes, the estimator of the elevation."""

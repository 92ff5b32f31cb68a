"""What torch's own samples and a fine grid of points say of torchveil: the pages of conformance and of accuracy."""

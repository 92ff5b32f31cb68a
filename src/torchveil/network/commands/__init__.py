"""What commands do with a running cluster, as functions that return what they found; ``torchveil.cli`` prints it."""

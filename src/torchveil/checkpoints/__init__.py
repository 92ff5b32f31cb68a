"""Checkpoints of a session: the state of models and optimizers, secret and plain, as ``torch.save`` takes it."""

from torchveil.checkpoints.state import load, save

__all__ = ["load", "save"]

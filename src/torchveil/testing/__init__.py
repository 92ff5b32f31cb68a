"""What tests of several machines need and one machine lacks; nothing here takes part in a computation."""

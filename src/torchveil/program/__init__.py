"""The program: typed instructions that every role executes in the same order."""

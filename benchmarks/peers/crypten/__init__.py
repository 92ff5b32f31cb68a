"""CrypTen 0.4.1 as a peer: installation, its side of the workloads, and the process that answers commands."""

"""Other systems that run the same workloads, each as a process of its own."""

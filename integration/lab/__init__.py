"""Hosts, links and probes in network namespaces, for tools/demo and tools/bench. Standard library only."""

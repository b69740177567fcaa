"""The simulated world: physics, the choice of offloads, random streams, reference policies."""

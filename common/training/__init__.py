"""Speed only: worker processes, memory, blocks of runs, CUDA graphs, the timer."""

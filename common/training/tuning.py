"""Every constant that only speed depends on; what the first two are worth: benchmarks/README.md, "Constants"."""

NUMBERS_AT_ONCE = 2**18  # numbers of a run that the optimiser passes over together on the CPU: 1 MiB an array
BLOCK_BYTES = 16 * 2**20  # weights or hidden units of the actors that train in one block on the CPU
LEAST_RUNS_PER_WORKER = 2  # not tuned
MOST_RUNS_PER_SHARD = {"cpu": 48, "cuda": 320}  # not tuned: three and twenty grids
CUDA_BLOCK_SHARE = 8  # one block's critic rows take at most this part of the free GPU memory
GRAPH_WARM_UP_EPISODES = 3  # played launch by launch before a CUDA graph is captured, so that libraries are set up
KEPT_BYTES = 32 * 2**20  # the most that glibc's threshold can be; larger freed blocks go back to the kernel

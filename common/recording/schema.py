"""Names of the result files and their columns, in the order in which they are written; imports nothing."""

RUN_KEY = ("seed", "actor_lr", "critic_lr")
ALWAYS_LOGGED = 20  # up to this episode every training step has its rows: most gradients that die early die in there

RUNS = "runs.csv"
STOPPING_EPISODES = "stopping_episodes.csv"
GRADIENT_NORMS = "gradient_norms.csv"
SATURATION = "saturation.csv"
REWARDS = "rewards.csv"
EVALUATIONS = "evaluations.csv"
REFERENCE_POLICIES = "reference_policies.csv"

# File name -> its fixed columns. A variant may append columns of numbers after them.
# fmt: off
FILES: dict[str, tuple[str, ...]] = {
    RUNS: (
        *RUN_KEY, "preset", "experiment", "status", "diverged_episode", "stopping_episode", "total_episodes",
        "score_episode", "frozen_share", "dead_share", "median_death_episode", "median_freeze_episode",
        "first_100_mean_return", "last_100_mean_return", "first_evaluation_return", "final_evaluation_return",
        "best_evaluation_return", "normalised_score", "best_score", "drift", "final_saturation_ratio",
        "final_wrong_side_saturation", "largest_abs_preactivation", "wall_seconds", "device",
        "python_version", "torch_version", "numpy_version",
    ),
    STOPPING_EPISODES: (
        *RUN_KEY, "agent", "gradient_death_episode", "first_unchanged_episode", "freeze_episode", "first_side_offload",
        "first_side_compute", "first_side_power", "last_side_offload", "last_side_compute", "last_side_power",
    ),
    GRADIENT_NORMS: (
        *RUN_KEY, "episode", "actor_gradient_norm", "critic_gradient_norm", "gradient_ratio", "actor_fc1", "actor_fc2",
        "actor_fc3", "critic_fc1", "critic_fc2", "critic_fc3", "actor_update_norm", "critic_update_norm",
        "actor_relative_step", "critic_relative_step", "mean_abs_dq_da", "actor_clipped_norm", "critic_clipped_norm",
    ),
    SATURATION: (
        *RUN_KEY, "episode", "saturation_ratio", "saturation_offload", "saturation_compute", "saturation_power",
        "wrong_side_saturation", "stuck_share", "bang_bang_share", "tanh_derivative", "zero_derivative_share",
        "dq_da_sign_coherence", "dq_da_alignment_compute", "dq_da_alignment_power", "z_step_rms", "z_mean", "z_sd",
        "z_min", "z_q01", "z_q25", "z_q50", "z_q75", "z_q99", "z_max",
    ),
    REWARDS: (*RUN_KEY, "episode", "training_return", "late_share", "drained_share"),
    EVALUATIONS: (*RUN_KEY, "episode", "evaluation_return", "late_share", "drained_share", "offloads_per_step"),
    REFERENCE_POLICIES: (
        "seed", "policy", "alpha", "evaluation_return", "late_share", "drained_share", "offloads_per_step",
    ),
}
# fmt: on

# File name -> columns that studies recorded before they existed lack; the reader computes or leaves them empty.
ADDED: dict[str, tuple[str, ...]] = {
    RUNS: ("score_episode", "best_evaluation_return", "best_score", "drift"),
    STOPPING_EPISODES: FILES[STOPPING_EPISODES][-6:],
    GRADIENT_NORMS: ("actor_relative_step", "critic_relative_step"),
    SATURATION: (
        "stuck_share",
        "bang_bang_share",
        "zero_derivative_share",
        "dq_da_sign_coherence",
        "dq_da_alignment_compute",
        "dq_da_alignment_power",
        "z_step_rms",
    ),
}

# Tables with a row per run and some of its episodes.
LONG = (GRADIENT_NORMS, SATURATION, REWARDS)
PACKED = (*LONG, EVALUATIONS, STOPPING_EPISODES)  # a recorded study holds these as <name>.gz (archive.py)
COMPRESSED = ".gz"

# File name -> the columns that together name one row: never empty, never twice the same.
ROW_KEYS: dict[str, tuple[str, ...]] = {
    RUNS: RUN_KEY,
    STOPPING_EPISODES: (*RUN_KEY, "agent"),
    **{name: (*RUN_KEY, "episode") for name in (*LONG, EVALUATIONS)},
    REFERENCE_POLICIES: ("seed", "policy"),
}

INTEGER_COLUMNS = ("seed", "agent", "episode")
TEXT_COLUMNS = (
    *("preset", "experiment", "status", "policy"),
    *("device", "python_version", "torch_version", "numpy_version"),
)
COMPLETED, STOPPED_EARLY, DIVERGED = "completed", "stopped early", "diverged"
POLICIES = ("random", "constant", "local_oracle", "greedy_offload")
# Text columns that admit only these values.
CHOICES: dict[str, tuple[str, ...]] = {"status": (COMPLETED, STOPPED_EARLY, DIVERGED), "policy": POLICIES}

"""Networks, replay, the rules of learning, and the learner of one batch of runs."""

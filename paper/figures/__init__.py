"""The paper's figures: one function each, from the recordings to a matplotlib figure."""

from collections.abc import Callable

from matplotlib.figure import Figure

from paper.figures import mechanism, scores, stopping, training
from paper.load import Recordings

FIGURES: dict[str, Callable[[Recordings], Figure]] = {
    "fig0_thesis_stopping": lambda r: stopping.stopping(r, "thesis"),
    "fig1_stopping_heatmap": stopping.stopping,
    "fig2_stopping_bubble": stopping.bubbles,
    "fig3_asymmetry_over_time": training.asymmetry_over_time,
    "fig4_gradient_comparison": training.gradient_comparison,
    "fig5_per_layer_gradients": training.per_layer_gradients,
    "fig6_asymmetry_vs_stopping": stopping.asymmetry_and_stopping,
    "fig7_saturation_over_time": training.saturation_over_time,
    "fig8_preactivation_stats": training.preactivation_statistics,
    "fig9_saturation_heatmap": training.saturation_grid,
    "fig10_saturation_vs_stopping": stopping.saturation_and_stopping,
    "fig11_learning_curves": scores.learning_curves,
    "fig12_reward_comparison": scores.reward_comparison,
    "fig13_per_agent_stopping": stopping.agents_over_time,
    "fig_death": mechanism.death,
    "fig_death_and_freeze": mechanism.death_and_freeze,
    "fig_wrong_side": mechanism.wrong_side,
    "fig_alignment": mechanism.alignment,
    "fig_recipe": scores.recipe,
    "fig_parts": scores.parts,
    "fig_monitor": scores.monitor,
}

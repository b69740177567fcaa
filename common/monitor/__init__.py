"""What saturated, stuck, bang-bang and coherent mean, and these measurements for anybody's actor and critic."""

from .diagnosis import Diagnosis
from .limit import StepLimit, limit_steps
from .measure import MonitorError
from .monitor import SaturationMonitor

__all__ = ["Diagnosis", "MonitorError", "SaturationMonitor", "StepLimit", "limit_steps"]

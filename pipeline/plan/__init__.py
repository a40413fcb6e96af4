"""What an extraction will cost and change, measured on a pilot before it is paid for."""

from .plan import PlanConfig, make_plan
from .records import Estimate, Fidelity, Plan, StoreCost

__all__ = ["Estimate", "Fidelity", "Plan", "PlanConfig", "StoreCost", "make_plan"]

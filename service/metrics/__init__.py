"""What the server measures of itself, under the names that Prometheus reads."""

from service.metrics.distributions import Distribution
from service.metrics.metrics import Described, Metrics
from service.metrics.refusals import Refusals

__all__ = ["Described", "Distribution", "Metrics", "Refusals"]

"""Batching policies: what they see, what they answer, and who asks them."""

from servable.batching.consultant import Consultant
from servable.batching.policy import BatchingPolicy, Decision, QueueObservation

__all__ = ["BatchingPolicy", "Consultant", "Decision", "QueueObservation"]

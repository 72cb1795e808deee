"""Metrics, traces and logs: what listens to the spans of core/observe.py, and tells others what it has heard."""

from .logs import DeliveryFilter as DeliveryFilter
from .logs import JsonFormatter as JsonFormatter

"""What users test their applications with: agents that run in this process, in real or in virtual time."""

from __future__ import annotations

from .harness import TestedBus as TestedBus
from .harness import virtual as virtual
from .simulation import Simulated as Simulated
from .simulation import Simulation as Simulation
from .simulation import SimulationFailed as SimulationFailed
from .thread import local as local

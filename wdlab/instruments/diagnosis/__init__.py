"""The doctor: what decays in a run, by any Optax chain, what is wrong with it, what to write."""

from wdlab.instruments.diagnosis.command import add_doctor
from wdlab.instruments.diagnosis.finding import Finding
from wdlab.instruments.diagnosis.report import Group, Report
from wdlab.instruments.diagnosis.visit import doctor

__all__ = ["Finding", "Group", "Report", "add_doctor", "doctor"]

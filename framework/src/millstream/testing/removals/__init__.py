"""Safeguards taken out, one class each, by what stands in for a store or a log: for the simulator and for real crashes."""

"""Serving on NVIDIA GPUs: state that never leaves the device, runs that are recorded once.

Everything here also runs on the CPU provider, which is how it is tested where there is no GPU.
"""

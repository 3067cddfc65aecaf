"""Machines that run a firmware: an emulated Cortex-M, the host, QEMU.

machine.py says what a machine can do; cortex_m.py and host.py are the two that verification drives function
by function; qemu.py runs the whole application at its console. Import the one you need.
"""

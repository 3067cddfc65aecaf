"""Machines that run a firmware: emulated boards, and the host.

machine.py says what a machine can do, and machines.py finds the one of a board. host.py and those are driven function
by function by verification; qemu.py runs the whole application at its console.
"""

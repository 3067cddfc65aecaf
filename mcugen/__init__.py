"""mcugen puts tiny transformers on microcontrollers and proves the firmware bit for bit."""

__version__ = "0.1.0"

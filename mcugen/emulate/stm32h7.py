"""The clock tree of an STM32H742, H743 or H753 of revision V, and the caches of its core, as the port uses them.

Sections and tables: RM0433; of the caches: Armv7-M Architecture Reference Manual, B2.2.7 and B3.2.
"""

from __future__ import annotations

from collections.abc import Callable

from mcugen.emulate.registers import BadRegisterAccess
from mcugen.emulate.stm32 import Chip, Clocks, Field, Stm32, ahb_divider, apb_divider, gpio_gates, require
from mcugen.ir import Board

_RCC = 0x58024400
_CR, _CFGR, _D1CFGR, _D2CFGR, _D3CFGR = _RCC, _RCC + 0x10, _RCC + 0x18, _RCC + 0x1C, _RCC + 0x20
_PLLCKSELR, _PLLCFGR, _PLL1DIVR = _RCC + 0x28, _RCC + 0x2C, _RCC + 0x30
_AHB4ENR, _APB1LENR, _APB2ENR, _APB4ENR = _RCC + 0xE0, _RCC + 0xE8, _RCC + 0xF0, _RCC + 0xF4
_CSR1, _CR3, _D3CR = 0x58024804, 0x5802480C, 0x58024818
_SYSCFG = 0x58000400
_PWRCR = _SYSCFG + 0x2C
_ACR = 0x52002000
_CCR, _ICIALLU, _DCISW = 0xE000ED14, 0xE000EF50, 0xE000EF60
_CCR_DC, _CCR_IC = 1 << 16, 1 << 17
_LINES = 4 * 128  # of the data cache: ways and sets (DS12110: 16 KiB, lines of 32 B)
_PLLON = Field(_CR, 24)
_SW = Field(_CFGR, 0, 3)
_LDO = 2
_HSI = 64e6
_VOS, _ODEN = Field(_D3CR, 14, 2), Field(_PWRCR, 0)
_CORE_LIMITS = {0: 480e6, 1: 400e6, 2: 300e6, 3: 200e6}  # Hz by voltage scale, DS12110
# LATENCY, WRHIGHFREQ, AXI clock in Hz: table 17, voltage scale 0. After reset they are the most there are.
_WAIT_STATES = ((0, 0, 70e6), (1, 1, 140e6), (2, 1, 185e6), (2, 2, 210e6), (3, 2, 225e6), (4, 2, 240e6))


class Stm32h7(Stm32):
    """Stm32 with this clock tree. The data cache must be empty before it is switched on."""

    chip = Chip(
        reset={
            _CR: 0x00000083, _CFGR: 0, _D1CFGR: 0, _D2CFGR: 0, _D3CFGR: 0, _PLLCKSELR: 0x02020200,
            _PLLCFGR: 0x01FF0000, _PLL1DIVR: 0x01010280, _AHB4ENR: 0, _APB1LENR: 0, _APB2ENR: 0, _APB4ENR: 0x00010000,
            _CSR1: 0x00004000, _CR3: 0x00000006, _D3CR: 0x00004000, _PWRCR: 0, _ACR: 0x00000037,
            _CCR: 0x00040200, _ICIALLU: 0, _DCISW: 0,
        },
        follows={Field(_CR, 25): _PLLON, Field(_CFGR, 3, 3): _SW, Field(_CSR1, 14, 2): _VOS},
        gates={
            **gpio_gates(0x58020000, 11, _AHB4ENR),
            _SYSCFG: Field(_APB4ENR, 1),
            0x40011000: Field(_APB2ENR, 4),  # USART1
            0x40004400: Field(_APB1LENR, 17),  # USART2
            0x40004800: Field(_APB1LENR, 18),  # USART3
        },
        lpuarts=frozenset(),
        pll_on=_PLLON,
        pll_factors=frozenset({_PLLCKSELR, _PLLCFGR, _PLL1DIVR}),
        switch=_SW,
    )  # fmt: skip

    def __init__(self, board: Board, cycles: Callable[[], int]) -> None:
        super().__init__(board, cycles)
        self._emptied: set[int] = set()
        self._supplied = False

    def read(self, address: int, size: int) -> int:
        value = super().read(address, size)
        return value | 1 << 13 if address in (_CSR1, _D3CR) else value  # ACTVOSRDY, VOSRDY

    def write(self, address: int, size: int, value: int) -> None:
        if address == _CCR and value & _CCR_DC and len(self._emptied) < _LINES:
            raise BadRegisterAccess(f"only {len(self._emptied)} of {_LINES} lines of the data cache are invalid")
        if address == _CR3:
            require(not self._supplied and value & 7 == _LDO, "the supply is not the board's, or is set again")
            self._supplied = True
        if address == _D3CR:
            require(self._supplied, "the voltage is fixed until the supply is set")
        super().write(address, size, value)
        if address == _DCISW:
            self._emptied.add(value)

    def clocks(self) -> Clocks:
        selected = self.field(_SW)
        require(selected in (0, 3), "no clock that the port uses")
        core = (self._pll() if selected == 3 else _HSI) / ahb_divider(self.field(Field(_D1CFGR, 8, 4)))
        axi = core / ahb_divider(self.field(Field(_D1CFGR, 0, 4)))
        scale = 4 - max(self.field(_VOS), 1)
        scale -= self.field(_ODEN) if scale == 1 else 0
        require(core <= _CORE_LIMITS[scale], f"a core clock of {core / 1e6:g} MHz at voltage scale {scale}")
        latency, frequency = self.field(Field(_ACR, 0, 4)), self.field(Field(_ACR, 4, 2))
        enough = any(axi <= hertz and latency >= wait and frequency >= high for wait, high, hertz in _WAIT_STATES)
        require(enough, "too few wait states of flash")
        prescalers = (Field(_D1CFGR, 4, 3), Field(_D2CFGR, 4, 3), Field(_D2CFGR, 8, 3), Field(_D3CFGR, 4, 3))
        buses = [axi / apb_divider(self.field(field)) for field in prescalers]
        require(axi <= 240e6 and max(buses) <= 120e6, "a bus clock above 240 MHz (AXI) or 120 MHz (APB)")
        return Clocks(core, buses[1])

    def _pll(self) -> float:
        """Section "PLLs description": HSI / M * N / P."""
        require(self.field(_PLLON) == 1, "the PLL is off")
        require(self.field(Field(_PLLCKSELR, 0, 2)) == 0, "the PLL does not run on HSI")
        require(self.field(Field(_PLLCFGR, 16)) == 1, "output P of the PLL is off")
        source = _HSI / self.field(Field(_PLLCKSELR, 4, 6))
        low = 1e6 * (1 << self.field(Field(_PLLCFGR, 2, 2)))
        vco = source * (self.field(Field(_PLL1DIVR, 0, 9)) + 1)
        require(max(2e6, low) <= source <= 2 * low, "the PLL's input is out of its range")
        require(192e6 <= vco <= 960e6, "the PLL does not lock")
        require(self.field(Field(_PLLCFGR, 1)) == 0, "the PLL's VCO is not the wide one")
        return vco / (self.field(Field(_PLL1DIVR, 9, 7)) + 1)

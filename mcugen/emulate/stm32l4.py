"""The clock tree of an STM32L47x or L48x, as far as the port uses it. Sections and tables: RM0351."""

from __future__ import annotations

from mcugen.emulate.stm32 import Chip, Clocks, Field, Stm32, ahb_divider, apb_divider, gpio_gates, require

_RCC = 0x40021000
_CR, _CFGR, _PLLCFGR = _RCC, _RCC + 0x08, _RCC + 0x0C
_AHB2ENR, _APB1ENR1, _APB1ENR2, _APB2ENR = _RCC + 0x4C, _RCC + 0x58, _RCC + 0x5C, _RCC + 0x60
_ACR = 0x40022000
_HSION, _PLLON = Field(_CR, 8), Field(_CR, 24)
_SW = Field(_CFGR, 0, 2)
_MSI, _HSI16 = 4e6, 16e6
_WAIT_STEP = 16e6  # Hz of the core per wait state, voltage range 1: table in "Read access latency"


class Stm32l4(Stm32):
    """Stm32 with this clock tree."""

    chip = Chip(
        reset={
            _CR: 0x00000063, _CFGR: 0, _PLLCFGR: 0x00001000, _AHB2ENR: 0, _APB1ENR1: 0, _APB1ENR2: 0, _APB2ENR: 0,
            _ACR: 0x00000600,
        },
        follows={Field(_CR, 10): _HSION, Field(_CR, 25): _PLLON, Field(_CFGR, 2, 2): _SW},
        gates={
            **gpio_gates(0x48000000, 8, _AHB2ENR),
            0x40013800: Field(_APB2ENR, 14),  # USART1
            0x40004400: Field(_APB1ENR1, 17),  # USART2
            0x40004800: Field(_APB1ENR1, 18),  # USART3
            0x40008000: Field(_APB1ENR2, 0),  # LPUART1
        },
        lpuarts=frozenset({0x40008000}),
        pll_on=_PLLON,
        pll_factors=frozenset({_PLLCFGR}),
        switch=_SW,
    )  # fmt: skip

    def clocks(self) -> Clocks:
        selected = self.field(_SW)
        require(selected in (0, 3), "no clock that the port uses")
        core = (self._pll() if selected == 3 else _MSI) / ahb_divider(self.field(Field(_CFGR, 4, 4)))
        require(core <= 80e6, f"a core clock of {core / 1e6:g} MHz")
        require(core <= _WAIT_STEP * (1 + self.field(Field(_ACR, 0, 3))), "too few wait states of flash")
        pclk1, pclk2 = (core / apb_divider(self.field(Field(_CFGR, low, 3))) for low in (8, 11))
        return Clocks(core, min(pclk1, pclk2))

    def _pll(self) -> float:
        """Section "PLL configuration register": HSI16 / M * N / R."""
        require(self.field(_PLLON) == 1 and self.field(_HSION) == 1, "the PLL is off")
        require(self.field(Field(_PLLCFGR, 0, 2)) == 2, "the PLL does not run on HSI16")
        require(self.field(Field(_PLLCFGR, 24)) == 1, "output R of the PLL is off")
        source = _HSI16 / (self.field(Field(_PLLCFGR, 4, 3)) + 1)
        vco = source * self.field(Field(_PLLCFGR, 8, 7))
        require(4e6 <= source <= 16e6 and 64e6 <= vco <= 344e6, "the PLL does not lock")
        return vco / (2 * self.field(Field(_PLLCFGR, 25, 2)) + 2)

"""The clock tree of an STM32G4, as far as the port uses it. Sections and tables: RM0440."""

from __future__ import annotations

from mcugen.emulate.stm32 import Chip, Clocks, Field, Stm32, ahb_divider, apb_divider, gpio_gates, require

_RCC = 0x40021000
_CR, _CFGR, _PLLCFGR = _RCC, _RCC + 0x08, _RCC + 0x0C
_AHB2ENR, _APB1ENR1, _APB1ENR2, _APB2ENR = _RCC + 0x4C, _RCC + 0x58, _RCC + 0x5C, _RCC + 0x60
_PWR = 0x40007000
_CR5 = _PWR + 0x80
_ACR = 0x40022000
_PLLON = Field(_CR, 24)
_SW, _HPRE = Field(_CFGR, 0, 2), Field(_CFGR, 4, 4)
_R1MODE = Field(_CR5, 8)
_HSI16 = 16e6
_NORMAL_STEP, _BOOST_STEP = 30e6, 34e6  # Hz of the core per wait state, range 1: table in "Read access latency"
_UNHURRIED = 80e6  # Hz; beyond, the first microsecond is at half the clock ("Dynamic voltage scaling management")


class Stm32g4(Stm32):
    """Stm32 with this clock tree."""

    chip = Chip(
        reset={
            _CR: 0x00000500, _CFGR: 0x00000005, _PLLCFGR: 0x00001000, _AHB2ENR: 0, _APB1ENR1: 0, _APB1ENR2: 0,
            _APB2ENR: 0, _CR5: 0x00000100, _ACR: 0x00040600,
        },
        follows={Field(_CR, 25): _PLLON, Field(_CFGR, 2, 2): _SW},
        gates={
            **gpio_gates(0x48000000, 7, _AHB2ENR),
            _PWR: Field(_APB1ENR1, 28),
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

    def switched(self) -> None:
        require(self.clocks().core <= max(_UNHURRIED, self._system() / 2), "the core's clock rises at one stroke")

    def clocks(self) -> Clocks:
        core = self._system() / ahb_divider(self.field(_HPRE))
        boost = self.field(_R1MODE) == 0
        require(core <= (170e6 if boost else 150e6), f"a core clock of {core / 1e6:g} MHz")
        step = _BOOST_STEP if boost else _NORMAL_STEP
        require(core <= step * (1 + self.field(Field(_ACR, 0, 4))), "too few wait states of flash")
        pclk1, pclk2 = (core / apb_divider(self.field(Field(_CFGR, low, 3))) for low in (8, 11))
        return Clocks(core, min(pclk1, pclk2))

    def _system(self) -> float:
        """SYSCLK, by section "PLL configuration register": HSI16 / M * N / R."""
        selected = self.field(_SW)
        require(selected in (1, 3), "no clock that the port uses")
        if selected == 1:
            return _HSI16
        require(self.field(_PLLON) == 1, "the PLL is off")
        require(self.field(Field(_PLLCFGR, 0, 2)) == 2, "the PLL does not run on HSI16")
        require(self.field(Field(_PLLCFGR, 24)) == 1, "output R of the PLL is off")
        source = _HSI16 / (self.field(Field(_PLLCFGR, 4, 4)) + 1)
        vco = source * self.field(Field(_PLLCFGR, 8, 7))
        require(2.66e6 <= source <= 16e6 and 96e6 <= vco <= 344e6, "the PLL does not lock")
        return vco / (2 * self.field(Field(_PLLCFGR, 25, 2)) + 2)

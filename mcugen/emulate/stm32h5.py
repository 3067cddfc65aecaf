"""The clock tree of an STM32H562, H563 or H573, as far as the port uses it. Sections and tables: RM0481."""

from __future__ import annotations

from mcugen.emulate.stm32 import Chip, Clocks, Field, Stm32, ahb_divider, apb_divider, gpio_gates, require

_RCC = 0x44020C00
_CR, _CFGR1, _CFGR2, _PLL1CFGR, _PLL1DIVR = _RCC, _RCC + 0x1C, _RCC + 0x20, _RCC + 0x28, _RCC + 0x34
_AHB2ENR, _APB1LENR, _APB2ENR = _RCC + 0x8C, _RCC + 0x9C, _RCC + 0xA4
_VOSCR, _VOSSR = 0x44020810, 0x44020814
_ACR = 0x40022000
_ICACHE_CR, _ICACHE_SR = 0x40030400, 0x40030404
_PLLON = Field(_CR, 24)
_SW = Field(_CFGR1, 0, 2)
_VOS = Field(_VOSCR, 4, 2)
_HSI = 64e6
_CORE_LIMITS = (100e6, 150e6, 200e6, 250e6)  # Hz by VOS: voltage scale 3 to 0
_WAIT_STEPS = (20e6, 30e6, 34e6, 42e6)  # Hz of the core per wait state, likewise: table in "Read access latency"
_WRITE_STEP = 84e6  # Hz of the core per step of WRHIGHFREQ at scale 0, same table


class Stm32h5(Stm32):
    """Stm32 with this clock tree."""

    chip = Chip(
        reset={
            _CR: 0x0000002B, _CFGR1: 0, _CFGR2: 0, _PLL1CFGR: 0, _PLL1DIVR: 0x01010280, _AHB2ENR: 0xC0000000,
            _APB1LENR: 0, _APB2ENR: 0, _VOSCR: 0, _VOSSR: 0x00002008, _ACR: 0x00000013, _ICACHE_CR: 0x00000004,
            _ICACHE_SR: 0,
        },
        follows={Field(_CR, 25): _PLLON, Field(_CFGR1, 3, 2): _SW, Field(_VOSSR, 14, 2): _VOS},
        gates={
            **gpio_gates(0x42020000, 9, _AHB2ENR),
            0x40013800: Field(_APB2ENR, 14),  # USART1
            0x40004400: Field(_APB1LENR, 17),  # USART2
            0x40004800: Field(_APB1LENR, 18),  # USART3
        },
        lpuarts=frozenset(),
        pll_on=_PLLON,
        pll_factors=frozenset({_PLL1CFGR, _PLL1DIVR}),
        switch=_SW,
    )  # fmt: skip

    def clocks(self) -> Clocks:
        selected = self.field(_SW)
        require(selected in (0, 3), "no clock that the port uses")
        core = (self._pll() if selected == 3 else self._hsi()) / ahb_divider(self.field(Field(_CFGR2, 0, 4)))
        voltage = self.field(_VOS)
        require(core <= _CORE_LIMITS[voltage], f"a core clock of {core / 1e6:g} MHz at voltage scale {3 - voltage}")
        enough = core <= _WAIT_STEPS[voltage] * (1 + self.field(Field(_ACR, 0, 4)))
        require(enough and core <= _WRITE_STEP * (1 + self.field(Field(_ACR, 4, 2))), "too few wait states of flash")
        pclk1, pclk2 = (core / apb_divider(self.field(Field(_CFGR2, low, 3))) for low in (4, 8))
        return Clocks(core, min(pclk1, pclk2))

    def _hsi(self) -> float:
        return _HSI / (1 << self.field(Field(_CR, 3, 2)))

    def _pll(self) -> float:
        """Section "RCC PLL1 clock source selection register": HSI / M * N / P."""
        require(self.field(_PLLON) == 1, "the PLL is off")
        require(self.field(Field(_PLL1CFGR, 0, 2)) == 1, "the PLL does not run on HSI")
        require(self.field(Field(_PLL1CFGR, 16)) == 1, "output P of the PLL is off")
        source = self._hsi() / self.field(Field(_PLL1CFGR, 8, 6))
        low = 1e6 * (1 << self.field(Field(_PLL1CFGR, 2, 2)))
        vco = source * (self.field(Field(_PLL1DIVR, 0, 9)) + 1)
        require(max(2e6, low) <= source <= 2 * low, "the PLL's input is out of its range")
        require(128e6 <= vco <= 560e6, "the PLL does not lock")
        return vco / (self.field(Field(_PLL1DIVR, 9, 7)) + 1)

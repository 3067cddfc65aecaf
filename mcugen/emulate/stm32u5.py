"""The clock tree of an STM32U575 or U585, as far as the port uses it. Sections and tables: RM0456."""

from __future__ import annotations

from mcugen.emulate.stm32 import Chip, Clocks, Field, Stm32, ahb_divider, apb_divider, gpio_gates, require

_RCC = 0x46020C00
_CR, _CFGR1, _CFGR2, _PLL1CFGR, _PLL1DIVR = _RCC, _RCC + 0x1C, _RCC + 0x20, _RCC + 0x28, _RCC + 0x34
_AHB2ENR1, _AHB3ENR, _APB1ENR1, _APB2ENR = _RCC + 0x8C, _RCC + 0x94, _RCC + 0x9C, _RCC + 0xA4
_PWR = 0x46020800
_VOSR = _PWR + 0x0C
_ACR = 0x40022000
_ICACHE_CR, _ICACHE_SR = 0x40030400, 0x40030404
_HSION, _PLLON = Field(_CR, 8), Field(_CR, 24)
_SW = Field(_CFGR1, 0, 2)
_VOS, _BOOSTEN = Field(_VOSR, 16, 2), Field(_VOSR, 18)
_RANGE_1 = 3
_MSIS, _HSI16 = 4e6, 16e6
_WAIT_STEP = 32e6  # Hz of the core per wait state, voltage range 1: table in "Read access latency"
_RANGE_4 = 25e6  # Hz; what the core may run at after reset
_UNBOOSTED = 55e6  # Hz; beyond, the voltage needs its booster ("Dynamic voltage scaling management")


class Stm32u5(Stm32):
    """Stm32 with this clock tree."""

    chip = Chip(
        reset={
            _CR: 0x00000035, _CFGR1: 0, _CFGR2: 0, _PLL1CFGR: 0, _PLL1DIVR: 0x01010280, _AHB2ENR1: 0xC0000000,
            _AHB3ENR: 0x80000000, _APB1ENR1: 0, _APB2ENR: 0, _VOSR: 0, _ACR: 0x00000001, _ICACHE_CR: 0x00000004,
            _ICACHE_SR: 0,
        },
        follows={
            Field(_CR, 10): _HSION, Field(_CR, 25): _PLLON, Field(_CFGR1, 2, 2): _SW, Field(_VOSR, 14): _BOOSTEN,
        },
        gates={
            **gpio_gates(0x42020000, 9, _AHB2ENR1),
            _PWR: Field(_AHB3ENR, 2),
            0x40013800: Field(_APB2ENR, 14),  # USART1
            0x40004800: Field(_APB1ENR1, 18),  # USART3
        },
        lpuarts=frozenset(),
        pll_on=_PLLON,
        pll_factors=frozenset({_PLL1CFGR, _PLL1DIVR}),
        switch=_SW,
    )  # fmt: skip

    def read(self, address: int, size: int) -> int:
        value = super().read(address, size)
        return value | 1 << 15 if address == _VOSR else value  # VOSRDY

    def clocks(self) -> Clocks:
        selected = self.field(_SW)
        require(selected in (0, 3), "no clock that the port uses")
        core = (self._pll() if selected == 3 else _MSIS) / ahb_divider(self.field(Field(_CFGR2, 0, 4)))
        range_1, boosted = self.field(_VOS) == _RANGE_1, self.field(_BOOSTEN) == 1
        require(core <= (160e6 if range_1 else _RANGE_4), f"a core clock of {core / 1e6:g} MHz at that voltage")
        require(core <= _UNBOOSTED or boosted, "the voltage booster is off")
        require(core <= _WAIT_STEP * (1 + self.field(Field(_ACR, 0, 4))), "too few wait states of flash")
        pclk1, pclk2 = (core / apb_divider(self.field(Field(_CFGR2, low, 3))) for low in (4, 8))
        return Clocks(core, min(pclk1, pclk2))

    def _pll(self) -> float:
        """Section "RCC PLL1 configuration register": HSI16 / M * N / R; the booster runs on HSI16 / MBOOST."""
        require(self.field(_PLLON) == 1 and self.field(_HSION) == 1, "the PLL is off")
        require(self.field(Field(_PLL1CFGR, 0, 2)) == 2, "the PLL does not run on HSI16")
        require(self.field(Field(_PLL1CFGR, 18)) == 1, "output R of the PLL is off")
        require(self.field(Field(_PLL1CFGR, 12, 4)) <= 2, "the voltage booster's clock is below 4 MHz")
        source = _HSI16 / (self.field(Field(_PLL1CFGR, 8, 4)) + 1)
        high = self.field(Field(_PLL1CFGR, 2, 2)) == 3
        vco = source * (self.field(Field(_PLL1DIVR, 0, 9)) + 1)
        require((8e6 if high else 4e6) <= source <= (16e6 if high else 8e6), "the PLL's input is out of its range")
        require(128e6 <= vco <= 544e6, "the PLL does not lock")
        return vco / (self.field(Field(_PLL1DIVR, 24, 7)) + 1)

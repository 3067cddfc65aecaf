"""The registers of an STM32F446 or F401 that the port touches, as a program sees them. Section numbers: RM0390.

Clocks are judged as stm32.py does; the USART is an older one. Register reads and writes are words. What the port does
not use is absent on purpose: an access to it is reported, so that a wrong address in the port cannot pass.
"""

from __future__ import annotations

from collections.abc import Callable

from mcugen.emulate.cortex_m_registers import CortexMRegisters
from mcugen.emulate.registers import PAGE, BadRegisterAccess
from mcugen.emulate.stm32 import Clocks, ahb_divider, apb_divider, check_baud, require
from mcugen.ir import Board

_RCC_CR = 0x40023800  # 6.3.1
_RCC_PLLCFGR = 0x40023804  # 6.3.2
_RCC_CFGR = 0x40023808  # 6.3.3
_RCC_AHB1ENR = 0x40023830  # 6.3.10
_RCC_APB1ENR = 0x40023840  # 6.3.13
_PWR_CR = 0x40007000  # 5.4.1
_PWR_CSR = 0x40007004  # 5.4.2
_FLASH_ACR = 0x40023C00  # 3.8.1
_GPIOA = 0x40020000  # 7.4
_USART2_SR = 0x40004400  # 25.6.1
_USART2_DR = 0x40004404  # 25.6.2
_USART2_BRR = 0x40004408  # 25.6.3
_USART2_CR1 = 0x4000440C  # 25.6.4

_RESET_VALUES = {
    _RCC_CR: 0x00000083,
    _RCC_PLLCFGR: 0x24003010,
    _RCC_CFGR: 0,
    _RCC_AHB1ENR: 0,
    _RCC_APB1ENR: 0,
    _PWR_CR: 0x0000C000,
    _PWR_CSR: 0,
    _FLASH_ACR: 0,
    _GPIOA + 0x00: 0xA8000000,  # MODER: the debug pins
    _GPIOA + 0x04: 0,  # OTYPER
    _GPIOA + 0x08: 0x0C000000,  # OSPEEDR
    _GPIOA + 0x0C: 0x64000000,  # PUPDR
    _GPIOA + 0x20: 0,  # AFRL
    _GPIOA + 0x24: 0,  # AFRH
    _USART2_SR: 0x000000C0,
    _USART2_DR: 0,
    _USART2_BRR: 0,
    _USART2_CR1: 0,
}

# Page of a peripheral -> the register and bit that start its clock; without it the peripheral is deaf (6.2.15).
_CLOCKS = {
    0x40020000: (_RCC_AHB1ENR, 1 << 0),
    0x40004000: (_RCC_APB1ENR, 1 << 17),
    0x40007000: (_RCC_APB1ENR, 1 << 28),
}

_RCC_ON_BITS = 1 << 0 | 1 << 16 | 1 << 24  # HSION, HSEON, PLLON; each RDY bit is the next one up
_PWR_OD_BITS = 3 << 16  # ODEN, ODSWEN in CR; ODRDY, ODSWRDY at the same places in CSR
_PWR_VOSRDY = 1 << 14
_SR_RXNE = 1 << 5
_SR_TC_TXE = 3 << 6
_CR1_TRANSMITS = 1 << 13 | 1 << 3  # UE, TE
_CR1_RECEIVES = 1 << 13 | 1 << 2  # UE, RE
_HSI = 16e6
_UNDRIVEN = 168e6  # Hz of the core without over-drive, 5.1.4: all that an F401 has not
_WAIT_STEP = 30e6  # Hz of the core per wait state, 3.4.1, table 5


class Stm32f4(CortexMRegisters):
    """Registers (registers.py) after reset. The console is USART2."""

    def __init__(self, board: Board, cycles: Callable[[], int]) -> None:
        super().__init__(board, _RESET_VALUES, cycles)
        self._baud = dict(board.port_defines)["MG_UART_BAUD"]
        self._driven = board.clock_hz > _UNDRIVEN

    def clocks(self) -> Clocks:
        """The clocks that the registers give. Raises BadRegisterAccess where the chip cannot run at them."""
        cfgr = self._values[_RCC_CFGR]
        require(cfgr & 3 in (0, 2), "no clock that the port uses")
        core = (self._pll() if cfgr & 3 else _HSI) / ahb_divider(cfgr >> 4 & 15)
        over_drive = self._values[_PWR_CR] & _PWR_OD_BITS == _PWR_OD_BITS
        require(
            core <= (180e6 if over_drive else _UNDRIVEN), f"a core clock of {core / 1e6:g} MHz without over-drive"
        )
        require(core <= _WAIT_STEP * (1 + (self._values[_FLASH_ACR] & 15)), "too few wait states of flash")
        apb1, apb2 = core / apb_divider(cfgr >> 10 & 7), core / apb_divider(cfgr >> 13 & 7)
        require(apb1 <= 45e6 and apb2 <= 90e6, "a bus clock above 45 MHz (APB1) or 90 MHz (APB2)")
        return Clocks(core, apb1)

    def _pll(self) -> float:
        """6.3.2: HSI / M * N / P."""
        require(bool(self._values[_RCC_CR] & 1 << 24), "the PLL is off")
        factors = self._values[_RCC_PLLCFGR]
        require(not factors >> 22 & 1, "the PLL does not run on HSI")
        source = _HSI / (factors & 63)
        vco = source * (factors >> 6 & 511)
        require(1e6 <= source <= 2e6 and 100e6 <= vco <= 432e6, "the PLL does not lock")
        return vco / (2 * (factors >> 16 & 3) + 2)

    def read(self, address: int, size: int) -> int:
        value = super().read(address, size)
        if address == _RCC_CR:
            return value & ~(_RCC_ON_BITS << 1) | (value & _RCC_ON_BITS) << 1
        if address == _RCC_CFGR:
            return value & ~(3 << 2) | (value & 3) << 2  # SWS follows SW
        if address == _PWR_CSR:
            return _PWR_VOSRDY | self._values[_PWR_CR] & _PWR_OD_BITS
        if address == _USART2_SR:
            self.unanswered_polls += 1
            return _SR_TC_TXE | (_SR_RXNE if self._receives() and self.input else 0)
        if address == _USART2_DR:
            self.unanswered_polls = 0
            return self.input.popleft() if self._receives() and self.input else 0
        return value

    def write(self, address: int, size: int, value: int) -> None:
        if address == _RCC_PLLCFGR and self._values[_RCC_CR] & 1 << 24:
            raise BadRegisterAccess("the PLL is on: its factors cannot change")
        if address == _PWR_CR and value & _PWR_OD_BITS and not self._driven:
            raise BadRegisterAccess("over-drive, which an F401 does not have, at a clock that does not need it")
        super().write(address, size, value)
        if address == _RCC_CFGR:
            self.clocks()
        if address == _USART2_DR:
            self.unanswered_polls = 0
            if self._values[_USART2_CR1] & _CR1_TRANSMITS != _CR1_TRANSMITS:
                raise BadRegisterAccess("USART2 is not enabled")
            check_baud(self.clocks().bus, self._values[_USART2_BRR], self._baud)
            self.output.append(value & 0xFF)

    def _receives(self) -> bool:
        return self._values[_USART2_CR1] & _CR1_RECEIVES == _CR1_RECEIVES

    def _check(self, address: int, size: int) -> None:
        super()._check(address, size)
        enable = _CLOCKS.get(address & ~(PAGE - 1))
        if enable and not self._values[enable[0]] & enable[1]:
            raise BadRegisterAccess("the peripheral's clock is off in the RCC")

# What an exported example calls of the Raspberry Pi Pico SDK, for this computer.
macro(pico_sdk_init)
    add_library(pico_stdlib INTERFACE)
    target_include_directories(pico_stdlib INTERFACE $ENV{PICO_SDK_PATH}/include)
endmacro()

function(pico_enable_stdio_usb target on)
endfunction()

function(pico_enable_stdio_uart target on)
endfunction()

function(pico_add_extra_outputs target)
endfunction()

// The core's main; the program ends where a board would wait for more input.
#include "Arduino.h"

Terminal Serial;

int main()
{
    setup();
    loop();
    return 0;
}

/* Nothing more will be typed: the program ends where a board would wait. */
#include <stdlib.h>

static inline void vTaskDelay(int ticks)
{
    exit(ticks - 1);
}

/* mg_op_done on the target: a place to look from, and nothing else. See op_done.h. */
#include "op_done.h"

void mg_op_done(uint32_t op)
{
    (void)op; /* whoever watches finds it in the first argument register */
}

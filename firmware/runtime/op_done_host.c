/* mg_op_done on the host, where nothing can watch an address: it calls back. See op_done.h. */
#include "op_done.h"

#include <stddef.h>

static void (*op_observer)(uint32_t op) = NULL;

void mg_set_op_observer(void (*observer)(uint32_t op))
{
    op_observer = observer;
}

void mg_op_done(uint32_t op)
{
    if (op_observer != NULL) {
        op_observer(op);
    }
}

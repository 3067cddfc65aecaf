/* A second core that runs one task at a time, on boards that state it ([core] count = 2). */
#ifndef MG_SECOND_CORE_H
#define MG_SECOND_CORE_H

#include <stdint.h>

typedef void (*mg_task_t)(int32_t argument);

/* Start the second core; again: nothing. Never fails: where it does not answer, this core runs the tasks. */
void mg_second_core_start(void);

/* Let the second core run task(argument), which neither writes what this core reads or writes before
 * mg_second_core_wait, nor reads what this core writes. One task at a time. */
void mg_second_core_run(mg_task_t task, int32_t argument);

/* Wait until the task is done; then all that it wrote is there. */
void mg_second_core_wait(void);

#endif

/* Where the next token goes in the ring of cached keys and values. */
#ifndef MG_RING_H
#define MG_RING_H

#include <stdint.h>

/* position: of the current token; it grows until the keys are re-based. slot: where its key and value go.
 * length: slots in use, the current one included. Positions start at 0 once mg_ring_next was called. */
typedef struct {
    int32_t position;
    int32_t slot;
    int32_t length;
} mg_ring_t;

static inline void mg_ring_reset(mg_ring_t *ring)
{
    ring->position = -1;
    ring->slot = -1;
    ring->length = 0;
}

/* Open the slot of one more token; beyond `context` tokens it is the oldest one's, the first `sinks` < context tokens
 * aside, which stay. */
static inline void mg_ring_next_behind(mg_ring_t *ring, int32_t context, int32_t sinks)
{
    ring->position++;
    ring->slot = (ring->slot + 1 < context) ? ring->slot + 1 : sinks;
    ring->length = (ring->length < context) ? ring->length + 1 : context;
}

/* The same without sinks. */
static inline void mg_ring_next(mg_ring_t *ring, int32_t context)
{
    mg_ring_next_behind(ring, context, 0);
}

/* Count `tokens` more slots, which are free. */
static inline void mg_ring_skip(mg_ring_t *ring, int32_t tokens)
{
    ring->position += tokens;
    ring->slot += tokens;
    ring->length += tokens;
}

#endif

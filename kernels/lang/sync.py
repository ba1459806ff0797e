"""How the threads of a team meet and share work, inside compiled code.

Every thread runs the same step. Between phases they meet at `barrier`; within a phase they draw work
items from one counter with `claim`. The words lie on cache lines of their own (`layout.SYNC_BYTES`).
"""

from numba import int64

from edge_lfm.kernels.lang.lowering import SPIN_TURNS
from edge_lfm.kernels.lang.simd import (
    atomic_add,
    atomic_load,
    atomic_store,
    fence,
    i64,
    kernel,
    larger,
    pause,
    set_i64,
    sleep_while,
    smaller,
    wake_all,
)
from edge_lfm.kernels.spec.layout import (
    ARRIVED,
    CONTEXT,
    COUNTER,
    ERROR,
    GENERATION,
    PATIENCE,
    SLEEPING,
    offsets,
)

CTX = offsets(CONTEXT)
MIN_PATIENCE, MAX_PATIENCE = SPIN_TURNS // 64, SPIN_TURNS
"""Turns of the spin loop before a thread sleeps. Waking it takes 5 us, and up to 50 where its processor has gone to
sleep too; but where threads share a processor, spinning keeps it from the thread that is waited for."""
PROBE = 128
"""At one barrier of so many, a thread spins for MAX_PATIENCE, to see whether that pays again."""


LONGEST_RUN = 64
"""Row tiles, 1.2 MB of int4 weights: about 50 us of one core, the most that a stolen core can hold up."""


@kernel
def barrier(ctx):
    """Wait for every thread; the last one to come resets the work counter, and wakes those that sleep."""
    threads, sync = i64(ctx + CTX.threads), i64(ctx + CTX.sync)
    if threads == 1:
        set_i64(sync + COUNTER, int64(0))
        return
    generation = atomic_load(sync + GENERATION)
    if atomic_add(sync + ARRIVED, int64(1)) == threads - 1:
        atomic_store(sync + COUNTER, int64(0))
        atomic_store(sync + ARRIVED, int64(0))
        atomic_store(sync + GENERATION, generation + 1)
        fence()  # a thread that falls asleep now sees the new generation, or is seen here
        if atomic_load(sync + SLEEPING) != 0:
            wake_all(sync + GENERATION)
        return
    wait_for_next(sync, generation)


@kernel
def wait_for_next(sync, generation):
    """Return when the generation is another: spin, then sleep.

    The team's patience is twice the longest wait that ended in time, and shrinks when it was in vain: threads that
    share a processor, with each other or with another process, soon sleep at once, and spin again when they have one
    each.
    """
    patience = larger(atomic_load(sync + PATIENCE), int64(MIN_PATIENCE))
    turns, limit = int64(0), patience if generation % PROBE else int64(MAX_PATIENCE)
    while turns < limit:
        if atomic_load(sync + GENERATION) != generation:
            if turns * 2 > patience:
                atomic_store(sync + PATIENCE, smaller(turns * 2, int64(MAX_PATIENCE)))
            return
        pause()
        turns += 1
    if limit == patience:
        atomic_store(sync + PATIENCE, patience * 3 // 4)
    atomic_add(sync + SLEEPING, int64(1))
    while atomic_load(sync + GENERATION) == generation:
        sleep_while(sync + GENERATION, generation)
    atomic_add(sync + SLEEPING, int64(-1))


@kernel
def claim(ctx, count):
    """The first of the next `count` work items of this phase."""
    if i64(ctx + CTX.threads) == 1:
        at = i64(ctx + CTX.sync) + COUNTER
        first = i64(at)
        set_i64(at, first + count)
        return first
    return atomic_add(i64(ctx + CTX.sync) + COUNTER, count)


@kernel
def claim_run(ctx, total):
    """(first, count): the next run of a phase's `total` items, a share of what is left.

    Long runs first, for memory is read fastest in long stretches; short ones last, so that the threads end
    together. Past the end, first >= total.
    """
    left = total - atomic_load(i64(ctx + CTX.sync) + COUNTER)
    count = int64(1)
    if left > 0:
        count += smaller(int64(LONGEST_RUN - 1), left // (i64(ctx + CTX.threads) * 2))
    return claim(ctx, count), count


@kernel
def raise_error(ctx, code):
    """Note that this step went wrong; Python reads the code after the step."""
    atomic_store(i64(ctx + CTX.sync) + ERROR, code)

"""A mapped file that is truncated, or that its disk cannot read, must not end the process: the handler of SIGBUS.

The page that is missing becomes a page of zeros and the fault is counted, so that compiled code comes to an end of its
step; who started the step then looks at the count. Only inside ranges of addresses that were announced; any other fault
ends the process as ever. Runs in a signal handler: no locks, no memory of its own but the area.
"""

from numba import int64

from edge_lfm.kernels.lang.parts import entry
from edge_lfm.kernels.lang.simd import atomic_add, default_handler, i64, map_zeros, static_area
from edge_lfm.kernels.spec.layout import FAULT_BYTES, FAULT_PAGE, FAULT_RANGE_BYTES, FAULT_RANGES

_ADDRESS = 16  # of si_addr in siginfo_t, 64-bit Linux
_SIGBUS = 7

area = static_area("fault_ranges", FAULT_BYTES)


@entry
def fault_area():
    """Address of int64 [FAULT_RANGES, 3]: first address, end, faults so far; then the size of a page."""
    return area()


@entry
def on_fault(signal, info, context):
    """The handler, for `sigaction` with SA_SIGINFO."""
    address, page = i64(info + _ADDRESS), i64(fault_area() + FAULT_PAGE)
    watched = int64(0)
    for n in range(FAULT_RANGES):
        at = fault_area() + n * FAULT_RANGE_BYTES
        if i64(at) <= address and address < i64(at + 8):  # several runners may use one map
            atomic_add(at + 16, int64(1))
            watched += 1
    if watched > 0:
        map_zeros(address // page * page, page)
    else:
        default_handler(int64(_SIGBUS))  # which the same instruction meets now

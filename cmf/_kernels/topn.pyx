"""The best n of one user's scores, without the ones left out.

Order: higher score first; among equal scores, and among NaN, which come last, the lower position
first. So the answer does not depend on n, on the block the user was in, or on the machine.
"""

from cython cimport floating
from libc.stdint cimport int64_t, uint8_t


cdef inline bint worse(
    const floating[::1] scores, int64_t a, int64_t b
) noexcept nogil:
    # Whether position a comes after position b. A total order, also where scores are NaN.
    cdef:
        floating x = scores[a]
        floating y = scores[b]
    if x < y:
        return True
    if x > y:
        return False
    if x == y:
        return a > b
    if x == x:      # only y is NaN
        return False
    if y == y:      # only x is NaN
        return True
    return a > b


cdef inline void sift_down(
    const floating[::1] scores, int64_t[::1] heap, Py_ssize_t root, Py_ssize_t size
) noexcept nogil:
    # Restore a heap whose root is the worst of the kept positions.
    cdef:
        Py_ssize_t child
        int64_t moving = heap[root]
    while True:
        child = 2 * root + 1
        if child >= size:
            break
        if child + 1 < size and worse(scores, heap[child + 1], heap[child]):
            child += 1
        if not worse(scores, heap[child], moving):
            break
        heap[root] = heap[child]
        root = child
    heap[root] = moving


def select_top(
    const floating[::1] scores not None,    # in   (m,)
    const uint8_t[::1] left_out not None,   # in   (m,) non-zero: never chosen
    int64_t[::1] positions_out not None,    # out  (n,) best first; only the first `count` are set
):
    """Write the positions of the best scores and return how many there are, at most n.

    Cost: O(m log n) comparisons at worst, O(m) where few scores enter the heap. The GIL is
    released.
    """
    cdef:
        Py_ssize_t n = positions_out.shape[0]
        Py_ssize_t size = 0
        Py_ssize_t t, root, last
        int64_t swapped

    if n == 0:
        return 0

    with nogil:
        for t in range(scores.shape[0]):
            if left_out[t]:
                continue
            if size < n:
                positions_out[size] = t
                size += 1
                if size == n:
                    for root in range(n // 2 - 1, -1, -1):
                        sift_down(scores, positions_out, root, n)
            elif worse(scores, positions_out[0], t):
                positions_out[0] = t
                sift_down(scores, positions_out, 0, n)
        if size < n:
            for root in range(size // 2 - 1, -1, -1):
                sift_down(scores, positions_out, root, size)
        # Heap sort in place: the worst goes to the end, one after the other.
        for last in range(size - 1, 0, -1):
            swapped = positions_out[last]
            positions_out[last] = positions_out[0]
            positions_out[0] = swapped
            sift_down(scores, positions_out, 0, last)

    return size

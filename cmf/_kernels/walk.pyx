"""One walk through the blocks of a grid by several threads; the order is told in walk.h."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t


@cython.auto_pickle(False)
cdef class Walk:
    """Which block is next, and what visits have added up.

    Kernels take it, and the number of the worker that calls them. They come back when the walk is
    over, and worker 0 now and then in between: Ctrl-C is for Python to notice.
    """

    def __cinit__(
        self,
        Py_ssize_t n_strips,
        const int64_t[::1] calls not None,          # (n_calls + 1,) positions of rows; ascending
        const int64_t[::1] group_calls not None,    # (n_groups + 1,) numbers of calls; strictly so
        double patience,                            # seconds of all CPUs until worker 0 pauses
    ):
        cdef:
            cmf_walk* walk = &self.walk
            Py_ssize_t n_groups = group_calls.shape[0] - 1
            Py_ssize_t k

        if n_strips < 1 or n_groups < n_strips or n_groups % n_strips:
            raise ValueError("there must be strips, and as many groups for each")
        walk.n_strips = n_strips
        walk.n_groups = n_groups
        walk.patience = patience * CLOCKS_PER_SEC
        walk.calls = <int64_t*> zeros(calls.shape[0], sizeof(int64_t))
        walk.group_calls = <int64_t*> zeros(n_groups + 1, sizeof(int64_t))
        walk.losses = <double*> zeros(n_groups * n_strips, sizeof(double))
        walk.squares = <double*> zeros(n_strips + n_groups, sizeof(double))
        walk.strip_visits = <int64_t*> zeros(n_strips, sizeof(int64_t))
        walk.group_visits = <int64_t*> zeros(n_groups, sizeof(int64_t))
        walk.strip_held = <int*> zeros(n_strips, sizeof(int))
        walk.group_held = <int*> zeros(n_groups, sizeof(int))
        walk.workers = <cmf_worker*> zeros(n_strips, sizeof(cmf_worker))
        for k in range(calls.shape[0]):
            walk.calls[k] = calls[k]
        for k in range(n_groups + 1):
            walk.group_calls[k] = group_calls[k]
        walk.mutex = new_lock()
        for k in range(n_strips):
            walk.workers[k].group = walk.workers[k].strip = -1
            walk.workers[k].wake = new_lock()
            PyThread_acquire_lock(walk.workers[k].wake, WAIT_LOCK)

    def __dealloc__(self):
        cdef:
            cmf_walk* walk = &self.walk
            Py_ssize_t k

        if walk.workers != NULL:
            for k in range(walk.n_strips):
                if walk.workers[k].wake != NULL:
                    PyThread_free_lock(walk.workers[k].wake)
        if walk.mutex != NULL:
            PyThread_free_lock(walk.mutex)
        PyMem_Free(walk.calls)
        PyMem_Free(walk.group_calls)
        PyMem_Free(walk.losses)
        PyMem_Free(walk.squares)
        PyMem_Free(walk.strip_visits)
        PyMem_Free(walk.group_visits)
        PyMem_Free(walk.strip_held)
        PyMem_Free(walk.group_held)
        PyMem_Free(walk.workers)

    @property
    def losses(self):
        """What has been added up in all blocks, group by group and strip by strip."""
        return total(self.walk.losses, self.walk.n_groups * self.walk.n_strips)

    @property
    def squares(self):
        """Sum of squares of finished rows: of the items of all strips, the users of all groups.

        Kernels that do not take them leave zeros.
        """
        return total(self.walk.squares, self.walk.n_strips + self.walk.n_groups)

    def stop(self):
        """Let no further call begin."""
        with nogil:
            PyThread_acquire_lock(self.walk.mutex, WAIT_LOCK)
            self.walk.stopped = 1
            cmf_walk_wake(&self.walk)
            PyThread_release_lock(self.walk.mutex)

    def next_call(self, Py_ssize_t worker):
        """Note that a worker has made its call, and return the next one, or None at the end.

        A call is (group, strip, first position, last + 1): what kernels find out without Python.
        """
        cdef:
            cmf_walk* walk = walk_of(self, worker)
            cmf_walk_state state = CMF_PAUSED
            cmf_worker* own

        while state == CMF_PAUSED:
            PyErr_CheckSignals()
            with nogil:
                own = cmf_walk_enter(walk, worker)
                state = cmf_walk_next(walk, own)
        if state == CMF_OVER:
            return None
        return own.group, own.strip, walk.calls[own.call], walk.calls[own.call + 1]


cdef double total(const double* parts, Py_ssize_t n) noexcept:
    cdef:
        double found = 0
        Py_ssize_t k

    for k in range(n):
        found += parts[k]
    return found


cdef void* zeros(size_t n, size_t itemsize) except NULL:
    cdef void* memory = PyMem_Calloc(n, itemsize)

    if memory == NULL:
        raise MemoryError()
    return memory


cdef PyThread_type_lock new_lock() except NULL:
    cdef PyThread_type_lock lock = PyThread_allocate_lock()

    if lock == NULL:
        raise MemoryError()
    return lock

# A walk through the blocks of a grid; see walk.h.

from libc.stdint cimport int64_t


cdef extern from "walk.h" nogil:
    ctypedef void* PyThread_type_lock
    int WAIT_LOCK
    int CLOCKS_PER_SEC

    PyThread_type_lock PyThread_allocate_lock() noexcept
    void PyThread_free_lock(PyThread_type_lock lock) noexcept
    int PyThread_acquire_lock(PyThread_type_lock lock, int waitflag) noexcept
    void PyThread_release_lock(PyThread_type_lock lock) noexcept

    ctypedef enum cmf_walk_state:
        CMF_OVER
        CMF_PAUSED
        CMF_VISIT

    ctypedef struct cmf_worker:
        int64_t group
        int64_t strip
        int64_t call
        PyThread_type_lock wake

    ctypedef struct cmf_walk:
        int64_t n_strips
        int64_t n_groups
        int64_t* calls
        int64_t* group_calls
        double* losses
        double* squares
        int64_t* strip_visits
        int64_t* group_visits
        int* strip_held
        int* group_held
        cmf_worker* workers
        double patience
        int stopped
        PyThread_type_lock mutex

    cmf_worker* cmf_walk_enter(cmf_walk* walk, int64_t number) noexcept
    cmf_walk_state cmf_walk_next(cmf_walk* walk, cmf_worker* worker) noexcept
    bint cmf_walk_ends_strip(const cmf_walk* walk, const cmf_worker* worker) noexcept
    bint cmf_walk_ends_group(const cmf_walk* walk, const cmf_worker* worker) noexcept
    void cmf_walk_wake(cmf_walk* walk) noexcept


cdef class Walk:
    cdef cmf_walk walk


cdef inline cmf_walk* walk_of(Walk given, Py_ssize_t worker) except NULL:
    # Where kernels find it.
    if not 0 <= worker < given.walk.n_strips:
        raise ValueError(f"there are {given.walk.n_strips} workers, none is number {worker}")
    return &given.walk

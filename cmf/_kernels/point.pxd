# The scalar arithmetic of point.h for both floating types. Nothing here can fail.

from cython cimport floating


cdef extern from "point.h" nogil:
    float cmf_dot_f32(const float* p, const float* q, Py_ssize_t n) noexcept
    double cmf_dot_f64(const double* p, const double* q, Py_ssize_t n) noexcept
    void cmf_step_f32(float* p, float* q, Py_ssize_t n, float decay, float gain) noexcept
    void cmf_step_f64(double* p, double* q, Py_ssize_t n, double decay, double gain) noexcept


cdef inline floating dot(const floating* p, const floating* q, Py_ssize_t n) noexcept nogil:
    # In the type of the factors: what training uses.
    if floating is float:
        return cmf_dot_f32(p, q, n)
    else:
        return cmf_dot_f64(p, q, n)


cdef inline void step(
    floating* p, floating* q, Py_ssize_t n, floating decay, floating gain
) noexcept nogil:
    if floating is float:
        cmf_step_f32(p, q, n, decay, gain)
    else:
        cmf_step_f64(p, q, n, decay, gain)

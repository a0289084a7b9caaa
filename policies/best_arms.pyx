"""The loop of `joint_draws._winners_of_all` in C: the arm that scores best in each draw, the first of equal ones.

The operations and their order are those of the arrays there, in float32 and without contraction, so the bits are too.
"""

cimport cython
from libc.stdlib cimport free, malloc


@cython.boundscheck(False)
@cython.wraparound(False)
def best_arms(
    const float[:, ::1] standard,
    const float[:, :] common,
    const float[:] mean,
    const float[:] spread,
    const float[:, :] loading,
    bint optimistic,
    float shrunk,
    Py_ssize_t[::1] winners,
):
    """Write the winners (draws,) for means, spreads (n,) and loadings (n, 1); `standard` is (draws, n or more)."""
    cdef Py_ssize_t draws = winners.shape[0], n = mean.shape[0], d, k, best
    cdef const float *z
    cdef float c, low, top
    cdef float *scores = <float *> malloc(4 * n * sizeof(float))
    if scores == NULL:
        raise MemoryError
    cdef float *weights = scores + n
    cdef float *m = scores + 2 * n
    cdef float *s = scores + 3 * n
    for k in range(n):
        weights[k], m[k], s[k] = loading[k, 0], mean[k], spread[k]
    for d in range(draws):
        z, c = &standard[d, 0], common[d, 0]
        if optimistic:
            for k in range(n):
                top = z[k] * s[k]
                top = top + c * weights[k]
                low = top * shrunk
                scores[k] = (top if top > low else low) + m[k]
        else:
            for k in range(n):
                top = z[k] * s[k]
                scores[k] = (top + c * weights[k]) + m[k]
        best, top = 0, scores[0]
        if top == top:
            for k in range(1, n):
                if not (scores[k] <= top):  # greater, or not a number: the first of those wins in numpy
                    best, top = k, scores[k]
                    if top != top:
                        break
        winners[d] = best
    free(scores)

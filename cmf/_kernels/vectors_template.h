/* Vectors of REAL, CMF_VECTOR_BYTES long, and what is done with their lanes.
 *
 * The including file defines REAL, TYPE (f32 or f64), NAME(base) and CMF_VECTOR_BYTES. It undefines
 * what is defined here: VECTOR; PER_BLOCK, the number of vectors in CMF_ROW_BYTES; with vector
 * types SHORT, a vector of 16 bytes.
 */
#if defined(__GNUC__)
/* may_alias: rows are arrays of REAL, and are read and written as vectors of them. */
typedef REAL NAME(vector_) __attribute__((vector_size(CMF_VECTOR_BYTES), may_alias));
#define VECTOR NAME(vector_)
#define PER_BLOCK (CMF_ROW_BYTES / CMF_VECTOR_BYTES)
#define SHORT CMF_NAME(cmf_short_, TYPE)
#define ADD_NEIGHBORS CMF_NAME(cmf_add_neighbors_, TYPE)

/* Halves are added until there are 16 bytes. */
CMF_INLINE SHORT NAME(fold_)(VECTOR values) {
#if CMF_VECTOR_BYTES == 64
    typedef REAL half __attribute__((vector_size(32), may_alias));
    union { VECTOR whole; half halves[2]; } wide = {values};
    union { half whole; SHORT halves[2]; } narrow = {wide.halves[0] + wide.halves[1]};
    return narrow.halves[0] + narrow.halves[1];
#elif CMF_VECTOR_BYTES == 32
    union { VECTOR whole; SHORT halves[2]; } narrow = {values};
    return narrow.halves[0] + narrow.halves[1];
#else
    return values;
#endif
}

/* Sum of the lanes, in each lane of 16 bytes: halves are added until there is one number. */
CMF_INLINE SHORT NAME(sum_each_)(VECTOR values) {
    return CMF_NAME(cmf_sum_each_, TYPE)(NAME(fold_)(values));
}

CMF_INLINE REAL NAME(sum_halves_)(VECTOR values) { return NAME(sum_each_)(values)[0]; }

/* Sum of the lanes: halves are added down to 16 bytes, then neighbors. */
CMF_INLINE REAL NAME(sum_neighbors_)(VECTOR values) {
    SHORT sum = NAME(fold_)(values);
    sum = ADD_NEIGHBORS(sum, sum);
    if (sizeof(REAL) == 4) sum = ADD_NEIGHBORS(sum, sum);
    return sum[0];
}

/* The same for two vectors, made together. */
CMF_INLINE void NAME(sum_two_)(VECTOR first, VECTOR second, REAL *sums) {
    SHORT both = ADD_NEIGHBORS(NAME(fold_)(first), NAME(fold_)(second));
    if (sizeof(REAL) == 4) both = ADD_NEIGHBORS(both, both);
    sums[0] = both[0];
    sums[1] = both[1];
}

/* Divide two numbers by square roots, both in the time of one. */
CMF_INLINE void NAME(divide_by_roots_)(REAL *numbers, REAL first, REAL second) {
    const SHORT squares = CMF_NAME(cmf_pair_, TYPE)(first, second, 1);
    const SHORT divided = CMF_NAME(cmf_pair_, TYPE)(numbers[0], numbers[1], 1) /
                          CMF_NAME(cmf_roots_, TYPE)(squares);
    numbers[0] = divided[0];
    numbers[1] = divided[1];
}

#undef ADD_NEIGHBORS

#else /* one number at a time, for compilers without vector types */
typedef REAL NAME(vector_);
#define VECTOR NAME(vector_)
#define PER_BLOCK (CMF_ROW_BYTES / (int)sizeof(REAL))

CMF_INLINE REAL NAME(sum_each_)(VECTOR value) { return value; }

CMF_INLINE REAL NAME(sum_halves_)(VECTOR value) { return value; }

CMF_INLINE REAL NAME(sum_neighbors_)(VECTOR value) { return value; }

CMF_INLINE void NAME(sum_two_)(VECTOR first, VECTOR second, REAL *sums) {
    sums[0] = first;
    sums[1] = second;
}

CMF_INLINE void NAME(divide_by_roots_)(REAL *numbers, REAL first, REAL second) {
    numbers[0] /= (REAL)sqrt(first); /* a float's root is the same by way of a double */
    numbers[1] /= (REAL)sqrt(second);
}
#endif

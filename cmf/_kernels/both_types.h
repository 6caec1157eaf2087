/* Compiles CMF_OF_ONE_TYPE for float and for double, at CMF_LEVEL: names end in both. */
#define NAME(base) CMF_NAME_OF(base, TYPE, CMF_LEVEL)

#define REAL float
#define TYPE f32
#include CMF_OF_ONE_TYPE
#undef REAL
#undef TYPE

#define REAL double
#define TYPE f64
#include CMF_OF_ONE_TYPE

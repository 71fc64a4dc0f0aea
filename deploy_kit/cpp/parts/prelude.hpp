#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(_M_FP_FAST)
#error "policy.hpp: fast-math changes what the network computes; leave -ffast-math, -Ofast and /fp:fast out"
#endif
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "policy.hpp: -ffinite-math-only takes out the guards against NaN; leave it out"
#endif
#if __cplusplus < 201703L && !(defined(_MSVC_LANG) && _MSVC_LANG >= 201703L)
#error "policy.hpp: C++17 is needed: -std=c++17"
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
@INCLUDES@
// Multiply-add may be contracted to one rounding (GCC and Clang do so by default where the machine has FMA) or not:
// outputs differ in the last bits, within the limits that they were verified under. Nothing else depends on it.

// Lanes of a vector, chosen at build time: 8 with AVX (-mavx2 -mfma), 4 with SSE2 or NEON, 1 elsewhere.
#if !defined(DEPLOY_KIT_LANES)
#if defined(__GNUC__) && defined(__AVX__)
#define DEPLOY_KIT_LANES 8
#elif defined(__GNUC__) && (defined(__SSE2__) || defined(__ARM_NEON))
#define DEPLOY_KIT_LANES 4
#else
#define DEPLOY_KIT_LANES 1
#endif
#endif
#if defined(__clang__)
#define DEPLOY_KIT_INLINE inline __attribute__((always_inline))
#define DEPLOY_KIT_UNROLL _Pragma("clang loop unroll(full)")
#define DEPLOY_KIT_UNROLL_BY_2 _Pragma("clang loop unroll_count(2)")
#elif defined(__GNUC__)
#define DEPLOY_KIT_INLINE inline __attribute__((always_inline))
#define DEPLOY_KIT_UNROLL _Pragma("GCC unroll 64")
#define DEPLOY_KIT_UNROLL_BY_2 _Pragma("GCC unroll 2")
#else
#define DEPLOY_KIT_INLINE inline
#define DEPLOY_KIT_UNROLL
#define DEPLOY_KIT_UNROLL_BY_2
#endif

/* Sixteen numbers at a time, in three forms: AVX-512 with VNNI, AVX2, and whatever the compiler makes of plain C
 * (ARM's dot product among it). Every lane's arithmetic is the same whatever its neighbours hold. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint8_t Bytes __attribute__((vector_size(64)));

static inline Floats load_floats(const float *from) {
    Floats x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline void store_floats(float *to, Floats x) { memcpy(to, &x, sizeof x); }

static inline Bytes load_bytes(const uint8_t *from) {
    Bytes x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline Floats all_floats(float x) { return (Floats){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
static inline Ints all_ints(int32_t x) { return (Ints){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
static inline Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }

/* Nearest integers, ties to even, of numbers below 2^22: adding 1.5 * 2^23 leaves them in the low bits. */
static inline Ints to_nearest(Floats x) { return (Ints)(x + 12582912.0f) - 0x4B400000; }

static inline Floats choose(Ints where, Floats yes, Floats no) { return (Floats)((where & (Ints)yes) | (~where & (Ints)no)); }
static inline Floats larger(Floats a, Floats b) { return choose(a > b, a, b); }
static inline Floats smaller(Floats a, Floats b) { return choose(a < b, a, b); }
static inline Floats absolute(Floats x) { return (Floats)((Ints)x & 0x7fffffff); }

#if defined(__AVX512VNNI__)
#include <immintrin.h>

static inline Floats multiply_add(Floats a, Floats b, Floats c) { return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
static inline float largest(Floats x) { return _mm512_reduce_max_ps((__m512)x); }
static inline float total(Floats x) { return _mm512_reduce_add_ps((__m512)x); }
static inline int32_t total_ints(Ints x) { return _mm512_reduce_add_epi32((__m512i)x); }
static inline Floats load_halves(const uint16_t *from) { return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)); }
static inline uint16_t to_half(float x) { return _cvtss_sh(x, 0); }
static inline float from_half(uint16_t x) { return _cvtsh_ss(x); }
static inline void store_codes(int8_t *to, Ints x) { _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)x)); }
static inline Floats load_codes(const int8_t *from) { return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from))); }

static inline Ints dot4(Ints sums, Bytes codes, const int8_t *values) {
    int32_t four;
    memcpy(&four, values, 4);
    return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)codes, _mm512_set1_epi32(four));
}
static inline Ints start8(int32_t values_sum) { return all_ints(-128 * values_sum); }
static inline Ints dot8(Ints sums, Bytes codes, const int8_t *values) { return dot4(sums, codes, values); }

#else

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
static inline Floats multiply_add(Floats a, Floats b, Floats c) {
    Floats x;
    for (int i = 0; i < 16; i++) x[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return x;
}
#else
static inline Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }
#endif

static inline float largest(Floats x) {
    float most = x[0];
    for (int i = 1; i < 16; i++) most = x[i] > most ? x[i] : most;
    return most;
}

static inline float total(Floats x) {
    float sum = 0;
    for (int i = 0; i < 16; i++) sum += x[i];
    return sum;
}

static inline int32_t total_ints(Ints x) {
    int32_t sum = 0;
    for (int i = 0; i < 16; i++) sum += x[i];
    return sum;
}

static inline void store_codes(int8_t *to, Ints x) {
    for (int i = 0; i < 16; i++) to[i] = (int8_t)x[i];
}

static inline Floats load_codes(const int8_t *from) {
    Floats x;
    for (int i = 0; i < 16; i++) x[i] = from[i];
    return x;
}

#if defined(__F16C__)
#include <immintrin.h>
static inline uint16_t to_half(float x) { return _cvtss_sh(x, 0); }
static inline float from_half(uint16_t x) { return _cvtsh_ss(x); }
#elif defined(__ARM_FP16_FORMAT_IEEE)
static inline uint16_t to_half(float x) {
    __fp16 half = (__fp16)x;
    uint16_t bits;
    memcpy(&bits, &half, 2);
    return bits;
}
static inline float from_half(uint16_t x) {
    __fp16 half;
    memcpy(&half, &x, 2);
    return half;
}
#else
static inline float from_half(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, rest = x & 0x7fff, bits;
    float value;
    if (rest < 0x0400) { /* Zero and the numbers below the smallest normal one, 2^-14. */
        value = (float)rest * 0x1p-24f;
        return sign ? -value : value;
    }
    bits = sign | (rest >= 0x7c00 ? 0x7f800000 | (rest & 0x3ff) << 13 : (rest << 13) + 0x38000000);
    memcpy(&value, &bits, 4);
    return value;
}
static inline uint16_t to_half(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint16_t sign = bits >> 16 & 0x8000;
    float size = fabsf(x);
    if (!(size < 65520.0f)) return sign | (size != size ? 0x7e00 : 0x7c00);
    if (size < 0x1p-14f) return sign | (uint16_t)lrintf(size * 0x1p24f);
    memcpy(&bits, &size, 4);
    bits += 0x0fff + (bits >> 13 & 1); /* To nearest, ties to even. */
    return sign | (uint16_t)((bits - 0x38000000) >> 13);
}
#endif

static inline Floats load_halves(const uint16_t *from) {
    Floats x;
    for (int i = 0; i < 16; i++) {
        uint16_t half;
        memcpy(&half, from + i, 2);
        x[i] = from_half(half);
    }
    return x;
}

#if defined(__AVX2__)
/* Each 32 bytes of codes are eight groups of four; every group is multiplied by the same four values. */
static inline __m256i groups(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
static inline Ints add_halves(Ints sums, __m256i low, __m256i high) {
    __m256i parts[2];
    memcpy(parts, &sums, sizeof parts);
    parts[0] = _mm256_add_epi32(parts[0], low);
    parts[1] = _mm256_add_epi32(parts[1], high);
    memcpy(&sums, parts, sizeof parts);
    return sums;
}
static inline __m256i fours(const int8_t *values) {
    int32_t four;
    memcpy(&four, values, 4);
    return _mm256_set1_epi32(four);
}
static inline Ints dot4(Ints sums, Bytes codes, const int8_t *values) {
    __m256i parts[2], v = fours(values);
    memcpy(parts, &codes, sizeof parts);
    return add_halves(sums, groups(_mm256_maddubs_epi16(parts[0], v)), groups(_mm256_maddubs_epi16(parts[1], v)));
}
/* maddubs wants one side unsigned and adds pairs in 16 bits: the signs move to the values, sizes stay within 127. */
static inline __m256i signed_pairs(__m256i codes, __m256i v) {
    __m256i centred = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    return _mm256_maddubs_epi16(_mm256_abs_epi8(centred), _mm256_sign_epi8(v, centred));
}
static inline Ints dot8(Ints sums, Bytes codes, const int8_t *values) {
    __m256i parts[2], v = fours(values);
    memcpy(parts, &codes, sizeof parts);
    return add_halves(sums, groups(signed_pairs(parts[0], v)), groups(signed_pairs(parts[1], v)));
}
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
static inline Ints dot_signed(Ints sums, Bytes codes, const int8_t *values) {
    int32_t four;
    int32x4_t parts[4];
    int8x16_t c[4];
    memcpy(&four, values, 4);
    memcpy(parts, &sums, sizeof parts);
    memcpy(c, &codes, sizeof c);
    for (int i = 0; i < 4; i++) parts[i] = vdotq_s32(parts[i], c[i], vreinterpretq_s8_s32(vdupq_n_s32(four)));
    memcpy(&sums, parts, sizeof parts);
    return sums;
}
static inline Ints dot4(Ints sums, Bytes codes, const int8_t *values) { return dot_signed(sums, codes, values); }
static inline Ints dot8(Ints sums, Bytes codes, const int8_t *values) { return dot_signed(sums, codes ^ 0x80, values); }
#else
static inline Ints dot4(Ints sums, Bytes codes, const int8_t *values) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) sums[i] += codes[4 * i + j] * values[j];
    return sums;
}
static inline Ints dot8(Ints sums, Bytes codes, const int8_t *values) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) sums[i] += (codes[4 * i + j] - 128) * values[j];
    return sums;
}
#endif
static inline Ints start8(int32_t values_sum) {
    (void)values_sum; /* Only where codes are multiplied unsigned does their offset have to be taken back. */
    return all_ints(0);
}

#endif

/* e to the x, within 2 units in the last place: 2^n times a polynomial of what is left below half a step (Cephes). */
static inline Floats exponential(Floats x) {
    x = smaller(larger(x, all_floats(-87.0f)), all_floats(88.0f));
    Ints n = to_nearest(x * 1.44269504f);
    Floats steps = to_floats(n);
    Floats r = multiply_add(steps, all_floats(-0.693359375f), x);
    r = multiply_add(steps, all_floats(2.12194440e-4f), r);
    Floats p = all_floats(1.9875691500e-4f);
    p = multiply_add(p, r, all_floats(1.3981999507e-3f));
    p = multiply_add(p, r, all_floats(8.3334519073e-3f));
    p = multiply_add(p, r, all_floats(4.1665795894e-2f));
    p = multiply_add(p, r, all_floats(1.6666665459e-1f));
    p = multiply_add(p, r, all_floats(5.0000001201e-1f));
    p = multiply_add(p, r * r, r + 1.0f);
    return p * (Floats)((n + 127) << 23);
}

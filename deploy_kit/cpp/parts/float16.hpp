
// Weights in half precision (IEEE 754 binary16), decoded exactly: by the machine's own conversion where the build has
// one (F16C, 64-bit ARM, __fp16), by hand elsewhere or with DEPLOY_KIT_DECODE_BY_HAND, to the same bits. None of them
// is infinite or NaN, so that no other exponents need care.
#if DEPLOY_KIT_LANES == 1
using Words = std::uint32_t;
DEPLOY_KIT_INLINE Words words(const std::uint16_t* at) { return *at; }
#else
typedef std::uint32_t Words __attribute__((vector_size(4 * DEPLOY_KIT_LANES)));
DEPLOY_KIT_INLINE Words words(const std::uint16_t* at) {
  typedef std::uint16_t Halves __attribute__((vector_size(2 * DEPLOY_KIT_LANES)));
  Halves halves;
  std::memcpy(&halves, at, sizeof(halves));
  return __builtin_convertvector(halves, Words);
}
#endif
DEPLOY_KIT_INLINE Vector number(const Words& bits) {
  Vector value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
DEPLOY_KIT_INLINE Vector by_hand(const std::uint16_t* at) {
  const Words bits = words(at), size = bits & 0x7fffu;
  // A subnormal half is a float of the smallest normal exponent without its leading one: no float here is subnormal,
  // so that nothing depends on whether the machine flushes those.
  const Vector below = number((size << 13) + (113u << 23)) - 0x1p-14f;
  const Vector normal = number((size << 13) + (112u << 23));
  const Vector value = size < 0x400u ? below : normal;
  Words whole;
  std::memcpy(&whole, &value, sizeof(whole));
  return number(whole | ((bits & 0x8000u) << 16));
}
DEPLOY_KIT_INLINE Vector load(const std::uint16_t* at) {
#if defined(DEPLOY_KIT_DECODE_BY_HAND)
  return by_hand(at);
#elif defined(__F16C__) && DEPLOY_KIT_LANES == 8
  return reinterpret_cast<Vector>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
#elif defined(__F16C__) && DEPLOY_KIT_LANES == 4
  return reinterpret_cast<Vector>(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
#elif defined(__aarch64__) && DEPLOY_KIT_LANES == 4
  return reinterpret_cast<Vector>(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at))));
#elif defined(__ARM_FP16_FORMAT_IEEE) && DEPLOY_KIT_LANES == 1
  __fp16 half;
  std::memcpy(&half, at, sizeof(half));
  return half;
#else
  return by_hand(at);
#endif
}

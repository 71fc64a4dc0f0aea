
// Weights as int8: sums are made of their numbers, and the scale of each output is multiplied to its sum.
#if DEPLOY_KIT_LANES == 1
DEPLOY_KIT_INLINE Vector load(const std::int8_t* at) { return static_cast<float>(*at); }
#else
// By the machine's own instructions: not every compiler finds them. The numbers are small, so that all are exact.
DEPLOY_KIT_INLINE Vector load(const std::int8_t* at) {
#if defined(__AVX2__) && DEPLOY_KIT_LANES == 8
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
  return reinterpret_cast<Vector>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
#elif defined(__SSE2__) && DEPLOY_KIT_LANES == 4
  std::int32_t four;
  std::memcpy(&four, at, sizeof(four));
  __m128i bytes = _mm_cvtsi32_si128(four);
  bytes = _mm_unpacklo_epi8(bytes, bytes);
  return reinterpret_cast<Vector>(_mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(bytes, bytes), 24)));
#elif defined(__aarch64__) && DEPLOY_KIT_LANES == 4
  std::int32_t four;
  std::memcpy(&four, at, sizeof(four));
  const int16x8_t pairs = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
  return reinterpret_cast<Vector>(vcvtq_f32_s32(vmovl_s16(vget_low_s16(pairs))));
#else
  Vector value;
  for (int lane = 0; lane < kLanes; ++lane) value[lane] = static_cast<float>(at[lane]);
  return value;
#endif
}
#endif
template <int Size>
inline void clear(float* values) {
  std::memset(values, 0, Size * sizeof(float));
}
template <int Size>
inline void add_scaled(const float* sums, const float* scale, float* out) {
  for (int i = 0; i < Size; ++i) out[i] += sums[i] * scale[i];
}

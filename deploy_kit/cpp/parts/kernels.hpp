// ---- kernels: sums run in a fixed order, so that every run of one build gives the same bits -------------------------
namespace kernels {

constexpr int kLanes = DEPLOY_KIT_LANES;
#if DEPLOY_KIT_LANES == 1
using Vector = float;
DEPLOY_KIT_INLINE Vector load(const float* at) { return *at; }
DEPLOY_KIT_INLINE void store(float* at, Vector value) { *at = value; }
template <class Function>
DEPLOY_KIT_INLINE Vector each(Vector x, Function function) { return function(x); }
constexpr int kPixels = 1;   // outputs of a convolution at once, in one panel of channels
constexpr int kColumns = 16; // outputs of a dense layer at once
#else
typedef float Vector __attribute__((vector_size(4 * DEPLOY_KIT_LANES)));
typedef float Unaligned __attribute__((vector_size(4 * DEPLOY_KIT_LANES), aligned(4), may_alias));
DEPLOY_KIT_INLINE Vector load(const float* at) { return *reinterpret_cast<const Unaligned*>(at); }
DEPLOY_KIT_INLINE void store(float* at, Vector value) { *reinterpret_cast<Unaligned*>(at) = value; }
template <class Function>
DEPLOY_KIT_INLINE Vector each(Vector x, Function function) {
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = function(x[lane]);
  return x;
}
#if defined(__SSE2__) && !defined(__AVX__)
constexpr int kPixels = 3;   // sixteen registers of four lanes
constexpr int kColumns = 32;
#else
constexpr int kPixels = 6;
constexpr int kColumns = 64;
#endif
#endif
@LOADS@
// Convolutions compute while the memory rests: meanwhile the weights that come after them are fetched, line by line.
DEPLOY_KIT_INLINE void fetch(std::uintptr_t& ahead) {
#if DEPLOY_KIT_LANES > 1
  __builtin_prefetch(reinterpret_cast<const void*>(ahead), 0, 2);
  ahead += 64;
#else
  static_cast<void>(ahead);
#endif
}

// out[pixel] = activation(bias + sum over a patch), for Pixels neighbouring pixels and one panel of channels.
// weights: [patch row][number in the patch's row][channel of the panel].
template <class Shape, int Pixels, int Panel>
DEPLOY_KIT_INLINE void patch(const float* in, const float* weights, const float* bias, float* out,
                             std::uintptr_t& ahead) {
  constexpr int kVectors = Panel / kLanes;
  Vector sum[Pixels][kVectors];
  DEPLOY_KIT_UNROLL
  for (int pixel = 0; pixel < Pixels; ++pixel) {
    DEPLOY_KIT_UNROLL
    for (int v = 0; v < kVectors; ++v) sum[pixel][v] = load(bias + v * kLanes);
  }
  for (int row = 0; row < Shape::kKernelRows; ++row) {
    const float* from = in + row * Shape::kInPitch;
    Vector part[Pixels][kVectors] = {}; // short sums round less
    DEPLOY_KIT_UNROLL_BY_2
    for (int k = 0; k < Shape::kKernelColumns * Shape::kInChannels; ++k) {
      Vector weight[kVectors];
      DEPLOY_KIT_UNROLL
      for (int v = 0; v < kVectors; ++v) weight[v] = load(weights + v * kLanes);
      weights += Panel;
      fetch(ahead);
      DEPLOY_KIT_UNROLL
      for (int pixel = 0; pixel < Pixels; ++pixel) {
        const float x = from[pixel * Shape::kStrideColumns * Shape::kInChannels + k];
        DEPLOY_KIT_UNROLL
        for (int v = 0; v < kVectors; ++v) part[pixel][v] += x * weight[v];
      }
    }
    DEPLOY_KIT_UNROLL
    for (int pixel = 0; pixel < Pixels; ++pixel) {
      DEPLOY_KIT_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[pixel][v] += part[pixel][v];
    }
  }
  DEPLOY_KIT_UNROLL
  for (int pixel = 0; pixel < Pixels; ++pixel) {
    DEPLOY_KIT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      store(out + pixel * Shape::kOutChannels + v * kLanes, Shape::Activation::apply(sum[pixel][v]));
    }
  }
}

// One panel of channels of `rows` rows of a convolution's output.
template <class Shape, int Panel>
DEPLOY_KIT_INLINE void convolve_panel(const float* in, const float* weights, const float* bias, float* out, int rows,
                                      std::uintptr_t& ahead) {
  constexpr int kTiles = (Shape::kOutColumns + kPixels - 1) / kPixels;
  constexpr int kWide = (Shape::kOutColumns + kTiles - 1) / kTiles;
  constexpr int kFull = Shape::kOutColumns / kWide, kRest = Shape::kOutColumns % kWide;
  for (int row = 0; row < rows; ++row) {
    const float* from = in + row * Shape::kStrideRows * Shape::kInPitch;
    float* to = out + row * Shape::kOutColumns * Shape::kOutChannels;
    for (int tile = 0; tile < kFull; ++tile) {
      patch<Shape, kWide, Panel>(from, weights, bias, to, ahead);
      from += kWide * Shape::kStrideColumns * Shape::kInChannels;
      to += kWide * Shape::kOutChannels;
    }
    if constexpr (kRest != 0) patch<Shape, kRest, Panel>(from, weights, bias, to, ahead);
  }
}

// `rows` rows of a convolution's output, all channels; numbers of a pixel lie side by side.
template <class Shape>
inline void convolve(const float* in, const float* weights, const float* bias, float* out, int rows,
                     std::uintptr_t& ahead) {
  constexpr int kPatch = Shape::kKernelRows * Shape::kKernelColumns * Shape::kInChannels;
  constexpr int kWhole = Shape::kOutChannels / 16 * 16;
  for (int channel = 0; channel < kWhole; channel += 16) {
    convolve_panel<Shape, 16>(in, weights + channel * kPatch, bias + channel, out + channel, rows, ahead);
  }
  if constexpr (kWhole != Shape::kOutChannels) {
    convolve_panel<Shape, 8>(in, weights + kWhole * kPatch, bias + kWhole, out + kWhole, rows, ahead);
  }
}

// out += x times a panel of Width columns; weights: [input][column].
template <int Inputs, int Width, class Weight>
DEPLOY_KIT_INLINE void multiply_panel(const float* x, const Weight* weights, float* out) {
  constexpr int kAtOnce = Width < kColumns ? Width : kColumns;
  constexpr int kVectors = kAtOnce / kLanes;
  constexpr int kChains = kVectors >= 8 ? 1 : kVectors >= 4 ? 2 : 4; // sums that do not wait for each other
  constexpr int kShort = 32; // short sums round less
  for (int column = 0; column < Width; column += kAtOnce) {
    for (int begin = 0; begin < Inputs; begin += kShort) {
      const int end = begin + kShort < Inputs ? begin + kShort : Inputs;
      const Weight* from = weights + begin * Width + column;
      Vector sum[kChains][kVectors] = {};
      int k = begin;
      DEPLOY_KIT_UNROLL_BY_2
      for (; k + kChains <= end; k += kChains) {
        DEPLOY_KIT_UNROLL
        for (int chain = 0; chain < kChains; ++chain) {
          DEPLOY_KIT_UNROLL
          for (int v = 0; v < kVectors; ++v) sum[chain][v] += x[k + chain] * load(from + chain * Width + v * kLanes);
        }
        from += kChains * Width;
      }
      for (; k < end; ++k) {
        DEPLOY_KIT_UNROLL
        for (int v = 0; v < kVectors; ++v) sum[0][v] += x[k] * load(from + v * kLanes);
        from += Width;
      }
      DEPLOY_KIT_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        Vector total = load(out + column + v * kLanes);
        DEPLOY_KIT_UNROLL
        for (int chain = 0; chain < kChains; ++chain) total += sum[chain][v];
        store(out + column + v * kLanes, total);
      }
    }
  }
}

// out += x times a matrix, which is stored in panels of 64, 32, 16 and 8 columns.
template <int Inputs, int Outputs, class Weight>
inline void multiply(const float* x, const Weight* weights, float* out) {
  constexpr int kWhole = Outputs / 64 * 64;
  for (int column = 0; column < kWhole; column += 64) {
    multiply_panel<Inputs, 64>(x, weights + column * Inputs, out + column);
  }
  weights += kWhole * Inputs;
  out += kWhole;
  if constexpr ((Outputs & 32) != 0) {
    multiply_panel<Inputs, 32>(x, weights, out);
    weights += 32 * Inputs;
    out += 32;
  }
  if constexpr ((Outputs & 16) != 0) {
    multiply_panel<Inputs, 16>(x, weights, out);
    weights += 16 * Inputs;
    out += 16;
  }
  if constexpr ((Outputs & 8) != 0) multiply_panel<Inputs, 8>(x, weights, out);
}

template <int Size>
inline void copy(const float* in, float* out) {
  std::memcpy(out, in, Size * sizeof(float));
}

template <class Activation, int Size>
inline void activate(float* values) {
  for (int i = 0; i < Size; i += kLanes) store(values + i, Activation::apply(load(values + i)));
}

template <int Size>
inline void normalise(const float* in, const float* mean, const float* scale, float* out) {
  for (int i = 0; i < Size; ++i) out[i] = (in[i] - mean[i]) / scale[i];
}

}  // namespace kernels

// The same loop on onnxruntime's C++ API, for a computer that runs onnxruntime anyway: policy.onnx instead of
// policy.hpp. Guards, last action and transform are then yours: they are written out here for the racing policy, with
// numbers from contract.json. The header does all of that by itself, and is quicker.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <vector>

namespace {

// From contract.json: observation, action, gate.
constexpr int kState = 16, kRows = 72, kColumns = 96, kActions = 4;
constexpr float kClip = 10.0f, kDivisor = 10.0f;                                       // observation.depth
constexpr std::array<double, kActions> kScale{14.715, 6, 6, 6}, kOffset{14.715, 0, 0, 0};  // action
constexpr double kThresholdLogit = -3.544586181640625;                                 // gate.detector

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: %s policy.onnx\n", argv[0]), 2;
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "policy");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);  // what verify verified: all optimisations, one thread
  options.SetInterOpNumThreads(1);
  options.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
  Ort::Session session(env, argv[1], options);

  std::array<float, kState> state{};
  std::vector<float> depth(kRows * kColumns);
  std::array<float, kActions> action{};
  std::array<float, 1> logit{};
  // Bound once, so that a step allocates nothing.
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const std::array<int64_t, 2> state_shape{1, kState}, action_shape{1, kActions}, logit_shape{1, 1};
  const std::array<int64_t, 4> depth_shape{1, 1, kRows, kColumns};
  auto tensor = [&](auto& values, const auto& shape) {
    return Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), shape.data(), shape.size());
  };
  Ort::IoBinding binding(session);
  binding.BindInput("state", tensor(state, state_shape));
  binding.BindInput("depth", tensor(depth, depth_shape));
  binding.BindOutput("action", tensor(action, action_shape));
  binding.BindOutput("gate_logit", tensor(logit, logit_shape));

  std::array<double, kActions> acting = kOffset, sent = kOffset;  // a latency of one step: two commands are on their way
  for (int step = 0; step < 10; ++step) {
    // Level, a gate 3 m ahead; the last four numbers are the command now acting.
    state = {0, 0, 0, 0, 0, 1, 3, 0, 0, 3, 0, 0};
    for (int i = 0; i < kActions; ++i) state[kState - kActions + i] = static_cast<float>(acting[i]);
    for (float& pixel : depth) {
      const float metres = 5.0f;  // yours, +inf where nothing returned
      if (!(metres >= 0.0f)) return std::fprintf(stderr, "unusable depth\n"), 1;
      pixel = std::min(metres, kClip) / kDivisor;
    }
    session.Run(Ort::RunOptions{nullptr}, binding);
    std::array<double, kActions> command{};
    for (int i = 0; i < kActions; ++i) {
      command[i] = std::tanh(static_cast<double>(action[i])) * kScale[i] + kOffset[i];
      if (!std::isfinite(action[i])) return std::fprintf(stderr, "not finite\n"), 1;
    }
    acting = sent;
    sent = command;
    std::printf("%6.2f m/s^2, %6.2f %6.2f %6.2f rad/s, gate %s\n", command[0], command[1], command[2], command[3],
                logit[0] >= kThresholdLogit ? "passed" : "-");
  }
}


#if defined(DEPLOY_KIT_C_INTERFACE)
// ---- for callers in other languages: define DEPLOY_KIT_C_INTERFACE in one file that includes this one ---------------
#if defined(_WIN32)
#define DEPLOY_KIT_EXPORT __declspec(dllexport)
#elif defined(__GNUC__)
#define DEPLOY_KIT_EXPORT __attribute__((visibility("default")))
#else
#define DEPLOY_KIT_EXPORT
#endif
#include <new>
extern "C" {

// What a caller must have been written for: it changes with the functions below, of which a library tells no more than
// the names.
DEPLOY_KIT_EXPORT int deploy_kit_interface() { return 2; }

// The caller gives the buffers: so many bytes, zeros, at a multiple of 64; one for each thread.
DEPLOY_KIT_EXPORT long long deploy_kit_buffer_bytes() { return sizeof(deploy_kit_policy::detail::Buffers); }

// Sizes, so that a caller can see that it fits: state, rows, columns, features, actions, gate.
DEPLOY_KIT_EXPORT void deploy_kit_sizes(int* sizes) {
  using namespace deploy_kit_policy;
  const int values[] = {kStateSize, kRows, kColumns, kFeatureSize, kActions, kHasGate ? 1 : 0};
  for (int i = 0; i < 6; ++i) sizes[i] = values[i];
}

// Where the network's normalised inputs lie: write them before deploy_kit_run.
DEPLOY_KIT_EXPORT float* deploy_kit_state(void* buffers) {
  return static_cast<deploy_kit_policy::detail::Buffers*>(buffers)->state;
}
DEPLOY_KIT_EXPORT float* deploy_kit_image(void* buffers) {
  return static_cast<deploy_kit_policy::detail::Buffers*>(buffers)->image;
}

// Run the network on what stands in the buffers; returns 0, or a Fault.
DEPLOY_KIT_EXPORT int deploy_kit_run(void* buffers, double* command, float* action, float* logit) {
  using namespace deploy_kit_policy;
  return static_cast<int>(detail::run(*static_cast<detail::Buffers*>(buffers), command, action, logit));
}

// What deploy_kit_step reads and writes; a caller fills it in once.
struct DeployKitStep {
  void* buffers;
  const double* state;   // kStateSize numbers, or kShortStateSize without those of the command now acting
  const double* acting;  // the command now acting
  const double* low;     // what the state is held against
  const double* high;
  double* command;
  float* action;
  float* logit;
  long long count;  // numbers of the state
};

// Guards, network and action transform in one call, on metres that stand where deploy_kit_image says: returns 0 if all
// is well, 1 for a state that is refused, 2 for an image that is refused or shows nothing (nothing is computed then, and
// who calls says why), 3 for an output that is not finite.
DEPLOY_KIT_EXPORT int deploy_kit_step(const DeployKitStep* step) {
  using namespace deploy_kit_policy;
  auto& b = *static_cast<detail::Buffers*>(step->buffers);
  const int count = static_cast<int>(step->count);
  if (detail::fill_state(step->state, count, step->acting, step->low, step->high, b.state) != Fault::kNone) return 1;
  if (detail::normalise_depth(b.image) != detail::Sight::kSeen) return 2;
  return detail::run(b, step->command, step->action, step->logit) == Fault::kNone ? 0 : 3;
}

// Run normalised observations (rows x (state, image)); command and features may be null.
DEPLOY_KIT_EXPORT void deploy_kit_rows(void* buffers, const float* observation, long long rows, float* action,
                                       double* command, float* logit, float* features) {
  using namespace deploy_kit_policy;
  auto& b = *static_cast<detail::Buffers*>(buffers);
  for (long long row = 0; row < rows; ++row) {
    const float* from = observation + row * (kStateSize + kImageSize);
    std::memcpy(b.state, from, kStateSize * sizeof(float));
    std::memcpy(b.image, from + kStateSize, kImageSize * sizeof(float));
    detail::run(b, command + row * kActions, action + row * kActions, logit + row);
    std::memcpy(features + row * kFeatureSize, b.features, kFeatureSize * sizeof(float));
  }
}

// Run the heads alone on features (rows x kFeatureSize).
DEPLOY_KIT_EXPORT void deploy_kit_heads(void* buffers, const float* features, long long rows, float* action,
                                        float* logit) {
  using namespace deploy_kit_policy;
  auto& b = *static_cast<detail::Buffers*>(buffers);
  for (long long row = 0; row < rows; ++row) {
    std::memcpy(b.features, features + row * kFeatureSize, kFeatureSize * sizeof(float));
    detail::run_heads(b);
    std::memcpy(action + row * kActions, b.action, kActions * sizeof(float));
    logit[row] = b.gate[0];
  }
}

// A whole policy with its memory, as `Policy` above: so many bytes at a multiple of 64, one for each drone.
DEPLOY_KIT_EXPORT long long deploy_kit_policy_bytes() { return sizeof(deploy_kit_policy::Policy); }

// Make a policy there, as at the start of an episode. max_blind_s: as in Options.
DEPLOY_KIT_EXPORT void deploy_kit_policy_begin(void* policy, double max_blind_s) {
  deploy_kit_policy::Options options;
  options.max_blind_s = max_blind_s;
  new (policy) deploy_kit_policy::Policy(options);
}

// Policy::step without times; returns its Fault, and leaves the outputs alone where it is not 0.
DEPLOY_KIT_EXPORT int deploy_kit_policy_step(void* policy, const double* state, int count, const float* depth,
                                             double* command, float* action, float* logit, int* event) {
  using namespace deploy_kit_policy;
  Output output;
  const Fault fault = static_cast<Policy*>(policy)->step(state, count, depth, output);
  if (fault != Fault::kNone) return static_cast<int>(fault);
  for (int i = 0; i < kActions; ++i) {
    command[i] = output.command[i];
    action[i] = output.action[i];
  }
  *logit = output.gate_logit;
  *event = output.gate_event ? 1 : 0;
  return 0;
}

// Policy::hold with the command that was sent instead; returns its Fault.
DEPLOY_KIT_EXPORT int deploy_kit_policy_hold(void* policy, const double* applied) {
  return static_cast<int>(static_cast<deploy_kit_policy::Policy*>(policy)->hold(applied));
}

#if !defined(DEPLOY_KIT_NO_SELF_TEST)
// The golden samples in the header: 0 if they come out right.
DEPLOY_KIT_EXPORT int deploy_kit_self_test() {
  static deploy_kit_policy::Policy policy;
  return static_cast<int>(policy.self_test());
}
#endif

}  // extern "C"
#endif  // DEPLOY_KIT_C_INTERFACE

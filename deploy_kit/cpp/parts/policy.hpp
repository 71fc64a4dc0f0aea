// ---- the whole step -------------------------------------------------------------------------------------------------

// Why a step was refused; the flight controller decides what to do about each.
enum class Fault : int {
  kNone = 0,
  kStateShape,        // neither kStateSize nor kShortStateSize numbers
  kStateNotFinite,
  kStateOutOfRange,   // beyond kStateLow to kStateHigh and the margin
  kDepthNotANumber,
  kDepthOutOfRange,   // negative
  kDepthUnit,         // most likely millimetres
  kDepthBlind,        // no pixel had a return for too long
  kClock,             // a time is no number, from the future, or ran backwards
  kStateStale,
  kDepthStale,
  kStepEarly,
  kStepLate,
  kCommand,           // a command told to hold() is not finite
  kOutputNotFinite,
  kGoldenMismatch,    // self_test: this build does not compute what was verified; do not fly
};

// Limits; those of deploy-kit's onboard runner. Negative ages and steps mean: no limit.
struct Options {
  double range_margin = 0.05;  // share of its range by which a state may leave it
  double max_blind_s = 0.5;    // longest time for which no pixel may have a return
  double max_state_age_s = 2 * kPolicyPeriod;
  double max_depth_age_s = kPolicyPeriod + kDepthPeriod;
  double min_step_s = 0.5 * kPolicyPeriod;
  double max_step_s = 2 * kPolicyPeriod;
  bool zero_is_no_return = false;  // for cameras that give 0 where nothing returned
  bool nan_is_no_return = false;   // for drivers that give NaN there
};

// Times of one step in seconds, on one clock.
struct Times {
  double now;
  double state;
  double depth;
};

struct Output {
  double command[kActions];  // in kActionUnits, to be sent now
  float action[kActions];    // the network's, unbounded
  float gate_logit;          // 0 without a gate output, as are the next three
  double gate_probability;
  bool gate_passed;          // the logit is at or above kGateThreshold; true for several steps of one passage
  bool gate_event;           // the detector announces a passage with this step: once a passage
};

namespace detail {

constexpr double kMillimetresAbove = 500.0;  // metres beyond every depth camera's range

inline bool is_finite(double value) { return value - value == 0.0; }

// The buffers of one inference. About kBufferBytes: static memory, not a small stack.
struct Buffers {
@BUFFERS@};

inline void encode(Buffers& b) {
@ENCODER@}

inline void run_heads(Buffers& b) {
@HEADS@}

// What states are held against: ranges and the margin around them.
struct Bounds {
  double low[kStateSize];
  double high[kStateSize];

  explicit Bounds(double margin) {
    constexpr double largest = std::numeric_limits<double>::max();
    for (int i = 0; i < kStateSize; ++i) {
      const double span = kStateHigh[i] - kStateLow[i];
      const double slack = margin * (is_finite(span) ? span : 0.0);
      // Without a range, only numbers that are none are refused.
      low[i] = kStateLow[i] - slack < -largest ? -largest : kStateLow[i] - slack;
      high[i] = kStateHigh[i] + slack > largest ? largest : kStateHigh[i] + slack;
    }
  }
};

// Put a state into the network's form.
// state: kStateSize numbers, or kShortStateSize without those of the command now acting, which is then put in.
template <class Real>
inline Fault fill_state(const Real* state, int count, const double* acting, const double* low, const double* high,
                        float* target) {
  const bool whole = count == kStateSize;
  if (!whole && (!kHasLastAction || count != kShortStateSize)) return Fault::kStateShape;
  double values[kStateSize];
  for (int i = 0, from = 0; i < kStateSize; ++i) {
    const bool filled = !whole && i >= kLastActionStart && i < kLastActionStart + kActions;
    values[i] = filled ? acting[i - kLastActionStart] : static_cast<double>(state[from++]);
  }
  bool fits = true;
  for (int i = 0; i < kStateSize; ++i) fits &= values[i] >= low[i] && values[i] <= high[i];
  if (!fits) {
    for (int i = 0; i < kStateSize; ++i) {
      if (!is_finite(values[i])) return Fault::kStateNotFinite;
    }
    return Fault::kStateOutOfRange;
  }
  for (int i = 0; i < kStateSize; ++i) {
    double value = values[i];
    if (kStateIsClipped) {
      value = value < kStateClipLow[i] ? kStateClipLow[i] : value > kStateClipHigh[i] ? kStateClipHigh[i] : value;
    }
    target[i] = static_cast<float>(kStateIsScaled ? value * kStateScale[i] : value);
  }
  return Fault::kNone;
}

enum class Sight { kSeen, kNothing, kUnusable };

// Puts metres into the network's form, pixel by pixel, and sees whether any had a return within kDepthClip.
struct Look {
  int unusable = 0, seen = 0;

  DEPLOY_KIT_INLINE float normalised(float depth) {
    unusable |= !(depth >= 0.0f);
    seen |= (depth > 0.0f) & (depth < kDepthClip);
    return (depth < kDepthClip ? depth : kDepthClip) / kDepthDivisor;
  }

  Sight sight() const { return unusable ? Sight::kUnusable : seen ? Sight::kSeen : Sight::kNothing; }
};

inline Sight fill_depth(const float* metres, float* target) {
  Look look;
  for (int i = 0; i < kImageSize; ++i) target[i] = look.normalised(metres[i]);
  return look.sight();
}

// The same where the metres lie in the network's image already: half the memory to touch.
inline Sight normalise_depth(float* image) {
  Look look;
  for (int i = 0; i < kImageSize; ++i) image[i] = look.normalised(image[i]);
  return look.sight();
}

inline double probability(double logit) {
  // By the sign, so that exp cannot overflow.
  const double e = std::exp(logit >= 0 ? -logit : logit);
  return logit >= 0 ? 1.0 / (1.0 + e) : e / (1.0 + e);
}

// Run the network on what stands in the buffers, and give the command.
inline Fault run(Buffers& b, double* command, float* action, float* logit) {
  encode(b);
  run_heads(b);
  double sum = 0.0;
  for (int i = 0; i < kActions; ++i) {
    double value = action[i] = b.action[i];
    if (kActionIsClipped) value = value < -kActionClip ? -kActionClip : value > kActionClip ? kActionClip : value;
    command[i] = std::tanh(value) * kActionScale[i] + kActionOffset[i];
    // The action too: tanh makes a command even of infinity.
    sum += command[i] + b.action[i];
  }
  *logit = b.gate[0];
  return is_finite(sum) && is_finite(*logit) ? Fault::kNone : Fault::kOutputNotFinite;
}

}  // namespace detail

// A policy that flies. One object a drone, used by one thread; it holds its buffers and allocates nothing.
class Policy {
 public:
  explicit Policy(const Options& options = Options()) : options_(options), bounds_(options.range_margin) { reset(); }

  // Forget past commands, times and passages, as at the start of an episode.
  void reset() {
    for (int i = 0; i < kLatencySteps + 1; ++i) set_command(acting_[i], kActionOffset);
    first_ = blind_ = wait_ = known_ = newest_ = 0;
    armed_ = true;
    last_ = {-kInfinity, -kInfinity, -kInfinity};
  }

  // Compute the command of one policy period; a refused step changes nothing, tell with hold() what flew instead.
  // state: kStateSize numbers in SI units, or kShortStateSize without the last action (see kLastActionStart).
  // depth: kRows x kColumns metres along the optical axis, top row first, +inf where nothing returned.
  template <class Real>
  Fault step(const Real* state, int count, const float* depth, Output& output) {
    return compute(state, count, depth, nullptr, output);
  }

  // The same, with checks of age and pace.
  template <class Real>
  Fault step(const Real* state, int count, const float* depth, const Times& times, Output& output) {
    const Fault fault = check(times);
    return fault != Fault::kNone ? fault : compute(state, count, depth, &times, output);
  }

  // Say that a policy period passed without this policy's command.
  // applied: the command that was sent instead; null if the last one was repeated. now: its time; NaN if not known.
  Fault hold(const double* applied = nullptr, double now = std::numeric_limits<double>::quiet_NaN()) {
    double command[kActions];
    set_command(command, applied == nullptr ? acting_[(first_ + kLatencySteps) % (kLatencySteps + 1)] : applied);
    for (double value : command) {
      if (!detail::is_finite(value)) return Fault::kCommand;
    }
    push(command);
    if (detail::is_finite(now)) last_.now = now;
    if (wait_ > 0) --wait_;
    if (known_ > 0) remember(past_[newest_]);
    return Fault::kNone;
  }

#if !defined(DEPLOY_KIT_NO_SELF_TEST)  // saves the samples' place in flash; another way to test is needed then
  // Compute the golden samples; call it once at start, and do not fly unless it gives kNone.
  Fault self_test() {
    // Some flags take NaN out of comparisons and define no macro (-fno-honor-nans): then the guards see none.
    volatile float none = std::numeric_limits<float>::quiet_NaN();
    volatile float endless = std::numeric_limits<float>::infinity();
    for (int i = 0; i < kImageSize; ++i) buffers_.image[i] = 1.0f;
    buffers_.image[kImageSize - 1] = none;
    const bool unseen = detail::fill_depth(buffers_.image, buffers_.image) != detail::Sight::kUnusable;
    if (unseen || detail::is_finite(none) || detail::is_finite(endless)) return Fault::kGoldenMismatch;
    for (int sample = 0; sample < kGoldenSamples; ++sample) {
      const float* observation = kGoldenObservation + sample * (kStateSize + kImageSize);
      std::memcpy(buffers_.state, observation, kStateSize * sizeof(float));
      std::memcpy(buffers_.image, observation + kStateSize, kImageSize * sizeof(float));
      double command[kActions];
      float action[kActions], logit = 0.0f;
      if (detail::run(buffers_, command, action, &logit) != Fault::kNone) return Fault::kGoldenMismatch;
      for (int i = 0; i < kActions; ++i) {
        if (!near(action[i], kGoldenAction[sample * kActions + i], 1.0)) return Fault::kGoldenMismatch;
      }
      // A logit is a sum, and has the rounding errors of its terms.
      const double terms = 0.1 * static_cast<double>(kGoldenTerms[sample]);
      if (!near(logit, kGoldenLogit[sample], terms > 1.0 ? terms : 1.0)) return Fault::kGoldenMismatch;
    }
    return Fault::kNone;
  }
#endif

 private:
#if !defined(DEPLOY_KIT_NO_SELF_TEST)
  static bool near(double found, double expected, double scale) {
    return std::fabs(found - expected) <= kGoldenTolerance * (scale + std::fabs(expected));
  }
#endif

  static void set_command(double* to, const double* from) {
    for (int i = 0; i < kActions; ++i) to[i] = from[i];
  }

  void push(const double* command) {
    set_command(acting_[first_], command);
    first_ = (first_ + 1) % (kLatencySteps + 1);
  }

  template <class Real>
  Fault compute(const Real* state, int count, const float* depth, const Times* times, Output& output) {
    Fault fault =
        detail::fill_state(state, count, acting_[first_], bounds_.low, bounds_.high, buffers_.state);
    if (fault == Fault::kNone) fault = see(depth);
    Output made = {};
    if (fault == Fault::kNone) fault = detail::run(buffers_, made.command, made.action, &made.gate_logit);
    if (fault != Fault::kNone) return fault;
    push(made.command);
    if (times != nullptr) last_ = *times;
    if (kHasGate) made.gate_probability = detail::probability(made.gate_logit);
    if (kHasDetector) {
      made.gate_passed = made.gate_logit >= kGateThreshold;
      made.gate_event = detect(made.gate_logit);
    }
    output = made;
    return Fault::kNone;
  }

  Fault see(const float* depth) {
    detail::Sight sight = detail::fill_depth(depth, buffers_.image);
    if (options_.zero_is_no_return || options_.nan_is_no_return) {
      // As +inf where nothing returned; the caller's image stays as it is.
      int unusable = 0;
      for (int i = 0; i < kImageSize; ++i) {
        const bool none = (options_.zero_is_no_return && depth[i] == 0.0f) ||
                          (options_.nan_is_no_return && depth[i] != depth[i]);
        if (none) buffers_.image[i] = kDepthClip / kDepthDivisor;
        unusable |= !none && !(depth[i] >= 0.0f);
      }
      if (!unusable && sight == detail::Sight::kUnusable) sight = detail::Sight::kNothing;
      for (int i = 0; !unusable && i < kImageSize; ++i) {
        if (depth[i] > 0.0f && depth[i] < kDepthClip) sight = detail::Sight::kSeen;
      }
    }
    if (sight == detail::Sight::kSeen) {
      blind_ = 0;
      return Fault::kNone;
    }
    if (sight == detail::Sight::kUnusable) {
      for (int i = 0; i < kImageSize; ++i) {
        if (depth[i] != depth[i] && !options_.nan_is_no_return) return Fault::kDepthNotANumber;
      }
      return Fault::kDepthOutOfRange;
    }
    for (int i = 0; i < kImageSize; ++i) {
      if (depth[i] > detail::kMillimetresAbove && detail::is_finite(depth[i])) return Fault::kDepthUnit;
    }
    ++blind_;
    return options_.max_blind_s >= 0 && blind_ > options_.max_blind_s / kPolicyPeriod ? Fault::kDepthBlind
                                                                                    : Fault::kNone;
  }

  Fault check(const Times& times) {
    const double all[] = {times.now, times.state, times.depth};
    for (double time : all) {
      if (!detail::is_finite(time) || time > times.now) return Fault::kClock;
    }
    if (times.now < last_.now || times.state < last_.state || times.depth < last_.depth) return Fault::kClock;
    if (beyond(times.now - times.state, options_.max_state_age_s)) return Fault::kStateStale;
    if (beyond(times.now - times.depth, options_.max_depth_age_s)) return Fault::kDepthStale;
    if (!detail::is_finite(last_.now)) return Fault::kNone;
    const double since = times.now - last_.now;
    if (since < options_.min_step_s) return Fault::kStepEarly;
    if (beyond(since, options_.max_step_s)) {
      last_.now = times.now;
      return Fault::kStepLate;
    }
    return Fault::kNone;
  }

  static bool beyond(double value, double limit) { return limit >= 0 && value > limit; }

  void remember(double logit) {
    newest_ = (newest_ + 1) % (kSlopeSteps + 1);
    past_[newest_] = logit;
    if (known_ <= kSlopeSteps) ++known_;
  }

  // Fires once a passage: with a score below the release it is armed; armed, it fires at the threshold, unless it fired
  // within the last kRefractorySteps steps; firing disarms it. The score is the logit, and what it rose by within
  // kSlopeSteps steps, or since the first one, beyond kSlopeRise.
  bool detect(double logit) {
    remember(logit);
    const double earlier = past_[(newest_ + kSlopeSteps + 2 - known_) % (kSlopeSteps + 1)];
    const double score = logit + kSlopeGain * (logit - earlier - kSlopeRise);
    if (score < kGateRelease) armed_ = true;
    if (wait_ > 0) {
      --wait_;
      return false;
    }
    if (!armed_ || score < kGateThreshold) return false;
    armed_ = false;
    wait_ = kRefractorySteps;
    return true;
  }

  Options options_;
  detail::Bounds bounds_;
  detail::Buffers buffers_{};
  double acting_[kLatencySteps + 1][kActions];  // the command now acting is at first_, the newest one before it
  double past_[kSlopeSteps + 1]{};  // logits, the newest one at newest_
  int first_, blind_, wait_, known_, newest_;
  bool armed_;
  Times last_;
};

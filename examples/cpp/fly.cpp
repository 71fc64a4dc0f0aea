// A control loop around a bundle's policy.hpp: reads sensors, steps the policy once a period, sends commands.
//
// Here the sensors are made up, so that the program runs anywhere; put yours into read_sensors, and your autopilot into
// send. Build and run: make BUNDLE=path/to/bundle run
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "policy.hpp"

namespace dk = deploy_kit_policy;

namespace {

double now_s() {
  using clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(clock::now().time_since_epoch()).count();
}

struct Sensors {
  double state[dk::kShortStateSize];  // in SI units, in the order that policy.hpp lists, without the last action
  float depth[dk::kImageSize];        // metres along the optical axis, +inf where nothing returned
  double state_time, depth_time;      // when each was measured, on the clock of now_s
};

// A state in the middle of what the contract expects, and a wall 5 m away.
void read_sensors(Sensors& sensors) {
  for (int i = 0; i < dk::kShortStateSize; ++i) {
    const double middle = 0.5 * (dk::kStateLow[i] + dk::kStateHigh[i]);
    sensors.state[i] = middle - middle == 0.0 ? middle : 0.0;
  }
  for (float& pixel : sensors.depth) pixel = 5.0f;
  sensors.state_time = sensors.depth_time = now_s();
}

void send(const double (&command)[dk::kActions]) {
  std::printf("thrust/mass %6.2f m/s^2, rates %6.2f %6.2f %6.2f rad/s", command[0], command[1], command[2], command[3]);
}

dk::Policy policy;     // static: its buffers are too large for a small stack
Sensors sensors;

}  // namespace

int main(int argc, char** argv) {
  const int steps = argc > 1 ? std::atoi(argv[1]) : 10;
  if (policy.self_test() != dk::Fault::kNone) {
    std::fputs("self-test failed: this build computes something else than was verified; do not fly\n", stderr);
    return 1;
  }
  std::printf("self-test passed; %zu bytes of buffers, one step each %g s\n", sizeof policy, dk::kPolicyPeriod);
  policy.reset();
  auto tick = std::chrono::steady_clock::now();
  int refused = 0;
  for (int step = 0; step < steps; ++step) {
    read_sensors(sensors);
    dk::Output output;
    const double now = now_s();
    const dk::Fault fault = policy.step(sensors.state, dk::kShortStateSize, sensors.depth,
                                        {now, sensors.state_time, sensors.depth_time}, output);
    const double took = now_s() - now;
    if (fault == dk::Fault::kNone) {
      send(output.command);
      std::printf(", gate %.3f%s, %.0f us\n", output.gate_probability, output.gate_event ? " passed" : "", 1e6 * took);
    } else {
      // Nothing was computed. Send something safe, and tell the policy what flew.
      const double safe[dk::kActions] = {dk::kActionOffset[0], dk::kActionOffset[1], dk::kActionOffset[2],
                                         dk::kActionOffset[3]};
      policy.hold(safe, now);
      std::printf("refused, fault %d\n", static_cast<int>(fault));
      ++refused;
    }
    tick += std::chrono::duration_cast<std::chrono::steady_clock::duration>(
        std::chrono::duration<double>(dk::kPolicyPeriod));
    std::this_thread::sleep_until(tick);
  }
  return refused == 0 ? 0 : 1;
}

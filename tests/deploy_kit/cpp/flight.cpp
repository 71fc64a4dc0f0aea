// Runs the policy's class on commands from standard input, for test_policy_class.py.
#include <cstdio>
#include <cstdlib>

#include "policy.hpp"

using namespace deploy_kit_policy;

namespace {

template <class T>
bool read(T* values, int count) { return std::fread(values, sizeof(T), count, stdin) == static_cast<std::size_t>(count); }

template <class T>
void write(const T* values, int count) { std::fwrite(values, sizeof(T), count, stdout); }

Options options_of(char** argv) {
  Options options;
  options.max_blind_s = std::atof(argv[1]);
  options.zero_is_no_return = argv[2][0] == '1';
  options.nan_is_no_return = argv[2][1] == '1';
  return options;
}

double state[kStateSize + 1];
float single[kStateSize + 1], depth[kImageSize];

}  // namespace

int main(int, char** argv) {
  static Policy policy(options_of(argv));
  const int test = static_cast<int>(policy.self_test());
  write(&test, 1);
  std::fflush(stdout);
  for (char command; read(&command, 1);) {
    if (command == 'R') policy.reset();
    if (command == 'H') {
      double applied[kActions], now;
      char told;
      if (!read(&told, 1) || !read(applied, kActions) || !read(&now, 1)) return 1;
      const int fault = static_cast<int>(policy.hold(told ? applied : nullptr, now));
      write(&fault, 1);
    }
    if (command == 'S') {
      int count;
      Times times;
      char kind;
      if (!read(&count, 1) || !read(state, count) || !read(depth, kImageSize) || !read(&times, 1) || !read(&kind, 1)) return 1;
      for (int i = 0; i < count; ++i) single[i] = static_cast<float>(state[i]);
      Output output = {};
      const Fault fault = kind == 't'   ? policy.step(state, count, depth, times, output)
                          : kind == 'f' ? policy.step(single, count, depth, output)
                                        : policy.step(state, count, depth, output);
      const int number = static_cast<int>(fault);
      const char flags[] = {output.gate_passed, output.gate_event};
      write(&number, 1);
      write(output.command, kActions);
      write(&output.gate_probability, 1);
      write(flags, 2);
    }
    std::fflush(stdout);
  }
}

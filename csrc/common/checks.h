// Argument checks. A failed check throws std::runtime_error whose text starts with the operator's name and
// names the argument, the value and the rule; torch turns it into a Python RuntimeError.
// Free of torch, so that the geometry can use it on any host.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

namespace convops {

template <typename... Parts>
[[noreturn]] inline void fail(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << op << ": ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// The message parts are only formatted when the check fails.
#define CONVOPS_CHECK(condition, op, ...)    \
  do {                                       \
    if (__builtin_expect(!(condition), 0)) { \
      ::convops::fail(op, __VA_ARGS__);      \
    }                                        \
  } while (0)

// "(1, 2)", as Python prints a tuple.
template <typename Container>
inline std::string as_tuple(const Container& values) {
  std::ostringstream text;
  text << '(';
  bool first = true;
  for (const auto& value : values) {
    text << (first ? "" : ", ") << value;
    first = false;
  }
  text << ')';
  return text.str();
}

}  // namespace convops

// What the wheel takes from the C++ library of GCC 13, for systems that have an older one.
#include <cstddef>
#include <cstring>
#include <ios>
#include <vector>

static std::ios_base::Init streams;

extern "C" {
// std::ios_base_library_init(): the object above has done it.
void _ZSt21ios_base_library_initv() {}

// std::string::_M_replace_cold(char* at, size_t removed, const char* from, size_t added, size_t behind): what is added
// may be part of the string itself.
void _ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE15_M_replace_coldEPcmPKcmm(
    void*, char* at, std::size_t removed, const char* from, std::size_t added, std::size_t behind) {
  const std::vector<char> copy(from, from + added);
  if (behind > 0 && removed != added) std::memmove(at + added, at + removed, behind);
  std::memcpy(at, copy.data(), added);
}
}

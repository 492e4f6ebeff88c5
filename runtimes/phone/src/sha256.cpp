#include "sha256.h"

#include <bit>
#include <cstring>

namespace qwen_edge {
namespace {

constexpr std::array<uint32_t, 64> ROUND = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

}  // namespace

void Sha256::update(std::string_view data) {
  length_ += data.size();
  for (const char letter : data) {
    buffer_[buffered_++] = static_cast<unsigned char>(letter);
    if (buffered_ == buffer_.size()) {
      block(buffer_.data());
      buffered_ = 0;
    }
  }
}

std::string Sha256::hex() {
  const uint64_t bits = length_ * 8;
  update(std::string_view("\x80", 1));
  while (buffered_ != 56) update(std::string_view("\0", 1));
  std::string ending(8, '\0');
  for (int index = 0; index < 8; ++index) ending[index] = static_cast<char>(bits >> (56 - 8 * index));
  update(ending);
  static constexpr char DIGITS[] = "0123456789abcdef";
  std::string text;
  for (const uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) text += DIGITS[(word >> shift) & 15];
  }
  return text;
}

void Sha256::block(const unsigned char* bytes) {
  std::array<uint32_t, 64> words{};
  for (int index = 0; index < 16; ++index) {
    const unsigned char* four = bytes + 4 * index;
    words[index] = uint32_t{four[0]} << 24 | uint32_t{four[1]} << 16 | uint32_t{four[2]} << 8 | four[3];
  }
  for (int index = 16; index < 64; ++index) {
    const uint32_t near = words[index - 2], far = words[index - 15];
    const uint32_t near_mix = std::rotr(near, 17) ^ std::rotr(near, 19) ^ (near >> 10);
    const uint32_t far_mix = std::rotr(far, 7) ^ std::rotr(far, 18) ^ (far >> 3);
    words[index] = near_mix + words[index - 7] + far_mix + words[index - 16];
  }
  auto [a, b, c, d, e, f, g, h] = state_;
  for (int index = 0; index < 64; ++index) {
    const uint32_t choice = (e & f) ^ (~e & g), majority = (a & b) ^ (a & c) ^ (b & c);
    const uint32_t first = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + choice + ROUND[index] + words[index];
    const uint32_t second = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + majority;
    h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
  }
  const std::array<uint32_t, 8> mixed{a, b, c, d, e, f, g, h};
  for (int index = 0; index < 8; ++index) state_[index] += mixed[index];
}

}  // namespace qwen_edge

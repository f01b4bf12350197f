// What a stranger at the probe socket can say to a daemon, and what listens there to a probe: HELLO, WELCOME and REJECT
// as any bytes, with any number of descriptors.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>
#include <vector>

#include "shared/base/utf8.h"
#include "shared/handshake.h"
#include "shared/tlv.h"
#include "tests/fuzz/fuzz_input.h"

namespace ikkuna::fuzz {
namespace {

constexpr size_t kDescriptorsMax = 4;

int OpenDescriptors() {
  int count = 0;
  for (int fd = 0; fd < 64; ++fd) count += ::fcntl(fd, F_GETFD) != -1;
  return count;
}

void Send(int socket, const std::string& bytes, size_t descriptors) {
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kDescriptorsMax * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (descriptors > 0) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(descriptors * sizeof(int));
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors * sizeof(int));
    const std::array<int, kDescriptorsMax> fds{socket, socket, socket, socket};
    std::memcpy(CMSG_DATA(rights), fds.data(), descriptors * sizeof(int));
  }
  // A message that is too large is refused by our own kernel.
  static_cast<void>(::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL));
}

// A message of true fields, each of which may be left out, doubled or of a wrong length; or any bytes.
std::string MakeMessage(FuzzInput& input) {
  const uint8_t type = input.U8();
  if (type >= 8) {
    const auto raw = input.Bytes(type == 255 ? shm::kMaxMessageBytes + 1 : size_t{type});
    return {raw.begin(), raw.end()};
  }
  shm::TlvWriter writer(static_cast<shm::MessageType>(type));
  static constexpr std::array<uint16_t, 20> kBytes{0, 16, 5, 3, 4, 4, 4, 8, 8, 8, 0, 0, 0, 0, 0, 0, 8, 6, 9, 1};
  const uint32_t left_out = input.Number<uint32_t>();
  for (uint16_t tag = 1; tag < kBytes.size(); ++tag) {
    if ((left_out >> tag & 1) != 0) continue;
    std::array<unsigned char, 300> value{};
    value.fill('a');
    size_t bytes = kBytes[tag];
    if (const uint8_t lie = input.U8(); lie >= 240) {
      bytes = input.U16() % value.size();
      input.Fill(value.data(), std::min<size_t>(bytes, 8));
      if (lie == 255) writer.Put(static_cast<shm::Tag>(tag), value.data(), bytes);
    }
    writer.Put(static_cast<shm::Tag>(tag), value.data(), bytes);
  }
  std::string bytes = writer.bytes();
  if (input.Choice(4) == 3) bytes.resize(input.U16() % (bytes.size() + 8));
  return bytes;
}

void ExpectText(const std::string& text, size_t bytes_max) {
  FUZZ_CHECK(text.size() <= bytes_max && IsValidUtf8(text));
}

}  // namespace
}  // namespace ikkuna::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ikkuna;
  using namespace ikkuna::fuzz;
  FuzzInput input(data, size);
  const int before = OpenDescriptors();
  int pair[2];
  FUZZ_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
  {
    const UniqueFd ours(pair[0]), theirs(pair[1]);
    const bool daemon = input.Choice(2) == 0;
    Send(theirs.get(), MakeMessage(input), input.Choice(kDescriptorsMax + 1));
    if (daemon) {
      if (auto hello = shm::ReceiveHello(ours.get())) {
        FUZZ_CHECK(hello->pub_fd.valid());
        ExpectText(hello->hello.run_id, kMaxNameBytes);
        ExpectText(hello->hello.run, kMaxNameBytes);
      }
    } else if (auto answer = shm::ReceiveAnswer(ours.get())) {
      if (const auto* reject = std::get_if<shm::Reject>(&*answer)) ExpectText(reject->reason, shm::kMaxReasonBytes);
      if (const auto* welcome = std::get_if<shm::ReceivedWelcome>(&*answer)) FUZZ_CHECK(welcome->ctl_fd.valid());
    }
  }
  FUZZ_CHECK(OpenDescriptors() == before);
  return 0;
}
